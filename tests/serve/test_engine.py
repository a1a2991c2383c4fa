"""The queue: what runs together, what is never run, and that answers do not depend on it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from serving import png

import signsclf
from signsclf.inference.classifier import Classifier
from signsclf.serve.engine import Engine, Job, now

pytestmark = pytest.mark.serve

ROW = np.zeros((6, 8, 3), np.uint8)


@dataclass
class Held:
    """Stands for a model: its runs wait until they are let go, and tell how many images they had."""

    max_batch: int = 8
    threads: int = 1
    fails: bool = False
    runs: list[int] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def classifier(self):
        return SimpleNamespace(threads=self.threads, size=(6, 8), logits=self.logits)

    def logits(self, batch):
        self.begun.release()
        assert self.go.acquire(timeout=30)
        self.runs.append(len(batch))
        if self.fails:
            raise ValueError("no")
        return np.zeros((len(batch), 3), np.float32)

    def __hash__(self):
        return id(self)


@asynccontextmanager
async def started(capacity: int = 1, decoders: int = 1):
    engine = Engine(decoders, capacity)
    engine.start()
    yield engine
    await asyncio.to_thread(engine.stop)


def job(model, deadline: float = 30.0, data: bytes | None = None) -> Job:
    made = Job(model, now() + deadline)
    made.row, made.data = (ROW, None) if data is None else (None, data)
    return made


async def begun(model: Held) -> None:
    assert await asyncio.to_thread(model.begun.acquire, timeout=30)


async def decoded(jobs: list[Job]) -> None:
    while not all(each.decoded for each in jobs):
        await asyncio.sleep(0.001)


def test_what_waits_for_a_run_goes_together_in_few_sizes():
    async def main():
        model = Held()
        async with started() as engine:
            first = engine.submit(job(model))
            await begun(model)
            jobs = [job(model) for _ in range(7)]
            futures = [engine.submit(each) for each in jobs]
            await decoded(jobs)
            assert engine.backlog == 8
            model.go.release(10)
            await asyncio.gather(first, *futures)
            assert (engine.backlog, model.runs, dict(engine.batches)) == (0, [1, 4, 2, 1], {1: 2, 4: 1, 2: 1})

    asyncio.run(main())


def test_an_image_alone_is_run_at_once():
    async def main():
        model = Held()
        model.go.release(5)
        async with started() as engine:
            done = await engine.submit(job(model, data=png()))
            assert model.runs == [1] and done.error is None
            assert set(done.seconds) == {"queue", "decode", "run"} and min(done.seconds.values()) >= 0

    asyncio.run(main())


def test_late_and_dropped_work_is_never_run():
    async def main():
        model = Held()
        async with started() as engine:
            first = engine.submit(job(model))
            await begun(model)
            late, dropped, good = job(model, deadline=-1), job(model), job(model)
            futures = [engine.submit(each) for each in (late, dropped, good)]
            await decoded([good])
            engine.drop(dropped)
            assert engine.backlog <= 3
            model.go.release(5)
            await asyncio.gather(first, futures[0], futures[2])
            assert (late.error.status, good.error, model.runs) == (504, None, [1, 1])
            assert futures[1].cancelled() and engine.backlog == 0

    asyncio.run(main())


def test_a_deadline_that_passes_in_the_queue_counts_too():
    async def main():
        model = Held()
        async with started() as engine:
            first = engine.submit(job(model))
            await begun(model)
            late = job(model)
            future = engine.submit(late)
            await decoded([late])
            late.deadline = now() - 1
            model.go.release(5)
            await asyncio.gather(first, future)
            assert (late.error.status, model.runs) == (504, [1])

    asyncio.run(main())


def test_models_take_turns_and_each_run_has_one():
    async def main():
        one, two = Held(max_batch=1), Held(max_batch=1)
        async with started() as engine:
            first = engine.submit(job(one))
            await begun(one)
            jobs = [job(model) for model in (one, one, two, two)]
            futures = [engine.submit(each) for each in jobs]
            await decoded(jobs)
            order = []
            for future, name in zip(futures, "aabb", strict=True):
                future.add_done_callback(lambda _, name=name: order.append(name))
            one.go.release(5)
            two.go.release(5)
            await asyncio.gather(first, *futures)
            assert order == ["a", "b", "a", "b"]

    asyncio.run(main())


def test_runs_take_no_more_threads_than_there_are():
    async def main():
        wide, narrow = Held(threads=4), Held()
        async with started(capacity=2, decoders=4) as engine:
            futures = [engine.submit(job(narrow))]
            await begun(narrow)
            waits = job(wide)
            futures.append(engine.submit(waits))
            await decoded([waits])
            assert not wide.begun.acquire(timeout=0.05)  # a thread is free, two are wanted
            narrow.go.release()
            await begun(wide)
            futures.append(engine.submit(job(narrow)))
            assert not narrow.begun.acquire(timeout=0.05)
            wide.go.release()
            narrow.go.release()
            await asyncio.gather(*futures)

    asyncio.run(main())


def test_a_run_that_fails_answers_all_of_its_images_and_the_next_one_runs():
    async def main():
        model = Held(fails=True)
        model.go.release(5)
        async with started() as engine:
            failed = await engine.submit(job(model))
            assert isinstance(failed.error, ValueError)
            unread = await engine.submit(job(model, data=b"no image"))
            assert "not an image" in str(unread.error)
            model.fails = False
            assert (await engine.submit(job(model))).error is None

    asyncio.run(main())


def test_the_wait_follows_from_what_waits_and_how_fast_it_goes():
    engine = Engine(1, 1)
    assert engine.wait == 0
    engine.rate, engine.backlog = 10.0, 2
    assert engine.wait == 0
    engine.backlog = 22
    assert engine.wait == 2.0


def test_answers_do_not_depend_on_the_batch_bit_for_bit():
    classifier = Classifier(Path(signsclf.__file__).parents[1] / "models" / "gtsrb-signnet", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (32, *classifier.size, 3), np.uint8)
    alone = np.concatenate([classifier.logits(pixels[i : i + 1]) for i in range(32)])
    for size in (2, 4, 8, 16, 32):
        parts = [classifier.logits(pixels[start : start + size]) for start in range(0, 32, size)]
        np.testing.assert_array_equal(np.concatenate(parts), alone)
