"""What the parts of a data set, and folders that hold no classes, are called: told by the words of their names."""

from __future__ import annotations

import re
from collections.abc import Collection
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
"""The plain names, in lower case, to what the table calls them."""
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
"""Longer runs of letters are no words joined: names in an archive may have 65,535 letters."""
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\WA-Z\d_]+")


def split_of(name: str) -> str | None:
    """The split that one name alone stands for: "train", "valid" or "test", whatever its case; else None."""
    return SPLITS.get(name.strip().casefold())


def splits_of(folders: Collection[str]) -> dict[str, str]:
    """Which folders, of some that lie side by side, are parts of a data set: "train", "valid", "test", `UNLABELLED`.

    A name's words tell: one that says the part, such as "training" or "dev", and others that say nothing, such as
    "set" or "images", joined or not. Further words are allowed where another part has the same ("signs_train" and
    "signs_test"). A name longer than the plain word, "dev" and "eval" count beside another part only, and yield to
    a plain one of the same part: alone, "test data" is a name as any other.
    """
    plain = {folder: split for folder in sorted(folders) if (split := split_of(folder))}
    roles = {folder: role for folder in sorted(folders) if folder not in plain and (role := _role(folder))}
    found = {**plain}
    for folder, (split, rest) in roles.items():
        # What the further words are of: the same ones stand in another part's name.
        partners = {other for name, (other, words) in roles.items() if name != folder and words == rest}
        if split not in plain.values() and (partners - {split} or (not rest and set(plain.values()) - {split})):
            found[folder] = split
    # Without any labelled part beside them, these are names as any other.
    return dict(sorted(found.items())) if set(found.values()) - {UNLABELLED} else {}


def is_annotation_folder(name: str, beside: Collection[str]) -> bool:
    """Whether a folder is called as one of masks or labels, and one beside it as one of images."""
    words = _words(name)
    return (
        words <= _ANNOTATIONS | _NEUTRAL
        and bool(words & _ANNOTATIONS)
        and any(is_container(other) for other in beside if other != name)
    )


def annotated_stem(stem: str) -> str | None:
    """The stem of the image that a file is an annotation of by its name: "scan 1" of "scan 1_mask"; None for others."""
    numbered = stem.rstrip("0123456789 _-.()")
    start = len(numbered)
    while start and numbered[start - 1].isalpha():
        start -= 1
    image = numbered[:start].rstrip(" _-.")
    return image if image and numbered[start:].casefold() in _ANNOTATIONS else None


def is_container(name: str) -> bool:
    """Whether a folder's name says that it holds images, and not of what: "images", "JPEGImages", "img_data"."""
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
    """The words of a name, in lower case: 'trainset', 'Train_Set' and 'TRAIN-set2' are all train and set."""
    words: set[str] = set()
    for run in _LETTERS.findall(name):
        joined = _joined(run.casefold())
        words.update(joined or (part.casefold() for part in _CAMEL.findall(run)))
    return frozenset(words)


@lru_cache(4_096)
def _joined(run: str) -> tuple[str, ...]:
    """A run of letters as known words without anything between them; empty where it is none."""
    known = _ROLES.keys() | _NEUTRAL | _ANNOTATIONS
    if run in known:
        return (run,)
    if len(run) > _LONGEST_RUN:
        return ()
    for end in range(len(run) - 2, 2, -1):
        if run[:end] in known and (rest := _joined(run[end:])):
            return (run[:end], *rest)
    return ()
