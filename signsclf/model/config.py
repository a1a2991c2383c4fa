"""The content of config.json: one frozen dataclass, each value checked, to and from JSON.

A config.json may come from a stranger: whatever no signsclf of its format version would have written is refused.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from signsclf.errors import ModelError

FORMAT_VERSION = "1.2"
"""MAJOR.MINOR of the format that is written. Every 1.x can be read: a newer minor only adds keys under "signsclf"."""
MAX_BYTES = 16 * 1024 * 1024
MAX_SIDE = 4096
MAX_CLASSES = 100_000
_MAX_TEXT = 1000

READERS = ("onnxruntime", "signsclf", "fastai", "timm", "transformers")
"""The programs that can read a model folder; `Config.readers` holds those that can read this one."""
CROPS = ("none", "roi")

# No colon and no slash: timm would follow "hf-hub:…" and "local-dir:…" out of the folder.
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_ANEW = "fetch or export the model again"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Config:
    """The content of config.json; checked at construction.

    Attributes:
        architecture: the name in timm, torchvision or signsclf.
        classes: labels in the order of the outputs; each of one line, none twice.
        input_size: (height, width) in pixels, 1 to `MAX_SIDE` each.
        mean, std: of each of R, G, B for pixels scaled to 0..1.
        recipe: all that decided the weights.
        temperature: already folded into the last layer; recorded only.
        reject_threshold: a prediction with a lower probability is not accepted; None where it is not known.
        figures: measured results by name; each is None or an object with at least ``n``, the images counted.
        fingerprint: of the training data.
        versions: package to its version at export.
        is_gtsrb: whether the classes are the 43 of the German benchmark, in its order.
        crop: "roi" for a model that expects signs cut out by their box, "none" for whole images.
        parity: the figures of the parity check.
        licence: a note for the card; None where nothing is known.
        readers: who can read this folder, out of `READERS`.
        classifier: the last linear layer's weight in model.safetensors, (classes, channels), for class
            activation maps; None where the architecture has no such map.
        fixed_input_size: the architecture takes ``input_size`` only, as vision transformers do.
        initial_weights: which weights training started from: of a package, with their version and address, or
            "local" and the name of a file or folder; "" for random ones and in folders of format 1.0.

    Raises:
        ModelError: a value is of the wrong kind or out of range.
    """

    architecture: str
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    recipe: dict[str, Any]
    temperature: float = 1.0
    reject_threshold: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    is_gtsrb: bool = False
    crop: str = "none"
    parity: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    readers: tuple[str, ...] = ()
    classifier: str | None = None
    fixed_input_size: bool = False
    initial_weights: str = ""

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.architecture, str) or not _ARCHITECTURE.fullmatch(self.architecture):
            raise _wrong("architecture", self.architecture, "the plain name of an architecture")
        keep("classes", check_classes(self.classes))
        size = _sequence("input_size", self.input_size, 2, "(height, width)")
        for side in size:
            if type(side) is not int or not 1 <= side <= MAX_SIDE:
                raise _wrong("input_size", size, f"two whole numbers from 1 to {MAX_SIDE}")
        keep("input_size", size)
        keep("mean", tuple(_number("mean", v, -1e3, 1e3) for v in _sequence("mean", self.mean, 3, "R, G, B")))
        keep("std", tuple(_number("std", v, 1e-6, 1e3) for v in _sequence("std", self.std, 3, "R, G, B")))
        keep("temperature", _number("temperature", self.temperature, 1e-3, 1e3))
        if self.reject_threshold is not None:
            keep("reject_threshold", _number("reject_threshold", self.reject_threshold, 0, 1))
        for name in ("recipe", "figures", "versions", "parity"):
            keep(name, _json_object(name, getattr(self, name)))
        for name, figure in self.figures.items():
            n = figure.get("n") if isinstance(figure, dict) else None
            if figure is not None and (type(n) is not int or n < 0):
                raise _wrong(f"figures.{name}", figure, 'null or an object with "n", the number of images')
        for name, version in self.versions.items():
            _text(f"versions.{name}", version)
        for name in ("fingerprint", "initial_weights"):
            _text(name, getattr(self, name))
        for name in ("licence", "classifier"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        for name in ("is_gtsrb", "fixed_input_size"):
            if type(getattr(self, name)) is not bool:
                raise _wrong(name, getattr(self, name), "true or false")
        if self.crop not in CROPS:
            raise _wrong("crop", self.crop, " or ".join(CROPS))
        readers = _sequence("readers", self.readers, None, "names")
        if any(reader not in READERS for reader in readers) or len(set(readers)) < len(readers):
            raise _wrong("readers", readers, f"each once, out of {', '.join(READERS)}")
        keep("readers", readers)

    def to_json(self) -> str:
        """Render config.json: timm's schema at the top, our own keys under "signsclf"."""
        ours = {name: getattr(self, name) for name in _OURS}
        text = json.dumps(
            {
                "architecture": self.architecture,
                "num_classes": len(self.classes),
                "label_names": self.classes,
                "pretrained_cfg": self._pretrained_cfg(),
                "signsclf": {"format_version": FORMAT_VERSION, **ours},
            },
            ensure_ascii=False,
            indent=2,
        )
        if len(text.encode()) >= MAX_BYTES:
            raise ModelError(f"config.json: would be larger than {MAX_BYTES:,} bytes; shorten the class names")
        return text + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read what `to_json` wrote, in this or another signsclf of the same major format version.

        Keys under "signsclf" that a newer minor version added are ignored; those that an older one lacks take their
        defaults.

        Raises:
            ModelError: not JSON, too large, of another major format version, or not what `to_json` writes.
        """
        if len(text) > MAX_BYTES:
            raise ModelError(f"config.json: over {MAX_BYTES:,} characters; {_ANEW}")
        try:
            top = parse_json(text, "config.json")
            ours = top.get("signsclf") if isinstance(top, dict) else None
            if not isinstance(ours, dict):
                raise ModelError('config.json: no "signsclf" in it, so not a model folder of signsclf')
            minor = _minor(ours)
            _keys("the top", top, {"architecture", "num_classes", "label_names", "pretrained_cfg", "signsclf"})
            values = {name: value for name, value in ours.items() if name != "format_version"}
            if minor > _MINOR:
                values = {name: value for name, value in values.items() if name in _OURS}
                if isinstance(values.get("readers"), list):
                    values["readers"] = [name for name in values["readers"] if name in READERS]
            _keys("signsclf", values, set(_OURS), lacking_allowed=_DEFAULTED if minor < _MINOR else frozenset())
            rendered = top["pretrained_cfg"]
            if not isinstance(rendered, dict):
                raise _wrong("pretrained_cfg", rendered, "an object")
            size = _sequence("pretrained_cfg.input_size", rendered.get("input_size"), 3, "[3, height, width]")
            values |= {name: rendered.get(name) for name in ("mean", "std", "fixed_input_size")}
            values |= {"architecture": top["architecture"], "classes": top["label_names"], "input_size": size[1:]}
            config = cls(**values)
            # What other readers take from here must be what this one does, so no other key or preprocessing.
            expected = json.loads(json.dumps(config._pretrained_cfg()))
            for key in {*expected, *rendered}:
                if key not in expected or rendered.get(key) != expected[key]:
                    raise _wrong(f"pretrained_cfg.{key}", rendered.get(key), repr(expected.get(key, "left out")))
            if type(top["num_classes"]) is not int or top["num_classes"] != len(config.classes):
                raise _wrong("num_classes", top["num_classes"], f"the number of labels, {len(config.classes)}")
        except RecursionError as error:
            raise ModelError(f"config.json: nested too deeply; {_ANEW}") from error
        return config

    def _pretrained_cfg(self) -> dict[str, Any]:
        rendered: dict[str, Any] = {
            "input_size": (3, *self.input_size),
            "fixed_input_size": self.fixed_input_size,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": self.mean,
            "std": self.std,
            "num_classes": len(self.classes),
        }
        if self.classifier is not None and self.classifier.endswith(".weight"):
            rendered["classifier"] = self.classifier.removesuffix(".weight")
        return rendered


_ELSEWHERE = {"architecture", "classes", "input_size", "mean", "std", "fixed_input_size"}
_OURS = tuple(f.name for f in fields(Config) if f.name not in _ELSEWHERE)
_DEFAULTED = frozenset(f.name for f in fields(Config) if (f.default, f.default_factory) != (MISSING, MISSING))
_MAJOR, _MINOR = map(int, FORMAT_VERSION.split("."))


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Check the class names and return them as a tuple; training does so before it starts.

    Raises:
        ModelError: none, over `MAX_CLASSES`, one twice, or one that is not a line of text.
    """
    names = _sequence("classes", classes, None, "names")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ModelError(f"classes: {len(names):,} of them, where 1 to {MAX_CLASSES:,} are possible")
    for name in names:
        _text("classes", name)
        if not name.strip():
            raise _wrong("classes", name, "a name that is not empty")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise _wrong("classes", twice, "a name that occurs once")
    return names


