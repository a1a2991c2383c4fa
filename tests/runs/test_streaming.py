"""Training from the three kinds of pixels: in memory, mapped from the cache, and streamed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import TINY, Watched, run_command, weights

from signsclf.data import cache
from signsclf.data.pixels import StreamedPixels
from signsclf.errors import SourceError
from signsclf.model.folder import read_config
from signsclf.recipe import Recipe
from signsclf.runs.train import resume, train

RECIPE = Recipe(**TINY)
KINDS = ["off", "mapped", "stream"]


@pytest.fixture
def kind_of(tmp_path, monkeypatch):
    """The value of --cache for a kind of pixels, with a user's cache of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    return lambda kind: str(tmp_path / "cache") if kind == "mapped" else kind


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_end_in_the_same_weights_and_figures(kind, kind_of, source, model, tmp_path):
    folder = train(source, tmp_path / "m", RECIPE, cache=kind_of(kind)).folder
    assert weights(folder) == weights(model)
    assert read_config(folder).figures["valid"] == read_config(model).figures["valid"]
    for name in ("split.csv", "predictions.csv"):
        assert (folder / "run" / name).read_bytes() == (model / "run" / name).read_bytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_resume_in_the_middle_of_an_epoch(kind, kind_of, source, model, tmp_path):
    watched = Watched(stop_after=0)
    stopped = train(source, tmp_path / "m", RECIPE, cache=kind_of(kind), observer=watched, stop=watched.stop)
    assert stopped.stopped and not any(hasattr(event, "row") for event in watched.events)
    # Another kind may end what this one began.
    following = KINDS[KINDS.index(kind) - 1]
    assert weights(resume(stopped.folder, cache=kind_of(following)).folder) == weights(model)


def test_a_streamed_run_keeps_digests_and_no_pixels(source, tmp_path, kind_of):
    watched = Watched()
    train(source, tmp_path / "m", RECIPE.replace(epochs=1), cache=kind_of("stream"), observer=watched)
    assert "images: streamed, decoded anew in every epoch" in watched.lines
    [entry] = [path for path in (tmp_path / "users" / "signsclf").iterdir() if path.is_dir()]
    assert [path.name for path in entry.iterdir()] == ["digests.json"]
    again = Watched()
    train(source, tmp_path / "again", RECIPE.replace(epochs=1), cache=kind_of("stream"), observer=again)
    assert "decoding" in {task for task, *_ in watched.progressed}
    assert "decoding" not in {task for task, *_ in again.progressed}


def test_an_image_that_changes_meanwhile_stops_the_run_by_name_and_it_resumes(source, model, tmp_path, kind_of):
    own = Path(shutil.copytree(source, tmp_path / "own"))
    image = min(own.rglob("00001_00001.png"))
    kept = image.read_bytes()
    watched = Watched(before=lambda: Image.new("RGB", (20, 20)).save(image))
    with pytest.raises(SourceError, match=rf"{image.name}: other pixels than at the start; .*--resume"):
        train(own, tmp_path / "m", RECIPE, cache=kind_of("stream"), observer=watched)
    with pytest.raises(SourceError, match=r"have changed since the run began.*00001_00001"):
        resume(tmp_path / "m", cache=kind_of("stream"))
    image.write_bytes(kept)
    assert weights(resume(tmp_path / "m", cache=kind_of("stream")).folder) == weights(model)


def test_auto_maps_then_keeps_in_memory_then_streams_and_says_why(source, tmp_path, kind_of, monkeypatch):
    from signsclf.data.table import read_source

    table = read_source(source).table

    why = "cache: 1 MB of pixels are more than it keeps (1 MB); --cache DIR keeps them"

    def decoded() -> tuple[object, list[str]]:
        watched = Watched()
        return cache.decode_all(table, 64, cache.choose_cache("auto"), watched).pixels, watched.lines

    assert isinstance(decoded()[0], np.memmap)
    shutil.rmtree(tmp_path / "users")
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", 1_000_000)
    pixels, lines = decoded()
    assert type(pixels) is np.ndarray
    assert lines == [
        f"{why}; decoding into memory for this run only",
    ]
    monkeypatch.setattr(cache, "available_memory", lambda: 1_500_000)
    pixels, lines = decoded()
    assert isinstance(pixels, StreamedPixels)
    assert lines == [
        why,
        "memory: 1 MB of pixels are more than it may take (1 MB)",
        "images: streamed, decoded anew in every epoch",
    ]


@pytest.mark.slow
@pytest.mark.scale
def test_several_processes_stream_to_the_weights_of_one(source, tmp_path):
    shared = [*(f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()), "--shards", "2"]
    for name, options in (("one", ["--cache", "off"]), ("two", ["--cache", "stream", "--processes", "2"])):
        ran = run_command("train", source, "--out", tmp_path / name, *shared, *options)
        assert ran.code == 0, ran.err
    assert "streamed" in ran.err
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
