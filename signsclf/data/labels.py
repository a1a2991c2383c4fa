"""Labels as people and programs write them: floats for numbers, lists of one, several spellings of one name."""

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
    """Labels without spaces around, in Unicode NFC, '1.0' as '1' where all are whole numbers, "['cat']" as 'cat'.

    Returns:
        The labels, each as long as it holds one, and what is to be told of it.

    Raises:
        SeveralLabelsError: a cell is a list of several labels, or of none.
    """
    # Every step is done once for each spelling, of which there are few.
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
        notes.append(f"a label that is written as a list of one is that one: {before} is {after!r}")
        spellings = {label: unwrapped.get(text, text) for label, text in spellings.items()}
        kept = [text for text in spellings.values() if text]
    if kept and all(map(_WHOLE.fullmatch, kept)) and any(map(_INTEGRAL.fullmatch, kept)):
        example = next(text for text in kept if _INTEGRAL.fullmatch(text))
        spellings = {label: _INTEGRAL.sub(r"\1", text) for label, text in spellings.items()}
        notes.append(f"labels are whole numbers, written as fractions: {example!r} is '{example.split('.')[0]}'")
    if missing := sorted({text for text in spellings.values() if text.casefold() in _LIKE_MISSING}):
        notes.append(f"labels that programs write where there is none are classes: {some(missing)}")
    return [spellings[label] for label in labels], notes + _several(set(spellings.values()))


class SeveralLabelsError(ValueError):
    """A cell holds another number of labels than one.

    Attributes:
        label: the cell.
        n: how many it holds.
    """

    def __init__(self, label: str, n: int) -> None:
        super().__init__(label, n)
        self.label, self.n = label, n


def refuse_labels(labels: Iterable[str], where: Callable[[str], str], remedy: str) -> None:
    """Refuses labels that no model folder can hold: of several lines, with control characters, or too long.

    Args:
        where: gives the place of a label, to begin the message with.
        remedy: what to do about it.

    Raises:
        SourceError: for the first such label, shown escaped.
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
    """The same text for labels that differ by case, width or spaces alone."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def spelled_alike(counts: Counter[str]) -> list[list[str]]:
    """Labels that differ by case, width or inner spaces alone, in groups of two or more; the commonest first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        groups[spelling_key(label)].append(label)
    alike = [groups[key] for key in sorted(groups) if len(groups[key]) > 1]
    return [sorted(group, key=lambda label: (-counts[label], label)) for group in alike]


def merge_spellings(labels: Sequence[str], merge: bool) -> tuple[list[str], list[str]]:
    """Labels with those of `spelled_alike` made one, called as the commonest, if wished; and what is to be told."""
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
    """A note where labels joined by a sign stand beside the same labels alone."""
    joined = [
        label for label in sorted(labels) if len(parts := _MANY.split(label)) > 1 and all(p in labels for p in parts)
    ]
    if not joined:
        return []
    return [f"labels that look like several in one ({len(joined):,}) are classes of their own: {some(joined)}"]
