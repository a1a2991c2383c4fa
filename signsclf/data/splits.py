"""Recognise splits, and folders that are not classes, by the words of their names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Sequence
from functools import lru_cache

UNLABELLED = "unlabelled"

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
"""The plain names of splits, in lower case, to those of the table."""
_ROLES = {
    **SPLITS,
    **dict.fromkeys(("trainval", "trn"), "train"),
    **dict.fromkeys(("validate", "validating"), "valid"),
    "tst": "test",
    **dict.fromkeys(("dev", "devel", "development", "eval", "evaluation"), "valid"),
    **dict.fromkeys(("pred", "prediction", "predictions", "predict", "unlabeled", "unlabelled"), UNLABELLED),
}
# fmt: off
_IMAGES = frozenset((
    "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "pic", "pics",
    "jpg", "jpeg", "jpegs", "png", "pngs", "rgb",
))
_NEUTRAL = _IMAGES | {
    "set", "sets", "data", "dataset", "datasets", "split", "splits", "part", "folder", "folders", "dir",
    "file", "files", "sample", "samples", "seg", "cls", "class", "classes", "classification", "object",
    "objects", "labeled", "labelled", "raw", "full", "final", "all", "cropped", "crops", "resized", "zip",
}
_ANNOTATIONS = frozenset((
    "annotation", "annotations", "annot", "annots", "mask", "masks", "segmentation", "segmentations", "trimap",
    "trimaps", "label", "labels", "bbox", "bboxes", "groundtruth", "gt", "xml", "xmls", "txt", "json",
    "contours", "keypoints",
))
# fmt: on
_LONGEST_RUN = 60
"""Longer runs of letters are not split into words: names in an archive may have 65,535 letters."""
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\WA-Z\d_]+")


def split_of(name: str) -> str | None:
    """Return the split that a name by itself means, ignoring case: "train", "valid" or "test"; else None."""
    return SPLITS.get(name.strip().casefold())


def splits_of(folders: Collection[str]) -> dict[str, str]:
    """Tell which of some sibling folders are splits: folder to "train", "valid", "test" or `UNLABELLED`.

    A name must have one word for the split, such as "training" or "dev", and may have neutral words such as "set" or
    "images", joined or not. It may have further words if another split has the same ones ("signs_train" and
    "signs_test"). Names other than a plain "train" or "test", and "dev" and "eval", are splits only if there is another
    split and none with a plain name for the same one: "test data" alone is an ordinary name.
    """
    plain = {folder: split for folder in sorted(folders) if (split := split_of(folder))}
    roles = {folder: role for folder in sorted(folders) if folder not in plain and (role := _role(folder))}
    found = {**plain}
    for folder, (split, rest) in roles.items():
        # Splits that have the same further words in their names.
        partners = {other for name, (other, words) in roles.items() if name != folder and words == rest}
        if split not in plain.values() and (partners - {split} or (not rest and set(plain.values()) - {split})):
            found[folder] = split
    # Without any labelled split these are ordinary names.
    return dict(sorted(found.items())) if set(found.values()) - {UNLABELLED} else {}


def splits_of_files(names: Sequence[str]) -> dict[str, str]:
    """Find the splits that files, or their folders, are named after: train.csv, pets-test.csv, valid/metadata.csv."""
    stems = {name: posixpath.basename(name).casefold().split(".")[0] for name in names}
    found = {}
    for name, stem in stems.items():
        splits = {SPLITS[word] for word in re.split(r"[\W_]+", stem) if word in SPLITS}
        if len(splits) == 1:
            found[name] = splits.pop()
    folders = {name: posixpath.basename(posixpath.dirname(name)) for name in names}
    of_folders = splits_of({folder for folder in folders.values() if folder})
    return {
        name: split
        for name in names
        if (split := found.get(name) or of_folders.get(folders[name])) in ("train", "valid", "test")
    }


def is_annotation_folder(name: str, siblings: Collection[str]) -> bool:
    """Tell whether a folder has a name for masks or labels, and a sibling has a name for images."""
    words = _words(name)
    return (
        words <= _ANNOTATIONS | _NEUTRAL
        and bool(words & _ANNOTATIONS)
        and any(is_container(other) for other in siblings if other != name)
    )


def annotated_stem(stem: str) -> str | None:
    """Return the stem of the image that a file annotates, by its name: "scan 1" for "scan 1_mask"; else None."""
    numbered = stem.rstrip("0123456789 _-.()")
    start = len(numbered)
    while start and numbered[start - 1].isalpha():
        start -= 1
    image = numbered[:start].rstrip(" _-.")
    return image if image and numbered[start:].casefold() in _ANNOTATIONS else None


def is_container(name: str) -> bool:
    """Tell whether a folder's name only says that it has images, not which: "images", "JPEGImages", "img_data"."""
    words = _words(name)
    return words <= _NEUTRAL and bool(words & _IMAGES)


def _role(name: str) -> tuple[str, frozenset[str]] | None:
    words = _words(name)
    roles = {_ROLES[word] for word in words if word in _ROLES}
    if len(roles) != 1 or words & _ANNOTATIONS:
        return None
    return roles.pop(), frozenset(words - _NEUTRAL - _ROLES.keys())


@lru_cache(4_096)
def _words(name: str) -> frozenset[str]:
    """Split a name into words, in lower case: 'trainset', 'Train_Set' and 'TRAIN-set2' are all train and set."""
    words: set[str] = set()
    for run in _LETTERS.findall(name):
        joined = _joined(run.casefold())
        words.update(joined or (part.casefold() for part in _CAMEL.findall(run)))
    return frozenset(words)


@lru_cache(4_096)
def _joined(run: str) -> tuple[str, ...]:
    """Split a run of letters into known words; empty if that is impossible."""
    known = _ROLES.keys() | _NEUTRAL | _ANNOTATIONS
    if run in known:
        return (run,)
    if len(run) > _LONGEST_RUN:
        return ()
    for end in range(len(run) - 2, 2, -1):
        if run[:end] in known and (rest := _joined(run[end:])):
            return (run[:end], *rest)
    return ()
