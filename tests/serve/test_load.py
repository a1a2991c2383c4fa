"""A server with more to do than it can: what waits, what is refused, what is dropped."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from serving import Running, png

import signsclf
from signsclf.serve.engine import Engine

pytestmark = pytest.mark.serve


@pytest.fixture
def held(serve, monkeypatch) -> tuple[Running, threading.Event, list[int]]:
    """A server whose runs wait for the event; the list has the images of each run that has begun."""
    running = serve(max_wait=0.5)
    classifier = running.service.models.get().classifier
    go, runs, real = threading.Event(), [], classifier.logits

    def logits(batch):
        runs.append(len(batch))
        assert go.wait(30)
        return real(batch)

    monkeypatch.setattr(classifier, "logits", logits)
    yield running, go, runs
    go.set()


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until
        time.sleep(0.005)


def engine_of(running: Running) -> Engine:
    return running.service._engine


def post(running: Running, data: bytes) -> requests.Response:
    return requests.post(f"{running.url}/predict", data, timeout=30)


def test_the_work_of_clients_that_hang_up_is_dropped(held):
    running, go, runs = held
    engine = engine_of(running)
    host, port = running.url.removeprefix("http://").split(":")
    clients = []
    for count in range(1, 6):
        client = socket.create_connection((host, int(port)))
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(png()) + png())
        clients.append(client)
        # The first is in its run before another comes: on a busy machine its decoding could be overtaken.
        wait_until(lambda count=count: engine.backlog == count and runs == [1])
    for client in clients[1:]:
        client.close()
    wait_until(lambda: engine.backlog == 1)
    go.set()
    assert clients[0].recv(100).startswith(b"HTTP/1.1 200")
    clients[0].close()
    wait_until(lambda: engine.backlog == 0)
    assert runs == [1]
    assert running.service.admission.bytes == running.service.admission.pixels == 0
    assert post(running, png()).status_code == 200


def test_what_would_wait_too_long_is_refused_with_the_time_to_try_again(held):
    running, go, _ = held
    engine = engine_of(running)
    engine.rate = 10.0
    with ThreadPoolExecutor(30) as pool:
        # Those at work wait for nothing, five more wait for half a second; the rest is too much.
        most = engine._n_threads + 6
        answers = [pool.submit(post, running, png()) for _ in range(most)]
        wait_until(lambda: engine.backlog == most)
        refused = post(running, png())
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json()["error"] == f"busy: {most} images wait; try again in 1 s"
        go.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert post(running, png()).status_code == 200


def test_memory_for_bodies_and_pixels_is_bounded_over_all_requests(serve):
    image = png(size=(100, 100))
    running = serve(max_bytes=1000, budget_bytes=1000, max_pixels=10_000, budget_pixels=15_000)
    admission = running.service.admission
    admission.bytes += 1000 - len(image) + 1
    assert post(running, image).json()["error"].startswith("busy: bodies of other requests fill the memory")
    admission.bytes = 0
    admission.pixels += 5001
    assert post(running, image).json()["error"].startswith("busy: images of other requests fill the memory")
    admission.pixels = 0
    assert post(running, image).status_code == 200
    assert admission.bytes == admission.pixels == 0
    # More than there ever is free memory for is not to be tried again.
    several = [("f", ("a.png", image)), ("f", ("b.png", image))]
    assert running.post("/predict", files=several).status_code == 413


def test_answers_are_the_same_alone_and_among_others(serve):
    model = Path(signsclf.__file__).parents[1] / "models" / "gtsrb-signnet"
    running = serve(model, max_batch=8)
    images = [(model / "run" / "replay" / f"{number:03}.png").read_bytes() for number in range(8)]
    alone = [post(running, image).json()["predictions"] for image in images]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda image: post(running, image).json()["predictions"], images * 8))
    assert found == alone * 8
    together = running.post("/predict", files=[("f", ("x", image)) for image in images]).json()["predictions"]
    assert [{**each, "name": ""} for each in together] == [each for (each,) in alone]
    assert max(engine_of(running).batches) > 1
