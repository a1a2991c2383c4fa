"""What can fail at the end is tried before the first epoch."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch
from tinysource import TINY, one_thread

from signsclf.choices import Int8Policy
from signsclf.data.cache import Cache
from signsclf.errors import ModelError, ParityError
from signsclf.export import onnx as export
from signsclf.export.golden import noise_images
from signsclf.export.onnx import torch_logits
from signsclf.model import folder as modelfolder
from signsclf.observer import Observer
from signsclf.recipe import Recipe
from signsclf.runs import preflight
from signsclf.runs.building import build_network
from signsclf.runs.prepare import read_plan
from signsclf.runs.train import train

RECIPE = Recipe(**TINY)
Usage = namedtuple("Usage", "total used free")


class Watched(Observer):
    """Keeps what is said, and knows whether training began."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.began = False

    def say(self, line: str) -> None:
        self.lines.append(line)

    def training_began(self) -> None:
        self.began = True

    def progress(self, task: str, done: int, total: int) -> None:
        self.began = self.began or task == "decoding"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(preflight, "_passed", set())
    with one_thread():
        yield


def planned(source, **changes):
    return read_plan(source, None, RECIPE.replace(**changes), Observer())


def check(source, out, int8=Int8Policy.NONE, cache=None, observer=None, **changes):
    plan = planned(source, **changes)
    model = build_network(plan, Observer())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    leave = preflight.preflight(plan, model, out, int8, cache, observer or Observer())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return leave


@pytest.mark.parametrize("arch", ["signnet", "linear-regression", "numpy-mlp"])
def test_it_says_what_it_checked_and_leaves_nothing(source, tmp_path, arch):
    watched = Watched()
    assert check(source, tmp_path / "m", arch=arch, observer=watched, lr=None) == 0
    disk, checked = watched.lines
    assert disk.startswith("disk: the run needs up to ")
    assert "1.3 times" in disk
    assert checked.startswith("checked: export, disk, output folder (")
    assert list(tmp_path.iterdir()) == []
    check(source, tmp_path / "n", arch=arch, observer=watched, lr=None)
    assert watched.lines[-1].startswith("checked: export (as before), disk, output folder (")


@pytest.mark.parametrize("trouble", ["export", "parity", "readers"])
def test_an_architecture_that_fails_at_the_end_fails_before_an_image_is_decoded(source, tmp_path, monkeypatch, trouble):
    def fail(*args):
        raise ModelError("export: torch cannot export this architecture to ONNX (so it is); choose another")

    error, match = ModelError, "cannot export this architecture"
    if trouble == "export":
        monkeypatch.setattr(export, "_write_onnx", fail)
    elif trouble == "parity":
        monkeypatch.setattr(export, "PARITY_TOLERANCE", -1.0)
        error, match = ParityError, "differs from the network"
    else:
        monkeypatch.setattr("signsclf.runs.writer.readers", fail)
    watched = Watched()
    with pytest.raises(error, match=match):
        train(source, tmp_path / "m", RECIPE, observer=watched, cache=tmp_path / "cache")
    assert not watched.began
    assert list(tmp_path.iterdir()) == []


def test_a_deep_network_of_random_weights_is_tamed_before_it_is_compared(source):
    plan = planned(source, arch="resnet50", weights="none", size=32)
    model = build_network(plan, Observer())
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.mul_(3)
    pixels = noise_images(8, (32, 32))
    assert torch_logits(model.eval(), plan.arch, pixels).std() > 1000
    tamed = preflight._tamed(model, plan.arch, 3, pixels)
    assert 0 < torch_logits(tamed, plan.arch, pixels).std() < 1.5


def test_a_disk_without_the_space_is_refused_with_the_figures(source, tmp_path, monkeypatch):
    plain = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(ModelError, match=r"the run needs up to \d+ MB of disk space and 1 MB are free; free some, or"):
        check(source, tmp_path / "m")
    monkeypatch.setattr(shutil, "disk_usage", plain)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_export(monkeypatch):
    monkeypatch.setattr(preflight, "_export", lambda *args: None)


def test_the_cache_leaves_the_run_its_space(source, tmp_path, no_export):
    watched = Watched()
    leave = check(source, tmp_path / "m", cache=Cache(folder=tmp_path / "none yet" / "cache"), observer=watched)
    assert leave > 20_000_000
    assert "the cache takes up to 0 MB" in watched.lines[0]
    assert check(source, tmp_path / "m", cache=None) == 0


def test_an_output_folder_that_cannot_be_renamed_is_told_first(source, tmp_path, monkeypatch, no_export):
    def refuse(*args, **kwargs):
        raise ModelError("m: cannot be put in place (Permission denied); it is in m.partial")

    monkeypatch.setattr(modelfolder, "publish", refuse)
    watched = Watched()
    with pytest.raises(ModelError, match="cannot be put in place"):
        train(source, tmp_path / "m", RECIPE, observer=watched)
    assert not watched.began
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_check_left_goes_and_nothing_else(source, tmp_path, no_export):
    for name in (".m.check-abcd_12", ".m.check-abcd_12.done", ".m.check-x.y", ".other.check-abcd_12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    check(source, tmp_path / "m")
    assert {path.name for path in tmp_path.iterdir()} == {".m.check-x.y", ".other.check-abcd_12"}


def test_int8_is_tried_and_its_failure_is_a_warning(source, tmp_path, monkeypatch):
    def fail(*args):
        raise KeyError("no such node")

    monkeypatch.setattr("signsclf.export.int8._quantize", fail)
    watched = Watched()
    check(source, tmp_path / "m", Int8Policy.CHECKED, observer=watched)
    assert "warning: int8: failed: 'no such node'; training continues, and will end without model.int8.onnx" in (
        watched.lines
    )
    assert list(tmp_path.iterdir()) == []
