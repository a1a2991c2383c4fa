"""Run a batch job on this machine: workers that take shards until all parts are there."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from signsclf.errors import SignsclfError
from signsclf.machine import usable_cores
from signsclf.scale.claims import Claims
from signsclf.scale.plan import Plan, check_model
from signsclf.scale.shards import part_path, parts_in, write_part
from signsclf.scale.worker import IMAGE_SECONDS, Worker

_LOOK_SECONDS = 0.2
_OTHERS_SECONDS = 2.0  # between looks at what other processes have claimed
_SHARE = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


class Share(NamedTuple):
    """Which shards of a job are this process's: those whose number leaves ``index`` when divided by ``count``."""

    index: int
    count: int

    def of(self, shards: int) -> range:
        """Return the numbers of the shards."""
        return range(self.index, shards, self.count)


EVERYTHING = Share(0, 1)


def parse_share(text: str) -> Share:
    """Read "I/N", the I-th (from 0) of N shares.

    Raises:
        SignsclfError: it is not.
    """
    found = _SHARE.fullmatch(text)
    if not found or not int(found[1]) < int(found[2]):
        raise SignsclfError(f"--shards-of {text}: should be I/N with I from 0 to N - 1, as in 0/4")
    return Share(int(found[1]), int(found[2]))


def share_from(environ: Mapping[str, str]) -> tuple[Share, str]:
    """Return the share of a task of a Slurm array or an indexed Kubernetes job, and the variable that says so.

    Raises:
        SignsclfError: the variables contradict each other.
    """
    if "SLURM_ARRAY_TASK_ID" in environ and "SLURM_ARRAY_TASK_COUNT" in environ:
        first, step = environ.get("SLURM_ARRAY_TASK_MIN", "0"), environ.get("SLURM_ARRAY_TASK_STEP", "1")
        index, variable = environ["SLURM_ARRAY_TASK_ID"], "SLURM_ARRAY_TASK_ID"
        with contextlib.suppress(ValueError, ZeroDivisionError):
            place = (int(index) - int(first)) // int(step)
            return parse_share(f"{place}/{environ['SLURM_ARRAY_TASK_COUNT']}"), variable
    elif "JOB_COMPLETION_INDEX" in environ and "JOB_COMPLETIONS" in environ:
        # Kubernetes gives the index; the number of completions is for the job's author to pass on.
        return parse_share(f"{environ['JOB_COMPLETION_INDEX']}/{environ['JOB_COMPLETIONS']}"), "JOB_COMPLETION_INDEX"
    else:
        return EVERYTHING, ""
    raise SignsclfError(f"${variable} is {index!r} of {environ['SLURM_ARRAY_TASK_COUNT']!r}; name --shards-of I/N")


def missing(plan: Plan, share: Share = EVERYTHING) -> list[int]:
    """Return the shards whose parts are not there."""
    parts = parts_in(plan)
    return [shard for shard in share.of(plan.shards) if shard not in parts]


def threads_of(workers: int) -> int:
    """Return the CPU threads of each of so many workers on this machine."""
    return max(1, usable_cores() // workers)


def run(
    plan: Plan,
    *,
    workers: int = 1,
    threads: int | None = None,
    share: Share = EVERYTHING,
    image_seconds: float = IMAGE_SECONDS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Predict all shards of a share whose parts are not there; returns when all are, whoever made them.

    Args:
        workers: processes.
        threads: CPU threads of each; None shares the cores among them.
        share: of the shards.
        image_seconds: to read one image.
        tell: called now and then with the shards done and all of the share.

    Raises:
        ModelError: the model is not the plan's.
        SignsclfError: a worker cannot work, or a part cannot be written.
    """
    check_model(plan)
    shards = list(share.of(plan.shards))
    open_shards = _Open(plan, missing(plan, share))
    with Claims(plan.folder) as claims, contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(Worker(plan, threads or threads_of(workers), image_seconds)) for _ in range(workers)
        ]
        trouble: list[BaseException] = []
        running = [
            threading.Thread(target=_serve, args=(worker, plan, open_shards, claims, trouble), daemon=True)
            for worker in made
        ]
        # Registered last, so that it comes first: threads end because their workers do.
        stack.callback(open_shards.close)
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running) and not trouble:
            tell(len(shards) - open_shards.left, len(shards))
            time.sleep(_LOOK_SECONDS)
        if trouble:
            raise trouble[0]
    tell(len(shards), len(shards))


class _Open:
    """The shards that are still to be made, for several threads."""

    def __init__(self, plan: Plan, shards: Iterable[int]) -> None:
        self._plan = plan
        self._shards = dict.fromkeys(shards)
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def left(self) -> int:
        return len(self._shards)

    def close(self) -> None:
        self._closed.set()

    def claimed(self, claims: Claims) -> Iterator[int]:
        """Yield one after the other those that could be claimed, until the parts of all are there."""
        while not self._closed.is_set():
            with self._lock:
                for shard in list(self._shards):
                    if part_path(self._plan, shard).exists():
                        del self._shards[shard]
                found = next((shard for shard in self._shards if claims.take(shard)), None)
            if found is not None:
                yield found
            elif not self._shards:
                return
            else:
                # Others have claimed what is left; they may die.
                self._closed.wait(_OTHERS_SECONDS)


def _serve(worker: Worker, plan: Plan, open_shards: _Open, claims: Claims, trouble: list[BaseException]) -> None:
    try:
        for shard in open_shards.claimed(claims):
            try:
                write_part(plan, shard, worker.part(shard))
            finally:
                claims.give_back(shard)
    except BaseException as error:  # of any kind: it is raised again where people see it
        trouble.append(error)
