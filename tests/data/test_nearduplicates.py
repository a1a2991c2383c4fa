"""Near-duplicates: copies of a photo are found after what programs and people do to it, different photos are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from signsclf.data import nearduplicates
from signsclf.data.nearduplicates import (
    describe,
    describe_all,
    group_near_duplicates,
    have_near_duplicates,
    names_of_groups,
    thumbnail,
)
from signsclf.data.table import read_source
from signsclf.observer import Observer
from signsclf.recipe import Recipe, SplitBy
from signsclf.runs.prepare import plan, prepare

TINY = {"arch": "signnet", "size": 32, "epochs": 1, "batch_size": 16, "lr": 0.02, "precision": "fp32", "device": "cpu"}


def photo(seed: int, side: int = 160) -> Image.Image:
    """Smooth patches of colour and fine texture: every seed another picture."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(40, 200, (6, 6, 3), dtype=np.uint8))
    coarse = patches.resize((side, side), Image.Resampling.BICUBIC)
    texture = rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + texture, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=30)
    return Image.open(data).convert("RGB")


def crop(image: Image.Image) -> Image.Image:
    cut = round(0.02 * image.width)
    return image.crop((cut, cut, image.width - cut, image.height - cut))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": jpeg,
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "wide": lambda image: image.resize((300, 200)),
    "crop": crop,
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
}


def grouped(pictures: list[Image.Image], labels: list[str] | None = None) -> list[int]:
    described = describe(np.stack([thumbnail(picture) for picture in pictures]))
    return group_near_duplicates(described, labels or ["x"] * len(pictures)).tolist()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_in_its_photos_group_and_other_photos_are_not(change):
    photos = [photo(seed) for seed in range(40)]
    assert grouped([*photos, *map(change, photos)]) == [*range(40), *range(40)]


def test_photos_of_other_classes_are_not_compared():
    assert grouped([photo(0), jpeg(photo(0)), photo(0)], ["a", "b", "a"]) == [0, 1, 0]


def test_chains_are_one_group_across_blocks(monkeypatch):
    monkeypatch.setattr(nearduplicates, "_BLOCK", 3)
    photos = [photo(seed) for seed in range(5)]
    order = [0, 1, 2, 3, 4, 2, 1, 0, 4, 1]
    assert grouped([photos[i] for i in order]) == order


def test_frames_whose_ends_differ_are_connected_by_those_between():
    one, other = (np.asarray(photo(seed), dtype=float) for seed in (1, 2))
    frames = [Image.fromarray((one + (other - one) * k / 30).astype(np.uint8)) for k in range(31)]
    assert set(grouped(frames)) == {0}
    assert grouped([frames[0], frames[-1]]) == [0, 1]


FRAMES = 12
"""Frames of an object."""


def described_objects(drawn: Callable[[np.random.Generator, int], np.ndarray], n: int = 6) -> np.ndarray:
    """Describe frames of so many objects: ``drawn`` gives an object's unit vectors of a length, (frames, length)."""
    rng = np.random.default_rng(0)
    lengths = nearduplicates._LAYOUT, nearduplicates.DESCRIBED - nearduplicates._LAYOUT
    return np.concatenate([np.concatenate([drawn(rng, length) for length in lengths], axis=1) for _ in range(n)])


