"""Find how many CPU cores this process may use; every thread count derives from that."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

CGROUP_MOUNT = Path("/sys/fs/cgroup")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Count the CPU cores that this process may use, at least 1: its CPU affinity, limited by its cgroup's quota.

    A quota is rounded up: with 1.5 cores, one thread would leave half a core unused.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def cgroup_quota(mount: Path | None = None, of_process: Path | None = None) -> float | None:
    """Read the CPU time that Linux control groups grant this process, in cores; None without a limit.

    The tightest limit of its group and all parent groups applies. Reads version 2 (``cpu.max``) and version 1
    (``cpu.cfs_quota_us``).

    Args:
        mount: where the cgroup file systems are mounted; `CGROUP_MOUNT` by default.
        of_process: the file that lists the process's groups; `CGROUP_OF_PROCESS` by default.
    """
    mount, of_process = mount or CGROUP_MOUNT, of_process or CGROUP_OF_PROCESS
    try:
        lines = of_process.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            limits += _limits(mount, group, _quota_v2)
        elif "cpu" in controllers.split(","):
            root = next((mount / name for name in (controllers, "cpu") if (mount / name).is_dir()), mount / "cpu")
            limits += _limits(root, group, _quota_v1)
    return min(limits, default=None)


def _limits(root: Path, group: str, quota: Callable[[Path], float | None]) -> list[float]:
    # In a container the group may have its name on the host, while the mount has the container's group as its root.
    parts = [part for part in group.split("/") if part not in ("", "..")]
    folders = [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return [limit for folder in folders if (limit := quota(folder)) is not None]


def _quota_v2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text("ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text("ascii"))
        return limit / period if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
