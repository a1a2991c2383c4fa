from __future__ import annotations

import threading
import time
from queue import Queue

import pytest

from signsclf.inference import arrivals
from signsclf.inference.arrivals import Arrivals, AtHand, arriving


def drained(source, n: int = 4, most: int = 12) -> list[list[int]]:
    """All batches, each done with before the next is taken."""
    found, batches = Arrivals(source, most), []
    while batch := found.take(n, wait=True):
        batches.append(batch)
        found.done(len(batch))
    return batches


def test_batches_of_what_comes_fast_are_full_and_in_order():
    assert drained(iter(range(10))) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert drained([]) == []
    assert [i for batch in drained(iter(range(10_000)), 64, 192) for i in batch] == list(range(10_000))


def test_what_is_there_is_given_while_more_is_awaited():
    queue: Queue = Queue()
    found = Arrivals(iter(queue.get, None), 12)
    for batch in ([1], [2, 3]):
        for item in batch:
            queue.put(item)
        began = time.monotonic()
        assert found.take(4, wait=True) == batch
        assert time.monotonic() - began < arrivals.PATIENCE + 1
    assert found.take(4, wait=False) == []
    queue.put(4)
    queue.put(None)
    assert found.take(4, wait=True) == [4]
    assert found.take(4, wait=True) == []


def test_an_error_comes_after_all_that_came_before_it():
    def broken():
        yield 1
        yield 2
        raise RuntimeError("camera gone")

    found = Arrivals(broken(), 12)
    assert found.take(4, wait=True) == [1, 2]
    assert found.take(4, wait=False) == []
    with pytest.raises(RuntimeError, match="camera gone"):
        found.take(4, wait=True)


def test_no_more_is_asked_for_than_may_be_open():
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield asked[-1]

    found = Arrivals(endless(), 12)
    assert found.take(4, wait=True) == [0, 1, 2, 3]
    time.sleep(0.05)
    assert len(asked) == 12
    found.done(4)
    assert found.take(4, wait=True) == [4, 5, 6, 7]
    time.sleep(0.05)
    assert len(asked) == 16
    found.close()
    threads = [thread for thread in threading.enumerate() if thread.name == "signsclf-arrivals"]
    for thread in threads:
        thread.join(2)
    assert not any(thread.is_alive() for thread in threads)


def test_what_is_left_at_the_end_is_given_without_waiting():
    found = Arrivals(iter(range(6)), 12)
    assert found.take(4, wait=True) == [0, 1, 2, 3]
    time.sleep(0.05)
    began = time.monotonic()
    assert found.take(4, wait=False) == [4, 5]
    assert time.monotonic() - began < arrivals.PATIENCE / 2


def test_a_sequence_is_read_without_a_thread():
    before = threading.active_count()
    found = arriving(list(range(6)), 12)
    assert isinstance(found, AtHand)
    assert [found.take(4, wait=True), found.take(4, wait=False), found.take(4, wait=True)] == [[0, 1, 2, 3], [4, 5], []]
    assert threading.active_count() == before
    assert isinstance(arriving(iter([1]), 12), Arrivals)