def scattered(cosine: float, frames: int = FRAMES) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Frames of an object at about this cosine from each other, and at about none from those of others."""
    spread = (1 / cosine - 1) ** 0.5

    def drawn(rng: np.random.Generator, length: int) -> np.ndarray:
        axes = np.linalg.qr(rng.normal(size=(length, frames + 1)))[0].T
        return unit(axes[0] + spread * axes[1:])

    return drawn


def turning(*angles: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Frames of an object that turns to these angles, in radians."""

    def drawn(rng: np.random.Generator, length: int) -> np.ndarray:
        one, other = np.linalg.qr(rng.normal(size=(length, 2)))[0].T
        return np.cos(angles)[:, None] * one + np.sin(angles)[:, None] * other

    return drawn


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def grouped_objects(
    drawn: Callable[[np.random.Generator, int], np.ndarray], n: int = 6, usual: int = FRAMES, **chosen: float
) -> list[list[int]]:
    """The groups of each object's frames, as positions among them.

    Beside it, in another class, is an object whose close frames tell how many frames objects usually have.
    """
    close = described_objects(turning(*0.01 * np.arange(usual)), 1)
    described = described_objects(drawn, n)
    labels = ["x"] * len(described) + ["close"] * usual
    groups = group_near_duplicates(np.concatenate([described, close]), labels, **chosen)
    assert set(groups[len(described) :].tolist()) == {len(described)}
    return (groups[: len(described)].reshape(n, -1) - np.arange(n)[:, None] * (len(described) // n)).tolist()


def test_frames_much_closer_to_each_other_than_to_other_objects_are_one_group():
    apart = [list(range(FRAMES))] * 6
    assert grouped_objects(scattered(0.9)) == [[0] * FRAMES] * 6
    assert grouped_objects(scattered(0.9), max_ratio=0.0) == apart
    assert grouped_objects(scattered(0.55)) == apart
    # The same distance is too far where the class's objects are as close.
    assert grouped_objects(scattered(0.9), 1) == apart[:1]


def test_other_objects_are_looked_for_beyond_as_many_images_as_objects_have():
    # The list ends within the object, whose frames are all as far.
    assert grouped_objects(scattered(0.9), usual=FRAMES // 2) == [list(range(FRAMES))] * 6
    # It ends in the third object.
    assert grouped_objects(scattered(0.9), usual=FRAMES * 2) == [[0] * FRAMES] * 6
    # Most of the images are not others.
    assert grouped_objects(scattered(0.9), usual=FRAMES * 3) == [list(range(FRAMES))] * 6


def test_what_is_nearest_by_far_is_no_near_duplicate_at_a_great_distance():
    assert grouped_objects(scattered(0.45), max_ratio=0.9) == [list(range(FRAMES))] * 6
    assert grouped_objects(scattered(0.6), max_ratio=0.9) == [[0] * FRAMES] * 6


def test_the_ratio_is_found_across_blocks(monkeypatch):
    described = np.concatenate(
        [described_objects(scattered(0.9)), described_objects(turning(*0.01 * np.arange(12)), 1)]
    )
    order = np.random.default_rng(1).permutation(len(described))
    whole = group_near_duplicates(described[order], ["x"] * len(described))
    monkeypatch.setattr(nearduplicates, "_BLOCK", 7)
    assert group_near_duplicates(described[order], ["x"] * len(described)).tolist() == whole.tolist()
    assert len(set(whole.tolist())) == 7


@pytest.mark.parametrize("length", [2, 6])
def test_short_bursts_stay_apart(length):
    photos = [photo(seed) for seed in range(40)]
    pictures = [one.resize((90 + 3 * k, 90)) for one in photos for k in range(length)]
    assert grouped(pictures) == np.repeat(np.arange(40) * length, length).tolist()


def test_images_without_contrast_are_close_to_nothing():
    flat = [Image.new("RGB", (50, 50), colour) for colour in ("white", "white", "black", "#808080")]
    assert grouped(flat) == [0, 1, 2, 3]
    many = [photo(0), photo(0), *[Image.new("RGB", (50, 50), "white")] * 60]
    assert grouped(many) == [0, 0, *range(2, 62)]


def test_a_class_whose_images_all_look_alike_does_not_become_one_group(monkeypatch):
    monkeypatch.setattr(nearduplicates, "LARGEST", 4)
    base = np.asarray(photo(3), dtype=float)
    others = [np.asarray(photo(100 + i), dtype=float) for i in range(20)]
    alike = [Image.fromarray((0.87 * base + 0.13 * other).astype(np.uint8)) for other in others]
    described = describe(np.stack([thumbnail(image) for image in alike]))
    groups = group_near_duplicates(described, ["x"] * 20)
    assert len(set(groups.tolist())) > 4
    monkeypatch.setattr(nearduplicates, "LARGEST", 50)
    assert len(set(group_near_duplicates(described, ["x"] * 20).tolist())) < 4


def test_chunks_and_rows_are_described_as_one_by_one(monkeypatch):
    pixels = np.stack([np.asarray(photo(seed, 48)) for seed in range(5)])
    whole = describe_all(pixels)
    monkeypatch.setattr(nearduplicates, "_BLOCK", 2)
    assert np.allclose(describe_all(pixels, np.array([4, 0, 2])), whole[[4, 0, 2]], atol=1e-6)
    assert describe_all(pixels[:0]).shape == (0, whole.shape[1])


def test_images_with_a_near_duplicate_of_their_class_among_others_are_told(monkeypatch):
    monkeypatch.setattr(nearduplicates, "_BLOCK", 2)
    described = describe_all(np.stack([np.asarray(photo(seed)) for seed in range(5)]))
    others = describe_all(np.stack([np.asarray(jpeg(photo(seed))) for seed in (9, 8, 3, 1, 4, 7)]))
    found = have_near_duplicates(described, ["a", "a", "b", "b", "b"], others, ["a", "b", "b", "a", "a", "a"])
    assert found.tolist() == [False, True, False, True, False]
    assert not have_near_duplicates(described, ["a"] * 5, others[:0], []).any()


def test_groups_of_one_have_no_name():
    assert names_of_groups(np.array([0, 1, 0, 3])) == ["near 0", "", "near 0", ""]


class Told(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def bursts(tmp_path):
    """Two classes of eight photos, each photo three times, with names that tell nothing."""
    for k, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        for i in range(8):
            one = photo(100 * k + i)
            for j, copy in enumerate((one, jpeg(one), ImageEnhance.Brightness(one).enhance(0.8))):
                copy.save(tmp_path / label / f"{(7 * i + 11 * j) % 97:02}{i}{j}.png")
    return tmp_path


def sides_of_photos(split) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = {}
    for path, side in zip(split.table["path"], split.table["split"], strict=True):
        folder, name = path.split("/")[-2:]
        sides.setdefault(f"{folder}/{name[2]}", set()).add(side)
    return sides


def test_the_split_keeps_near_duplicates_together_and_says_so(bursts):
    told = Told()
    found = prepare(plan(read_source(bursts), Recipe(**TINY)), False, told)
    sides = sides_of_photos(found.split)
    assert len(sides) == 16 and all(len(side) == 1 for side in sides.values())
    assert len(found.split.rows("valid"))
    assert [line for line in told.said if "48 images are near-duplicates" in line and "16 groups" in line]


@pytest.mark.parametrize("by", [SplitBy.KNOWN, SplitBy.RANDOM])
def test_other_splits_do_not_look_for_them(bursts, by):
    told = Told()
    found = prepare(plan(read_source(bursts), Recipe(**TINY, split_by=by)), False, told)
    assert any(len(side) == 2 for side in sides_of_photos(found.split).values())
    assert not [line for line in told.said if "near-duplicates" in line]


def test_groups_of_the_source_stay_as_they_are(bursts):
    rows = [f"{path.relative_to(bursts).as_posix()},{path.parent.name},{path.stem}" for path in bursts.rglob("*.png")]
    (bursts / "labels.csv").write_text("\n".join(["path,label,group", *rows]))
    found = prepare(plan(read_source(bursts), Recipe(**TINY)), False, Observer())
    assert sorted(found.split.table["group"]) == sorted(path.stem for path in bursts.rglob("*.png"))
