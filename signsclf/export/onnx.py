"""Export a trained network to the files of a model folder, if ONNX Runtime passes the parity check with it."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import onnx_ir as ir
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from signsclf.errors import ModelError, ParityError, first_line
from signsclf.export.graphs import graph
from signsclf.inference import runtime
from signsclf.metrics.calibrate import softmax
from signsclf.model import folder as modelfolder
from signsclf.training.architectures import Architecture, Family, body_and_head, classifier_name
from signsclf.training.learner import stock_learner

PARITY_TOLERANCE = 1e-3
PARITY_IMAGES = 256


@dataclass(frozen=True)
class Parity:
    """The result of a parity check: model.onnx against the network in fp32, on images read from their files.

    Attributes:
        n: images compared.
        max_difference: of any probability.
        top1_differs: images whose best class differs although the two best are over the tolerance apart.
    """

    n: int
    max_difference: float
    top1_differs: int

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as JSON values, with the tolerance."""
        return {**asdict(self), "tolerance": PARITY_TOLERANCE}


class _Exported(nn.Module):
    """The network with normalisation inside: uint8 images in, logits and the last feature map out."""

    def __init__(self, model: nn.Module, arch: Architecture, with_features: bool) -> None:
        super().__init__()
        self.body, self.head = body_and_head(model, arch)
        self.with_features = with_features
        mean, std = torch.tensor(arch.mean), torch.tensor(arch.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (mean / std).view(1, 3, 1, 1))

    def forward(self, image: torch.Tensor):
        features = self.body(image.permute(0, 3, 1, 2).float() * self.scale - self.shift)
        logits = self.head(features)
        return (logits, features) if self.with_features else logits


def fold_temperature(model: nn.Module, n_classes: int, temperature: float) -> nn.Module:
    """Divide the last linear layer's weight and bias by the temperature, in place, so that every reader applies it."""
    layer = model.get_submodule(classifier_name(model, n_classes))
    with torch.no_grad():
        layer.weight.div_(temperature)
        if layer.bias is not None:
            layer.bias.div_(temperature)
    return model


