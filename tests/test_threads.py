"""The cores that a process may use: its affinity, and control groups' quotas in faked files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from signsclf import threads


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A faked mount of control groups; this process is in the group /pod/app."""
    mount = tmp_path / "cgroup"
    (mount / "pod" / "app").mkdir(parents=True)
    named = tmp_path / "self"
    named.write_text("0::/pod/app\n")
    monkeypatch.setattr(threads, "CGROUP_MOUNT", mount)
    monkeypatch.setattr(threads, "CGROUP_OF_PROCESS", named)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return mount


def test_without_a_quota_the_affinity_counts(groups: Path):
    (groups / "pod" / "app" / "cpu.max").write_text("max 100000\n")
    assert threads.usable_cores() == 8


@pytest.mark.parametrize(("quota", "cores"), [(20_000, 1), (100_000, 1), (150_000, 2), (300_000, 3), (1_600_000, 8)])
def test_a_quota_is_rounded_up_and_never_exceeds_the_affinity(groups: Path, quota: int, cores: int):
    (groups / "pod" / "app" / "cpu.max").write_text(f"{quota} 100000\n")
    assert threads.usable_cores() == cores


def test_the_tightest_limit_of_all_parents_counts(groups: Path):
    (groups / "pod" / "app" / "cpu.max").write_text("400000 100000\n")
    (groups / "pod" / "cpu.max").write_text("200000 100000\n")
    assert threads.usable_cores() == 2


def test_a_container_sees_its_own_group_as_the_root_of_the_mount(groups: Path):
    threads.CGROUP_OF_PROCESS.write_text("0::/../../kubepods/pod7\n")
    (groups / "cpu.max").write_text("250000 100000\n")
    assert threads.usable_cores() == 3


@pytest.mark.parametrize("quota", ["-1", "200000"])
def test_version_1(groups: Path, quota: str):
    threads.CGROUP_OF_PROCESS.write_text("4:memory:/docker/7\n3:cpu,cpuacct:/docker/7\n")
    folder = groups / "cpu,cpuacct" / "docker" / "7"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert threads.usable_cores() == (8 if quota == "-1" else 2)


@pytest.mark.parametrize("text", ["", "nonsense", "max", "1 0", "-5 100000 3"])
def test_damaged_files_are_no_limit(groups: Path, text: str):
    (groups / "pod" / "app" / "cpu.max").write_text(text)
    assert threads.usable_cores() == 8


def test_systems_without_control_groups(groups: Path):
    threads.CGROUP_OF_PROCESS.unlink()
    assert threads.usable_cores() == 8
