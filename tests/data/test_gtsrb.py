from __future__ import annotations

import random

import pytest
from tinysource import loaded_by

from signsclf.data import gtsrb


def test_every_class_has_its_own_name_count_and_group():
    assert len(gtsrb.CLASS_NAMES) == len(set(gtsrb.CLASS_NAMES)) == len(gtsrb.TRAIN_COUNTS) == 43
    assert sorted(c for group in gtsrb.GROUPS.values() for c in group) == list(range(43))


@pytest.mark.parametrize(
    ("class_id", "name"), [(0, "Speed limit 20 km/h"), (14, "Stop"), (38, "Keep right"), (39, "Keep left")]
)
def test_names_stand_at_the_benchmarks_class_id(class_id, name):
    assert gtsrb.CLASS_NAMES[class_id] == name


def test_training_counts_add_up_to_the_official_total():
    assert sum(gtsrb.TRAIN_COUNTS) == gtsrb.N_TRAIN == 39_209


def test_mirroring_twice_gives_the_same_class():
    assert all(gtsrb.MIRROR[gtsrb.MIRROR[c]] == c for c in gtsrb.MIRROR)
    names = gtsrb.class_names_mirror()
    assert len(names) == len(gtsrb.MIRROR) == 22
    assert all(names[names[name]] == name for name in names)


def test_mirroring_turns_left_into_right_and_refuses_digits():
    names = gtsrb.class_names_mirror()
    assert names["Keep left"] == "Keep right"
    assert names["Turn right ahead"] == "Turn left ahead"
    assert names["Priority road"] == "Priority road"
    assert names["Children"] == "Children"  # who face either side of the road
    assert "Stop" not in names
    assert not any("Speed limit" in name or "oundabout" in name for name in names)
    for name, mirrored in names.items():
        swapped = name.replace("left", "L").replace("right", "left").replace("L", "right")
        assert mirrored == swapped


def test_class_folders_are_known_in_both_spellings_and_any_order():
    bare, padded = [str(c) for c in range(43)], [f"{c:05d}" for c in range(43)]
    for names in (bare, padded):
        assert gtsrb.is_gtsrb_folder_names(random.Random(0).sample(names, 43))
        assert not gtsrb.is_gtsrb_folder_names(names[:-1])
        assert not gtsrb.is_gtsrb_folder_names([*names, "43"])
    assert not gtsrb.is_gtsrb_folder_names(bare[:20] + padded[20:])
    assert not gtsrb.is_gtsrb_folder_names([])


def test_the_archives_have_their_published_size_and_well_formed_checksums():
    assert sum(archive.bytes for archive in gtsrb.ARCHIVES) == 365_372_996
    for archive in gtsrb.ARCHIVES:
        assert len(bytes.fromhex(archive.md5)) == 16
        assert archive.sha256 is None or len(bytes.fromhex(archive.sha256)) == 32


def test_importing_the_facts_loads_no_heavy_package():
    code = "import signsclf.data.gtsrb, signsclf.data.download"
    assert loaded_by(code, "torch", "pandas", "numpy", "fastai", "PIL", "requests") == []
