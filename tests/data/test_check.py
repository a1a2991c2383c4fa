from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import Watched

from signsclf import images
from signsclf.data import check as check_module
from signsclf.data.check import DuplicateKind, bars, check, write_counts
from signsclf.data.table import read_source
from signsclf.errors import SignsclfError
from signsclf.observer import Observer


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two classes in train and test, 3 + 1 and 2 + 1 images, all different."""
    root = tmp_path / "clean"
    names = ("train/Stop/a", "train/Stop/b", "train/Stop/c", "test/Stop/d")
    names += ("train/Yield/a", "train/Yield/b", "test/Yield/c")
    for seed, name in enumerate(names):
        save(picture(seed), root / f"{name}.png")
    return root


def test_a_clean_source_is_ok(clean: Path) -> None:
    result = check(read_source(clean))
    assert result.ok
    assert result.n == 7
    assert (result.unreadable, result.tiny, result.duplicates) == ((), (), ())
    assert result.counts == {"Stop": {"train": 3, "test": 1}, "Yield": {"train": 2, "test": 1}}
    assert result.totals == {"Stop": 4, "Yield": 3}
    assert result.smallest == result.largest == (20, 16)


def test_unreadable_images_are_named_with_the_reason_and_still_counted(clean: Path) -> None:
    data = (clean / "train/Stop/a.png").read_bytes()
    (clean / "train/Stop/a.png").write_bytes(data[: len(data) // 2])
    (clean / "train/Stop/b.png").write_bytes(b"")
    (clean / "test/Yield/c.png").write_text("not a picture", encoding="utf-8")
    result = check(read_source(clean))
    assert not result.ok
    found = dict(result.unreadable)
    assert set(found) == {"train/Stop/a.png", "train/Stop/b.png", "test/Yield/c.png"}
    assert "truncated" in found["train/Stop/a.png"]
    assert found["train/Stop/b.png"] == "the file is empty"
    assert found["test/Yield/c.png"].startswith("not an image that can be read: a text file; ")
    assert result.n == 7
    assert result.totals == {"Stop": 4, "Yield": 3}


def test_a_source_with_nothing_readable_has_no_sizes(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"")
    result = check(read_source(tmp_path))
    assert len(result.unreadable) == 2
    assert result.smallest is None
    assert result.largest is None
    assert result.duplicates == ()


def test_tiny_images_are_those_with_a_side_under_ten_pixels(clean: Path) -> None:
    save(picture(50, 10, 10), clean / "train/Stop/ten.png")
    save(picture(51, 9, 200), clean / "train/Stop/thin.png")
    save(picture(52, 200, 9), clean / "train/Stop/flat.png")
    result = check(read_source(clean))
    assert sorted(result.tiny) == [("train/Stop/flat.png", 200, 9), ("train/Stop/thin.png", 9, 200)]
    assert result.ok
    assert result.smallest == (10, 10)
    assert result.largest == (200, 9)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("train/Stop/x.png", "train/Stop/y.png", DuplicateKind.WITHIN_CLASS),
        ("train/Stop/x.png", "train/Yield/y.png", DuplicateKind.ACROSS_CLASSES),
        ("train/Stop/x.png", "test/Stop/y.png", DuplicateKind.ACROSS_SPLITS),
        ("train/Stop/x.png", "test/Yield/y.png", DuplicateKind.ACROSS_CLASSES),
    ],
)
def test_duplicates_are_told_by_what_they_harm(clean: Path, first: str, second: str, kind: DuplicateKind) -> None:
    save(picture(60), clean / first)
    save(picture(60), clean / second)
    (found,) = check(read_source(clean)).duplicates
    assert found.kind is kind
    assert check(read_source(clean)).ok == (kind is DuplicateKind.WITHIN_CLASS)
    assert set(zip(found.paths, found.labels, found.splits, strict=True)) == {
        (path, path.split("/")[1], path.split("/")[0]) for path in (first, second)
    }


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (
            "train/Yield/y.png",
            ["train/Stop/x.png (Stop)", "train/Yield/y.png (Yield)", "1 sets of duplicates (1 across classes)"],
        ),
        ("test/Stop/y.png", ["train/Stop/x.png (train)", "test/Stop/y.png (test)", "(1 across splits)"]),
    ],
)
def test_the_command_fails_where_duplicates_contradict_each_other(
    cli, clean: Path, second: str, told: list[str]
) -> None:
    save(picture(60), clean / "train/Stop/x.png")
    assert cli("data", "check", clean).code == 0
    shutil.copy(clean / "train/Stop/x.png", clean / second)
    ran = cli("data", "check", clean)
    assert ran.code == 1
    assert all(text in ran.out for text in told), ran.out


def test_of_many_images_that_are_the_same_some_are_named(cli, tmp_path: Path) -> None:
    for i in range(25):
        save(picture(1), tmp_path / "a" / f"{i:02}.png")
    done = cli("data", "check", tmp_path)
    (line,) = [line for line in done.out.splitlines() if line.startswith("duplicates")]
    assert line.endswith("a/18.png, a/19.png and 5 more (--json names all)")


def test_a_duplicate_is_the_same_decoded_pixels_whatever_the_file(clean: Path) -> None:
    stop = clean / "train/Stop"
    save(picture(60), stop / "1.png")
    save(picture(60), stop / "2.bmp")
    save(picture(60), stop / "3.png", compress_level=0)
    save(picture(60), stop / "4.jpg")
    save(picture(60, 16, 20), stop / "5.png")
    (found,) = check(read_source(clean)).duplicates
    assert found.paths == ("train/Stop/1.png", "train/Stop/2.bmp", "train/Stop/3.png")


def test_the_same_bytes_in_another_shape_are_no_duplicate(tmp_path: Path) -> None:
    for width, height in ((16, 20), (20, 16), (10, 32)):
        save(Image.new("RGB", (width, height), "red"), tmp_path / "a" / f"{width}.png")
    save(picture(0), tmp_path / "b" / "0.png")
    assert check(read_source(tmp_path)).duplicates == ()


def test_an_image_without_a_split_is_unassigned(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        save(picture(len(name) + int(name[2])), tmp_path / name)
    result = check(read_source(tmp_path))
    assert result.counts["a"] == {"unassigned": 2}
    assert {split for found in result.duplicates for split in found.splits} == {"unassigned"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """300 images in a zip: every tenth repeats the one before, every 50th is cut off."""
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(300):
            data = io.BytesIO()
            picture(i - (i % 10 == 9)).save(data, "PNG")
            name = f"{'ab'[i % 2]}/{i:03}.png"
            file.writestr(name, data.getvalue()[: 100 if i % 50 == 25 else None])
    return path


@pytest.mark.parametrize("worth_a_thread", [0, 1e9], ids=["in threads", "one by one"])
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_an_archive_checked_in_any_number_of_threads(
    archive: Path, monkeypatch: pytest.MonkeyPatch, worth_a_thread: float, workers: int | None
) -> None:
    monkeypatch.setattr(check_module, "_MIN_SECONDS_FOR_THREADS", worth_a_thread)
    source = read_source(archive)
    position = {path: row for row, path in enumerate(map(source.relative, source.table["path"]))}
    result = check(source, workers=workers)
    assert result.n == 300
    assert {path for path, _ in result.unreadable} == {f"b/{i:03}.png" for i in range(25, 300, 50)}
    assert {frozenset(found.paths) for found in result.duplicates} == {
        frozenset({f"a/{i - 1:03}.png", f"b/{i:03}.png"}) for i in range(9, 300, 10)
    }
    assert [position[path] for path, _ in result.unreadable] == sorted(position[path] for path, _ in result.unreadable)
    assert all(list(found.paths) == sorted(found.paths, key=position.get) for found in result.duplicates)


def test_slow_images_are_decoded_in_several_threads(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()
    read = images.read

    def slow(path: str) -> bytes:
        threads.add(threading.get_ident())
        threading.Event().wait(0.002)
        return read(path)

    monkeypatch.setattr(images, "read", slow)
    check(read_source(archive), workers=3)
    assert len(threads) >= 3


def test_progress_rises_to_all_images(archive: Path) -> None:
    watched = Watched()
    check(read_source(archive), observer=watched)
    checked = [told for told in watched.progressed if told[0] == "checking"]
    assert checked == sorted(checked)
    assert len(checked) > 3
    assert checked[-1] == ("checking", 300, 300)
    assert [told[0] for told in watched.progressed[len(checked) :]] == ["comparing"] * 2


def test_an_observer_that_raises_stops_the_work(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "_MIN_SECONDS_FOR_THREADS", 0)
    monkeypatch.setattr(check_module, "_CHUNK", 8)
    started: list[str] = []
    read = images.read

    def slow(path: str) -> bytes:
        started.append(path)
        threading.Event().wait(0.005)
        return read(path)

    class Stops(Observer):
        def progress(self, task: str, done: int, total: int) -> None:
            if done > 20:
                raise KeyboardInterrupt

    monkeypatch.setattr(images, "read", slow)
    with pytest.raises(KeyboardInterrupt):
        check(read_source(archive), workers=2, observer=Stops())
    read_by_then = len(started)
    threading.Event().wait(0.1)
    assert len(started) == read_by_then < 100


def test_only_a_few_images_are_looked_at_ahead(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "_MIN_SECONDS_FOR_THREADS", 0)
    monkeypatch.setattr(check_module, "_CHUNK", 4)
    started: list[str] = []
    read = images.read

    def counted(path: str) -> bytes:
        started.append(path)
        return read(path)

    monkeypatch.setattr(images, "read", counted)
    ahead = []

    class Counts(Observer):
        def progress(self, task: str, done: int, total: int) -> None:
            if task == "checking":
                ahead.append(len(started) - done)

    check(read_source(archive), workers=2, observer=Counts())
    assert max(ahead) <= 4 * (2 * 2 + 2)


def test_the_result_is_plain_json(clean: Path) -> None:
    save(picture(60), clean / "train/Stop/x.png")
    save(picture(60), clean / "test/Stop/y.png")
    save(picture(61, 4, 5), clean / "train/Yield/tiny.png")
    (clean / "train/Yield/bad.png").write_bytes(b"")
    got = json.loads(json.dumps(check(read_source(clean)).to_dict()))
    assert got["ok"] is False
    assert got["n"] == 11
    assert got["unreadable"] == [{"path": "train/Yield/bad.png", "reason": "the file is empty"}]
    assert got["tiny"] == [{"path": "train/Yield/tiny.png", "width": 4, "height": 5}]
    (found,) = got["duplicates"]
    assert found["kind"] == "across splits"
    assert set(found["splits"]) == {"train", "test"}
    assert got["counts"] == {"Stop": {"train": 4, "test": 2}, "Yield": {"train": 4, "test": 1}}
    assert got["smallest"] == [4, 5]
    assert got["largest"] == [20, 16]


def test_counts_are_written_as_csv_and_picture(clean: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "counts"
    paths = write_counts(check(read_source(clean)), folder)
    assert [path.name for path in paths] == ["class_counts.csv", "class_counts.png"]
    assert sorted(folder.iterdir()) == sorted(paths), "something else was left behind"
    with paths[0].open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"label": "Stop", "images": "4", "train": "3", "test": "1"},
            {"label": "Yield", "images": "3", "train": "2", "test": "1"},
        ]
    assert images.decode(paths[1].read_bytes()).width > 300


def test_counts_that_cannot_be_written_are_said_so(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    with pytest.raises(SignsclfError, match="taken: cannot be created") as caught:
        write_counts(check(read_source(clean)), tmp_path / "taken")
    assert "\n" not in str(caught.value)


def test_bars_are_as_long_as_the_counts(tmp_path: Path) -> None:
    for label, count in (("common", 40), ("half", 20), ("rare", 1)):
        for i in range(count):
            save(picture(i, 10, 10), tmp_path / label / f"{i}.png")
    lines = bars(check(read_source(tmp_path)), width=60)
    assert [line.split()[:2] for line in lines] == [["common", "40"], ["half", "20"], ["rare", "1"]]
    common, half, rare = (line.count("█") for line in lines)
    assert max(map(len, lines)) == 60
    assert abs(common - 2 * half) <= 1
    assert rare == 1


def test_bars_shorten_long_names_and_show_empty_classes() -> None:
    result = check_module.CheckResult(
        n=1000,
        unreadable=(),
        tiny=(),
        duplicates=(),
        counts={"x" * 200: {"train": 1000}, "one": {"train": 1}, "none": {"train": 0}},
        smallest=None,
        largest=None,
    )
    long, one, empty = bars(result, width=50)
    assert len(long) == 50
    assert "…" in long
    assert one.split() == ["one", "1", "█"], "one image must not look like none"
    assert empty.split() == ["none", "0"]


def soft(seed: int) -> Image.Image:
    """A picture that survives JPEG, unlike noise."""
    return picture(seed, 6, 6).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """Two splits of one class and a second class: a photo saved again as JPEG in each, and one stored twice."""
    for seed, name in enumerate(("train/a/0", "train/a/1", "test/a/2", "train/b/3", "test/b/4")):
        save(soft(seed), tmp_path / f"{name}.png")
    save(soft(0), tmp_path / "test/a/again.jpg", quality=75)
    save(soft(0), tmp_path / "train/b/other.jpg", quality=60)
    save(soft(3), tmp_path / "train/b/same.png")
    return tmp_path


def test_near_duplicates_of_one_class_are_listed_and_no_reason_to_stop(near: Path) -> None:
    result = check(read_source(near))
    (found,) = result.near_duplicates
    assert set(found.paths) == {"train/a/0.png", "test/a/again.jpg"}
    assert found.kind is DuplicateKind.ACROSS_SPLITS
    assert [set(same.paths) for same in result.duplicates] == [{"train/b/3.png", "train/b/same.png"}]
    assert result.ok
    assert json.loads(json.dumps(result.to_dict()))["near_duplicates"][0]["kind"] == "across splits"


def test_images_with_a_group_are_not_compared(near: Path) -> None:
    source = read_source(near)
    source.table["group"][:] = [f"object {i}" for i in range(len(source.table))]
    assert check(source).near_duplicates == ()


def test_descriptions_in_chunks_find_the_same(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "_DESCRIBED", 3)
    assert len(check(read_source(near)).near_duplicates) == 1
