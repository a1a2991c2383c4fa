"""The chosen core that scripts/test_matrix runs under each configuration: train, resume, evaluate, export and predict.

It trains on small real photographs below $SIGNSCLF_TEST_DATA, or else on drawn shapes, and on rendered signs. What a
configuration is comes from the environment: CORE_PRECISION, CORE_FOLDER, CORE_START, CORE_FULL_DISK, CORE_CORES, and
see conftest.py for CORE_NO_HOME, CORE_CLOCK and CORE_USERS_CACHE.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tinysource import draw_source

import signsclf
from signsclf.errors import SignsclfError
from signsclf.recipe import Recipe
from signsclf.text import file_text

pytestmark = pytest.mark.core

PRECISION = os.environ.get("CORE_PRECISION", "fp32")
PHOTOS = {"animals": ("animals/animals.zip", 8), "cifar10": ("cifar10/cifar10-subset.zip", 6)}
"""Each set of photographs: its archive, and how many images of a class are taken."""
RECIPES = {
    "animals": {"arch": "simple-cnn", "size": 48, "epochs": 2, "batch_size": 8, "lr": 1e-3},
    "cifar10": {"arch": "signnet-fast", "size": 32, "epochs": 2, "batch_size": 16, "lr": 0.02},
}


class SetAfterSomeBatches(threading.Event):
    """A training looks at it as it begins, and after each batch."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 3