def parse_json(text: str, name: str) -> Any:
    """Parse JSON without NaN, infinities or repeated keys.

    Args:
        name: of the file, for the message.

    Raises:
        ModelError: it is anything else.
    """

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is no JSON number")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            raise ValueError("a key occurs twice")
        return result

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelError(f"{name}: not valid JSON ({why}); {_ANEW}") from error


def _wrong(name: str, value: object, right: str) -> ModelError:
    if not name.isprintable() or len(name) > 80:  # a key of a stranger's may be part of it
        name = reprlib.repr(name)
    return ModelError(f"config.json: {name} is {reprlib.repr(value)}, where it should be {right}")


def _minor(ours: dict[str, Any]) -> int:
    """Read the minor format version of what is under "signsclf"; refuse another major one."""
    version = ours.get("format_version")
    if type(version) is int:  # 1.0 was written as the number 1
        version = f"{version}.0"
    match = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", version) if isinstance(version, str) else None
    if match is None:
        raise _wrong("format_version", version, f"MAJOR.MINOR, such as {FORMAT_VERSION!r}")
    major, minor = int(match[1]), int(match[2])
    if major == _MAJOR:
        return minor
    if major < _MAJOR:
        raise ModelError(f"config.json: format version {match[0]} is older than any that is read; {_ANEW}")
    versions = ours.get("versions")
    writer = versions.get("signsclf") if isinstance(versions, dict) else None
    known = isinstance(writer, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+]{0,40}", writer)
    raise ModelError(
        f"config.json: format version {match[0]} is newer than the {_MAJOR}.x that this signsclf reads; "
        + (f'signsclf {writer} wrote it: pip install "signsclf>={writer}"' if known else "upgrade signsclf")
    )


def _keys(where: str, found: dict[str, Any], wanted: set[str], lacking_allowed: frozenset[str] = frozenset()) -> None:
    lacking = wanted - found.keys() - lacking_allowed
    for verb, keys in (("lacks", lacking), ("has the unknown", found.keys() - wanted)):
        if keys:
            raise ModelError(f"config.json: {where} {verb} {reprlib.repr(min(keys))}; {_ANEW}")


def _sequence(name: str, value: object, length: int | None, right: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise _wrong(name, value, f"a list of {right}")
    return tuple(value)


def _number(name: str, value: object, low: float, high: float) -> float:
    # NaN compares false with everything, so it is refused here too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or _UNPRINTABLE.search(value):
        raise _wrong(name, value, f"one line of text of at most {_MAX_TEXT} characters")


def _json_object(name: str, value: object) -> dict[str, Any]:
    """Copy a value as JSON gives it back: lists for tuples; refuse what JSON cannot express."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
        copy = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _wrong(name, value, f"plain JSON ({error})") from error
    if not isinstance(copy, dict):
        raise _wrong(name, value, "an object")
    return copy