def torch_logits(model: nn.Module, arch: Architecture, pixels: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Compute the network's logits in eval mode on the CPU in fp32: float32 (N, C) for uint8 (N, H, W, 3)."""
    exported = _Exported(model, arch, with_features=False).eval()
    with torch.inference_mode():
        parts = [
            exported(torch.from_numpy(np.ascontiguousarray(pixels[i : i + batch_size])))
            for i in range(0, len(pixels), batch_size)
        ]
    return torch.cat(parts).numpy()


class ExportedNetwork:
    """A network as an ONNX graph, before its files are in the folder; a context manager.

    The temperature is fitted on the graph's own logits and then folded into graph and network, so that one pass over
    the validation images gives both the temperature and the figures of the file.

    Args:
        folder: where `write` puts the files.
        model: the whole network; a copy of it is exported.
        classes: in index order.
        size: side of the images in pixels.
        pixels: uint8 (N, size, size, 3) of images read from their files, for the parity check; N ≥ 1.

    Attributes:
        model: the copy, on the CPU in fp32 and eval mode.
        classifier_weight: name of the classifier's weight where the graph gives a feature map that it applies to.

    Raises:
        ModelError: the network cannot be exported.
    """

    def __init__(
        self, folder: Path, model: nn.Module, arch: Architecture, classes: Sequence[str], size: int, pixels: np.ndarray
    ) -> None:
        self.folder, self.arch, self.classes, self.size, self.pixels = folder, arch, classes, size, pixels
        self.model = copy.deepcopy(model).cpu().float().eval()
        classifier = _map_classifier(self.model, arch, len(classes), pixels[:2])
        self.classifier_weight = classifier and f"{classifier}.weight"
        self._module = _Exported(self.model, arch, classifier is not None).eval()
        self._path = folder / (modelfolder.ONNX + ".new")
        _write_onnx(self._path, self._module, classes, size)

    def __enter__(self) -> ExportedNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Run the graph: float32 (N, C) for uint8 (N, size, size, 3)."""
        return _run_graph(self._path, pixels)

    def fold(self, temperature: float) -> None:
        """Divide the classifier by the temperature, in the network and in the graph."""
        fold_temperature(self.model, len(self.classes), temperature)
        _write_onnx(self._path, self._module, self.classes, self.size)

    def write(self, learner: bool = False) -> Parity:
        """Write model.onnx, model.safetensors and, if asked, learner.pkl, once the graph has passed the parity check.

        Raises:
            ParityError: ONNX Runtime does not answer as the network does; then none of the files is there.
            ModelError: a file cannot be written.
        """
        model, folder = self.model, self.folder
        onnx_path, weights_path = folder / modelfolder.ONNX, folder / modelfolder.WEIGHTS
        parity = compare(self._path, torch_logits(model, self.arch, self.pixels), self.pixels)
        if parity.top1_differs or not parity.max_difference <= PARITY_TOLERANCE:
            raise ParityError(
                f"export: model.onnx differs from the network by {parity.max_difference:.2g} in probability and in "
                f"the best class of {parity.top1_differs} of {parity.n} images (allowed: {PARITY_TOLERANCE:g} and 0); "
                "nothing was written; try another --arch, and report this one"
            )
        state = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
        with _writing(folder):
            save_file(state, weights_path, metadata={"format": "pt"})
            # safetensors lets nobody but the owner read it.
            shutil.copymode(self._path, weights_path)
            if learner:
                _write_learner(folder / modelfolder.LEARNER, model, self.arch, self.classes, self.size)
            self._path.replace(onnx_path)
        return parity


def write_network(
    folder: Path,
    model: nn.Module,
    arch: Architecture,
    classes: Sequence[str],
    size: int,
    pixels: np.ndarray,
    *,
    learner: bool = False,
) -> tuple[Parity, str | None]:
    """Export a network whose temperature is folded in, see `ExportedNetwork`.

    Returns:
        The result of the parity check, and `ExportedNetwork.classifier_weight`.

    Raises:
        ParityError, ModelError: see `ExportedNetwork`.
    """
    with ExportedNetwork(folder, model, arch, classes, size, pixels) as network:
        return network.write(learner), network.classifier_weight


def _run_graph(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = runtime.open_session(path)
    parts = [session.run(["logits"], {"image": pixels[i : i + 64]})[0] for i in range(0, len(pixels), 64)]
    return np.concatenate(parts)


def compare(onnx_path: Path, expected: np.ndarray, pixels: np.ndarray) -> Parity:
    """Run model.onnx on the images, and compare its probabilities with those of the expected logits (N, C)."""
    ours, theirs = softmax(_run_graph(onnx_path, pixels)), softmax(expected)
    best = np.sort(theirs, axis=1)
    clear = best[:, -1] - best[:, -2] > PARITY_TOLERANCE if best.shape[1] > 1 else np.ones(len(best), bool)
    differs = (ours.argmax(1) != theirs.argmax(1)) & clear
    difference = np.abs(ours - theirs).max()
    return Parity(len(pixels), float(difference) if np.isfinite(difference) else float("inf"), int(differs.sum()))


def readers(model: nn.Module, arch: Architecture, n_classes: int, pixels: np.ndarray) -> tuple[str, ...]:
    """List who reads the folder: timm and transformers if timm's network of that name gives the same probabilities."""
    found = ["onnxruntime", "signsclf"]
    if arch.family in (Family.TIMM, Family.TORCHVISION):
        import timm

        if timm.is_model(arch.name):
            twin = timm.create_model(arch.name, pretrained=False, num_classes=n_classes)
            try:
                twin.load_state_dict(model.state_dict())
            except RuntimeError:
                return tuple(found)
            as_timm = replace(arch, tag="", family=Family.TIMM)
            theirs = softmax(torch_logits(twin, as_timm, pixels))
            if np.abs(theirs - softmax(torch_logits(model, arch, pixels))).max() < 1e-4:
                found += ["timm", "transformers"]
    return tuple(found)


def _map_classifier(model: nn.Module, arch: Architecture, n_classes: int, pixels: np.ndarray) -> str | None:
    """Name the classifier if its input is the mean of the feature map, as class activation maps need; else None."""
    name = classifier_name(model, n_classes)
    layer = model.get_submodule(name)
    exported = _Exported(model, arch, with_features=True).eval()
    with torch.inference_mode():
        logits, features = exported(torch.from_numpy(np.ascontiguousarray(pixels)))
        if not isinstance(layer, nn.Linear) or features.ndim != 4 or features.shape[1] != layer.in_features:
            return None
        return name if torch.allclose(layer(features.mean((2, 3))), logits, atol=1e-3) else None


def _write_onnx(path: Path, module: nn.Module, classes: Sequence[str], size: int) -> None:
    try:
        model = graph(module, size, ["logits", "features"] if module.with_features else ["logits"])
    # The exporter's errors have many types; the architecture is the user's choice.
    except Exception as error:
        reason = first_line(error)[:160]
        raise ModelError(f"export: torch cannot export this architecture to ONNX ({reason}); choose another") from error
    model.metadata_props["labels"] = json.dumps(list(classes), ensure_ascii=False)
    try:
        with _writing(path.parent):
            ir.save(model, path)
    except ModelError:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    # A full disk is an OSError, safetensors' own error, or a RuntimeError of torch's zip writer.
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ModelError(f"{folder}: cannot be written ({reason}); free some space and try again") from error


def _write_learner(path: Path, model: nn.Module, arch: Architecture, classes: Sequence[str], size: int) -> None:
    learner = stock_learner(copy.deepcopy(model), classes, (size, size), arch.mean, arch.std)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Absolute, so that the learner's own path, which is shipped with it, stays the working directory.
        learner.export(path.absolute(), pickle_module=SimpleNamespace(__name__="signsclf", Pickler=_ByName))


class _ByName(cloudpickle.Pickler):
    """Pickle fastai's class methods by name. cloudpickle would copy their bytecode, which no other Python version
    reads, and the path of the file they were installed in.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType) and obj.__module__.startswith("fastai."):
            owner, _, name = obj.__qualname__.rpartition(".")
            found = getattr(sys.modules[obj.__module__], owner, None)
            if getattr(getattr(found, name, None), "__func__", None) is obj:
                return attrgetter(f"{name}.__func__"), (found,)
        return super().reducer_override(obj)
