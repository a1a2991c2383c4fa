"""Find what of this machine the process may use: its CPU cores, from which every thread count derives, and memory."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

CGROUP_MOUNT = Path("/sys/fs/cgroup")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 2**60
"""Where there is no limit of memory, version 1 of control groups has a number above this."""


def usable_cores() -> int:
    """Count the CPU cores that this process may use, at least 1: its CPU affinity, limited by its cgroup's quota.

    A quota is rounded up: with 1.5 cores, one thread would leave half a core unused.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def cgroup_quota() -> float | None:
    """Read the CPU time that Linux control groups grant this process, in cores; None without a limit.

    The tightest limit of its group and all parent groups applies. Reads version 2 (``cpu.max``) and version 1
    (``cpu.cfs_quota_us``).
    """
    return _tightest("cpu", _quota_v2, _quota_v1)


def available_memory() -> int | None:
    """Estimate the bytes that this process may take before the system swaps or ends it; None where it is not Linux.

    What the file cache holds counts as available. The limits of control groups apply as in `cgroup_quota`.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    system = 1024 * int(found[1])
    granted = _tightest("memory", _room_v2, _room_v1)
    return max(0, int(system if granted is None else min(system, granted)))


def _tightest(controller: str, version_2: Callable[[Path], float], version_1: Callable[[Path], float]) -> float | None:
    """Return the tightest limit among those of the process's group and its parents; None where none has one.

    Args:
        controller: version 1's name of it.
        version_2, version_1: read the limit in a group's folder, infinite where there is none.
    """
    try:
        lines = CGROUP_OF_PROCESS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            limits += _limits(CGROUP_MOUNT, group, version_2)
        elif controller in controllers.split(","):
            roots = [CGROUP_MOUNT / name for name in (controllers, controller)]
            limits += _limits(next((root for root in roots if root.is_dir()), roots[-1]), group, version_1)
    return min((limit for limit in limits if limit != math.inf), default=None)


def _limits(root: Path, group: str, read: Callable[[Path], float]) -> list[float]:
    # In a container the group may have its name on the host, while the mount has the container's group as its root.
    parts = [part for part in group.split("/") if part not in ("", "..")]
    found = []
    for depth in range(len(parts) + 1):
        try:
            found.append(read(root.joinpath(*parts[:depth])))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return found


def _quota_v2(folder: Path) -> float:
    limit, period = (folder / "cpu.max").read_text("ascii").split()
    return math.inf if limit == "max" else int(limit) / int(period)


def _quota_v1(folder: Path) -> float:
    limit = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
    period = int((folder / "cpu.cfs_period_us").read_text("ascii"))
    return limit / period if limit > 0 else math.inf


def _room_v2(folder: Path) -> float:
    limit = (folder / "memory.max").read_text("ascii").strip()
    if limit == "max":
        return math.inf
    return int(limit) - int((folder / "memory.current").read_text("ascii")) + _file_cache(folder, "inactive_file")


def _room_v1(folder: Path) -> float:
    limit = int((folder / "memory.limit_in_bytes").read_text("ascii"))
    if limit > _NO_LIMIT:
        return math.inf
    used = int((folder / "memory.usage_in_bytes").read_text("ascii"))
    return limit - used + _file_cache(folder, "total_inactive_file")


def _file_cache(folder: Path, name: str) -> int:
    """Read how much of the memory in use is the cache of files, which gives way."""
    text = (folder / "memory.stat").read_text("ascii")
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0)
