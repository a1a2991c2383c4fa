"""Holds validation images out: stratified by class, with every group (one physical object) whole on one side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from signsclf.errors import SourceError
from signsclf.recipe import SplitBy


@dataclass(frozen=True)
class Split:
    """A table whose every row stands on a side, and what there is to say of it.

    Attributes:
        table: the table with ``split`` filled in: train, valid or test.
        held_out_here: whether the validation images were chosen here rather than by the source.
        not_judged: classes with training images but no validation image, where there is validation at all.
        groups_on_both_sides: groups with images in training and in validation: above 0 the validation figures
            flatter.
    """

    table: pd.DataFrame
    held_out_here: bool
    not_judged: tuple[str, ...]
    groups_on_both_sides: int

    def rows(self, name: str) -> np.ndarray:
        """Positions of the rows of one side, ascending, int64 (n,)."""
        return np.flatnonzero((self.table["split"] == name).to_numpy())


def hold_out(table: pd.DataFrame, by: SplitBy, valid_fraction: float, seed: int) -> Split:
    """Fills in ``split``: rows without one are training; a part of training is held out unless the source has valid.

    Of each class whole groups are taken, in an order drawn from the seed, as near to ``valid_fraction`` of its images
    as groups allow, at least one group where there are two. An image without a group is a group of its own. A class
    with a single group stays in training whole, and a group without which a class would have no training image too.

    Args:
        valid_fraction: share of each class's training images, 0 to 0.9; 0 holds nothing out.

    Raises:
        SourceError: there is no training image, or a class that is judged has none.
    """
    table = table.copy()
    split = table["split"].where(table["split"].notna(), "train").astype(object)
    given = bool((split == "valid").any())
    pool = np.flatnonzero((split == "train").to_numpy())
    if len(pool) == 0:
        raise SourceError("source: it has no training images; give one with a training part or without splits")
    groups = table["group"].to_numpy(dtype=object)
    if not given and valid_fraction > 0:
        held = _choose(table["label"].to_numpy()[pool], _keys(groups[pool], by), valid_fraction, seed)
        split.iloc[pool[held]] = "valid"
    table["split"] = split
    side = split.to_numpy()
    has_valid = bool((side == "valid").any())
    train_labels = set(table["label"][side == "train"])
    valid_labels = set(table["label"][side == "valid"])
    for name, where in (("valid", "validation"), ("test", "test")):
        if missing := sorted(set(table["label"][side == name]) - train_labels):
            raise SourceError(f"source: class {missing[0]!r} is in {where} but not in training; move images of it over")
    both = {g for g in groups[side == "train"] if not pd.isna(g)} & {
        g for g in groups[side == "valid"] if not pd.isna(g)
    }
    return Split(
        table=table,
        held_out_here=has_valid and not given,
        not_judged=tuple(sorted(train_labels - valid_labels)) if has_valid else (),
        groups_on_both_sides=len(both),
    )


def group_repeats(table: pd.DataFrame, digests: list[str]) -> pd.DataFrame:
    """The table with each set of identical images that have no group made one, so that a split keeps it whole."""
    digest = pd.Series(digests, index=table.index)
    repeated = digest.duplicated(keep=False) & (digest != "") & table["group"].isna()
    table = table.copy()
    table["group"] = table["group"].astype(object).where(~repeated, "same image " + digest)
    return table


def _keys(groups: np.ndarray, by: SplitBy) -> np.ndarray:
    alone = np.array([by is SplitBy.RANDOM or pd.isna(group) for group in groups])
    return np.where(alone, [f"\0{i}" for i in range(len(groups))], groups)


def _choose(labels: np.ndarray, keys: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions to hold out. A group that spans classes counts for its commonest one."""
    rng = np.random.default_rng([seed, 0x5B117])
    frame = pd.DataFrame({"label": labels, "key": keys})
    sizes = frame.groupby(["key", "label"], sort=False).size().rename("n").reset_index()
    totals = sizes.groupby("key", sort=False)["n"].sum()
    home = sizes.sort_values("n", ascending=False, kind="stable").drop_duplicates("key").set_index("key")["label"]
    spans = {key: dict(zip(part["label"], part["n"], strict=True)) for key, part in sizes.groupby("key", sort=False)}
    left = frame["label"].value_counts().to_dict()
    held: list[str] = []

    def hold(key: str) -> bool:
        if any(left[label] == n for label, n in spans[key].items()):
            return False
        for label, n in spans[key].items():
            left[label] -= n
        held.append(key)
        return True

    for label in sorted(set(labels)):
        own = sorted(home.index[home == label])
        if len(own) < 2:
            continue
        target = fraction * sum(int(totals[key]) for key in own)
        taken = 0
        order = [own[i] for i in rng.permutation(len(own))]
        for key in order:
            n = int(totals[key])
            if abs(taken + n - target) < abs(taken - target) and hold(key):
                taken += n
        if not taken:
            # Every group is too much; the smallest is the least too much.
            any(hold(key) for key in sorted(order, key=lambda key: int(totals[key])))
    return np.flatnonzero(frame["key"].isin(held).to_numpy())
