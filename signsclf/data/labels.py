"""Normalise labels as people and programs write them: floats for integers, lists of one, several spellings."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from signsclf.data.columns import SPACES
from signsclf.data.tree import some
from signsclf.errors import ModelError, SourceError
from signsclf.model.config import check_classes

_INTEGRAL = re.compile(r"(-?[0-9]+)\.0+")
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\](){}]+)"""
_LIST = re.compile(rf"[\[({{]\s*({_ITEM}(?:(?:\s*,\s*|\s+){_ITEM})*)?\s*,?\s*[\])}}]")
_QUOTED = re.compile(r"""[\[({]\s*['"]""")
_ITEMS = re.compile(_ITEM)
_LONGEST_LIST = 10_000
_LIKE_MISSING = frozenset(("nan", "null", "none", "n/a", "#n/a", "<na>", "nat", "undefined"))
_MANY = re.compile(r"\s*[|;,]\s*")


def tidy(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Normalise labels: stripped, Unicode NFC, '1.0' to '1' if all are whole numbers, "['cat']" to 'cat'.

    Returns:
        The labels, and notes for the user.

    Raises:
        SeveralLabelsError: a cell is a list of several labels, or of none.
    """
    # Each step is done once per distinct label, of which there are few.
    spellings = {label: unicodedata.normalize("NFC", label.strip(SPACES)) for label in dict.fromkeys(labels)}
    notes: list[str] = []
    kept = [text for text in spellings.values() if text]
    as_lists = bool(kept) and all(len(text) <= _LONGEST_LIST and _LIST.fullmatch(text) for text in kept)
    unwrapped: dict[str, str] = {}
    for text in kept:
        if (as_lists or _QUOTED.match(text)) and len(text) <= _LONGEST_LIST and (found := _LIST.fullmatch(text)):
            items = _ITEMS.findall(found[1] or "")
            if len(items) != 1:
                raise SeveralLabelsError(next(label for label in labels if spellings[label] == text), len(items))
            item = items[0]
            unwrapped[text] = (item[1:-1] if item[0] in "'\"" else item).strip(SPACES)
    if unwrapped:
        before, after = next(iter(unwrapped.items()))
        notes.append(f"labels written as lists of one label are that label: {before} is {after!r}")
        spellings = {label: unwrapped.get(text, text) for label, text in spellings.items()}
        kept = [text for text in spellings.values() if text]
    if kept and all(map(_WHOLE.fullmatch, kept)) and any(map(_INTEGRAL.fullmatch, kept)):
        example = next(text for text in kept if _INTEGRAL.fullmatch(text))
        spellings = {label: _INTEGRAL.sub(r"\1", text) for label, text in spellings.items()}
        notes.append(f"labels are whole numbers, written as fractions: {example!r} is '{example.split('.')[0]}'")
    if missing := sorted({text for text in spellings.values() if text.casefold() in _LIKE_MISSING}):
        notes.append(f"labels that look like missing values are classes: {some(missing)}")
    return [spellings[label] for label in labels], notes + _several(set(spellings.values()))


class SeveralLabelsError(ValueError):
    """A cell has several labels, or an empty list of them.

    Attributes:
        label: the cell.
        n: the number of labels in it.
    """

    def __init__(self, label: str, n: int) -> None:
        super().__init__(label, n)
        self.label, self.n = label, n


def refuse_labels(labels: Iterable[str], where: Callable[[str], str], remedy: str) -> None:
    """Refuse labels that a model folder cannot store: of several lines, with control characters, or too long.

    Args:
        where: returns where a label was found, as the start of the message.
        remedy: what to do about it.

    Raises:
        SourceError: for the first such label, which is shown escaped.
    """
    for label in labels:
        try:
            check_classes([label])
        except ModelError as error:
            shown = ascii(label) if len(label) <= 60 else f"{label[:40]!a}… of {len(label):,} characters"
            raise SourceError(
                f"{where(label)}: the label {shown} is not one line of printable text, of at most 1,000 characters; "
                f"{remedy}"
            ) from error


def spelling_key(label: str) -> str:
    """Make a key that is the same for labels that differ only by case, width or spaces."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def spelled_alike(counts: Counter[str]) -> list[list[str]]:
    """Find groups of labels that differ only by case, width or inner spaces; in each, the commonest label first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[spelling_key(label)].append(label)
    alike = [groups[key] for key in sorted(groups) if len(groups[key]) > 1]
    return [sorted(group, key=lambda label: (-counts[label], label)) for group in alike]


def merge_spellings(labels: Sequence[str], merge: bool) -> tuple[list[str], list[str]]:
    """Merge labels that are `spelled_alike` into the commonest of them, if ``merge``; return labels and notes."""
    counts = Counter(labels)
    alike = spelled_alike(counts)
    if not alike:
        return list(labels), []
    shown = "; ".join(", ".join(f"{label!r} {counts[label]:,}" for label in group[:4]) for group in alike[:3])
    more = f"; and {len(alike) - 3:,} more" if len(alike) > 3 else ""
    if not merge:
        why = "classes of their own, though their names differ by case or spaces alone"
        return list(labels), [f"{why}: {shown}{more}; --merge-case makes them one"]
    one = {label: group[0] for group in alike for label in group}
    why = "classes whose names differ by case or spaces alone are one, called as the first"
    return [one.get(label, label) for label in labels], [f"{why}: {shown}{more}"]


def _several(labels: set[str]) -> list[str]:
    """Note labels that look like several joined ones, if the parts are labels too."""
    joined = [
        label for label in sorted(labels) if len(parts := _MANY.split(label)) > 1 and all(p in labels for p in parts)
    ]
    if not joined:
        return []
    return [f"labels that look like several in one ({len(joined):,}) are classes of their own: {some(joined)}"]
