"""What a process may use of a machine: cores and memory, by its affinity, the system, and faked control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from signsclf import machine

MIB = 1024**2


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A faked mount of control groups; this process is in the group /pod/app."""
    mount = tmp_path / "cgroup"
    (mount / "pod" / "app").mkdir(parents=True)
    named = tmp_path / "self"
    named.write_text("0::/pod/app\n")
    monkeypatch.setattr(machine, "CGROUP_MOUNT", mount)
    monkeypatch.setattr(machine, "CGROUP_OF_PROCESS", named)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return mount


def test_without_a_quota_the_affinity_counts(groups: Path):
    (groups / "pod" / "app" / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores() == 8


@pytest.mark.parametrize(("quota", "cores"), [(20_000, 1), (100_000, 1), (150_000, 2), (300_000, 3), (1_600_000, 8)])
def test_a_quota_is_rounded_up_and_never_exceeds_the_affinity(groups: Path, quota: int, cores: int):
    (groups / "pod" / "app" / "cpu.max").write_text(f"{quota} 100000\n")
    assert machine.usable_cores() == cores


def test_the_tightest_limit_of_all_parents_counts(groups: Path):
    (groups / "pod" / "app" / "cpu.max").write_text("400000 100000\n")
    (groups / "pod" / "cpu.max").write_text("200000 100000\n")
    assert machine.usable_cores() == 2


def test_a_container_sees_its_own_group_as_the_root_of_the_mount(groups: Path):
    machine.CGROUP_OF_PROCESS.write_text("0::/../../kubepods/pod7\n")
    (groups / "cpu.max").write_text("250000 100000\n")
    assert machine.usable_cores() == 3


@pytest.mark.parametrize("quota", ["-1", "200000"])
def test_version_1(groups: Path, quota: str):
    machine.CGROUP_OF_PROCESS.write_text("4:memory:/docker/7\n3:cpu,cpuacct:/docker/7\n")
    folder = groups / "cpu,cpuacct" / "docker" / "7"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert machine.usable_cores() == (8 if quota == "-1" else 2)


@pytest.mark.parametrize("text", ["", "nonsense", "max", "1 0", "-5 100000 3"])
def test_damaged_files_are_no_limit(groups: Path, text: str):
    (groups / "pod" / "app" / "cpu.max").write_text(text)
    assert machine.usable_cores() == 8


def test_systems_without_control_groups(groups: Path):
    machine.CGROUP_OF_PROCESS.unlink()
    assert machine.usable_cores() == 8


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same on a system with 8 GiB left."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {8 * 1024**2} kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    return groups


def test_without_a_limit_memory_is_the_systems(memory: Path):
    assert machine.available_memory() == 8 * 1024**3
    (memory / "pod" / "memory.max").write_text("max\n")
    assert machine.available_memory() == 8 * 1024**3


def test_a_limit_of_memory_leaves_what_is_not_in_use_and_what_files_take(memory: Path):
    group = memory / "pod" / "app"
    (group / "memory.max").write_text(f"{900 * MIB}\n")
    (group / "memory.current").write_text(f"{700 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {300 * MIB}\n")
    assert machine.available_memory() == 500 * MIB


def test_memory_of_version_1(memory: Path):
    machine.CGROUP_OF_PROCESS.write_text("4:memory:/docker/7\n")
    group = memory / "memory" / "docker" / "7"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert machine.available_memory() == 8 * 1024**3
    (group / "memory.limit_in_bytes").write_text(str(900 * MIB))
    (group / "memory.usage_in_bytes").write_text(str(950 * MIB))
    (group / "memory.stat").write_text(f"total_inactive_file {10 * MIB}\n")
    assert machine.available_memory() == 0


def test_where_the_system_does_not_tell_nobody_knows(memory: Path):
    machine.MEMINFO.write_text("nonsense")
    assert machine.available_memory() is None
    machine.MEMINFO.unlink()
    assert machine.available_memory() is None