def recipe(**changes) -> Recipe:
    return Recipe(weights="none", precision=PRECISION, device="cpu", add_synthetic=0).replace(**changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is read and written: a path with spaces and umlauts, where the configuration asks for one."""
    folder = tmp_path_factory.mktemp("core") / os.environ.get("CORE_FOLDER", "core")
    folder.mkdir()
    return folder


@pytest.fixture(scope="module", params=PHOTOS)
def photos(request: pytest.FixtureRequest, place: Path) -> Path:
    """A few photographs of each class as class folders."""
    folder = place / request.param
    data = os.environ.get("SIGNSCLF_TEST_DATA")
    if not data:
        return draw_source(folder, tracks=8, frames=3)  # several batches an epoch, to be stopped between
    archive, most = PHOTOS[request.param]
    taken: dict[str, int] = {}
    with zipfile.ZipFile(Path(data) / archive) as handle:
        for name in sorted(handle.namelist()):
            label = Path(name).parent.name
            if not name.lower().endswith((".jpg", ".png")) or taken.get(label, 0) == most:
                continue
            taken[label] = taken.get(label, 0) + 1
            target = folder / label / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(handle.read(name))
    assert len(taken) > 2
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, place: Path) -> Path:
    from signsclf.runs.train import train

    return train(photos, place / f"model of {photos.name}", recipe(**RECIPES[photos.name])).folder


def same_weights(one: Path, two: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_broken_run_that_is_resumed_is_the_unbroken_run(photos: Path, trained: Path, place: Path):
    from signsclf.runs.train import resume, train

    out = place / f"resumed {photos.name}"
    stopped = train(photos, out, recipe(**RECIPES[photos.name]), stop=SetAfterSomeBatches())
    assert stopped.stopped
    outcome = resume(out)
    assert outcome.folder == out
    assert same_weights(out, trained)


def test_the_exported_file_answers_as_the_network_and_as_the_command_line(
    photos: Path, trained: Path, cli: Callable[..., object]
):
    import torch

    from signsclf.training.architectures import restore_model

    files = sorted(photos.rglob("*.[jp][pn]g"))[::5]
    classifier = signsclf.load(trained)
    batch = np.stack([signsclf_pixels(file, classifier.size) for file in files])
    model, config = restore_model(trained)
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    with torch.inference_mode():
        expected = torch.softmax(model((x - mean) / std), 1).numpy()
    found = classifier.predict_batch(files)
    assert np.abs(classifier.probabilities(batch) - expected).max() < 1e-3
    ran = cli("predict", "--model", trained, *files, "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    # JSON has the names as they are on the disk, whatever the locale makes of them in Python.
    assert [row["path"] for row in rows] == [file_text(str(file)) for file in files]
    for row, prediction in zip(rows, found, strict=True):
        assert row["label"] == prediction.label
        assert row["probability"] == pytest.approx(prediction.probability, abs=1e-5)


def signsclf_pixels(file: Path, size: tuple[int, int]) -> np.ndarray:
    from signsclf import images

    return images.load(file, size)


def test_evaluate_counts_every_image_and_verify_passes(photos: Path, trained: Path, cli: Callable[..., object]):
    ran = cli("evaluate", trained, photos, "--json")
    assert ran.code == 0, ran.err
    figures = json.loads(ran.out)
    assert figures["n"] > 0
    ran = cli("verify", trained)
    assert ran.code == 0, ran.err


def test_a_finished_model_is_exported_anew_with_the_same_answers(trained: Path, place: Path):
    from signsclf.runs.export import export_run

    out = place / f"exported {trained.name}"
    export_run(trained, out)
    batch = np.random.default_rng(0).integers(0, 256, (4, *signsclf.load(out).size, 3), np.uint8)
    one, two = (signsclf.load(folder).probabilities(batch) for folder in (trained, out))
    assert np.abs(one - two).max() < 1e-4


def test_rendered_signs_train_beside_files(place: Path):
    from signsclf.data import synthetic
    from signsclf.runs.train import train

    signs = place / "signs"
    synthetic.write(signs, 2, (24, 40), 0)
    quick = {"arch": "signnet-fast", "size": 24, "epochs": 1, "batch_size": 32, "lr": 0.02, "add_synthetic": 2}
    outcome = train(signs, place / "rendered", recipe(**quick, valid_fraction=0.4, split_by="random"))
    assert outcome.metrics["n"] > 0


def test_check_reads_every_image(photos: Path, cli: Callable[..., object]):
    ran = cli("data", "check", photos, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["n"] == len(list(photos.rglob("*.[jp][pn]g")))


def answer(classifier: object, batch: np.ndarray, sink: object) -> None:
    sink.put(classifier.probabilities(batch))


@pytest.mark.parametrize("method", [os.environ.get("CORE_START", "spawn")])
def test_a_classifier_works_in_a_child_process(trained: Path, method: str):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no start method {method}")
    classifier = signsclf.load(trained)
    batch = np.random.default_rng(0).integers(0, 256, (3, *classifier.size, 3), np.uint8)
    expected = classifier.probabilities(batch)
    context = multiprocessing.get_context(method)
    sink = context.Queue()
    child = context.Process(target=answer, args=(classifier, batch, sink))
    child.start()
    try:
        found = sink.get(timeout=120)
    finally:
        child.terminate()
        child.join()
    assert np.array_equal(found, expected)


@pytest.mark.skipif("CORE_CORES" not in os.environ, reason="no CPU quota is faked")
def test_a_cpu_quota_is_heeded(trained: Path):
    from signsclf.machine import usable_cores

    assert usable_cores() == int(os.environ["CORE_CORES"])
    assert signsclf.load(trained).threads == int(os.environ["CORE_CORES"])


@pytest.mark.skipif("CORE_FULL_DISK" not in os.environ, reason="no small disk is mounted")
def test_a_disk_that_is_too_small_is_told_before_training(photos: Path, trained: Path):
    from signsclf.runs.train import train

    disk = Path(os.environ["CORE_FULL_DISK"])
    with pytest.raises((SignsclfError, OSError)) as caught:
        train(photos, disk / "model", recipe(**RECIPES["animals"]), cache=disk / "cache")
    assert isinstance(caught.value, SignsclfError) or caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    # What could be written before is left, and nothing is half there under its final name.
    assert not (disk / "model").exists()
    shutil.copytree(trained / "run", disk / "other", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
