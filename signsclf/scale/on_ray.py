"""Run a batch job on Ray Data: an actor for each worker, which is given numbers of shards and writes their parts.

Ray starts, restarts and moves the actors; which parts there are, and what is in them, is the shards' own affair.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

from signsclf.errors import SignsclfError, first_line, require_extra
from signsclf.scale.batch import EVERYTHING, Share, missing, threads_of
from signsclf.scale.plan import Plan, check_model
from signsclf.scale.worker import IMAGE_SECONDS, PartWriter

_ANSWER_SECONDS = 10.0
_ROUNDS = 3
"""A job whose parts are not all there is run again: Ray can end one early when machines leave."""


class _Actor(PartWriter):
    """Makes the parts of Ray Data's batches."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        for shard in batch["shard"].tolist():
            super().__call__(shard)
        return batch


def run_on_ray(
    plan: Plan,
    *,
    workers: int = 1,
    threads: int | None = None,
    share: Share = EVERYTHING,
    address: str | None = None,
    image_seconds: float = IMAGE_SECONDS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Do what `signsclf.scale.batch.run` does, on Ray.

    Where this process is connected to Ray already, that is used. The plan's folder, the images and the model lie at
    the same paths on all machines of a cluster, and signsclf is installed there.

    Args:
        workers: actors, at most; fewer where there are fewer cores.
        threads: cores of each; None shares this machine's cores among the workers.
        address: of a running cluster; None takes $RAY_ADDRESS, else starts Ray on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        ModelError: the model is not the plan's.
        SignsclfError: Ray cannot be reached, a worker cannot work, or parts are missing after all.
    """
    require_extra("scale", "--engine ray")
    check_model(plan)
    # Ray sends statistics of its usage to its makers unless it is told not to, before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        address = address or os.environ.get("RAY_ADDRESS")
        if address:
            _refuse_silence(address)
        try:
            ray.init(address=address, include_dashboard=None, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise SignsclfError(f"Ray cannot be reached or started ({first_line(error)}); check --address") from error
    try:
        threads = threads or threads_of(workers)
        total = len(share.of(plan.shards))
        for _ in range(_ROUNDS):
            if not (shards := missing(plan, share)):
                break
            made = total - len(shards)
            for done, _ in enumerate(_made(plan, shards, workers, threads, image_seconds), made + 1):
                tell(done, total)
        if shards := missing(plan, share):
            raise SignsclfError(f"Ray ended, and {len(shards):,} parts are missing; run the batch again")
        tell(total, total)
    finally:
        if started_here:
            ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Refuse an address where nothing listens: Ray would wait for minutes, or for ever."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # "auto" and "local", which Ray finds itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SignsclfError(f"Ray cannot be reached at {address} ({first_line(error)}); check --address") from error


def _made(plan: Plan, shards: list[int], workers: int, threads: int, image_seconds: float) -> Iterator[object]:
    """Have the parts of shards made; yields as each is there."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A block for each shard: what is lost with an actor is one shard.
    numbers = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    # Ray Data restarts actors that are lost, and tries their shards again, as often as it takes.
    made = numbers.map_batches(
        _Actor, fn_constructor_args=(plan, threads, image_seconds), batch_size=1, num_cpus=threads,
        compute=ActorPoolStrategy(min_size=1, max_size=workers),
    )  # fmt: skip
    try:
        yield from made.iter_batches(batch_size=1)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, SignsclfError):
            raise cause from error
        raise SignsclfError(f"Ray: {first_line(error)}") from error
