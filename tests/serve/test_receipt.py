"""Deadlines and bounds of connections, on real sockets, with both of uvicorn's parsers."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from contextlib import ExitStack

import pytest
import uvicorn
from wire import PATIENCE, answer, connect, drip, head, rest, status

from signsclf.serve.receipt import MAX_HEADER_BYTES, receipt_protocol
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve

QUICK = {"header_seconds": 0.2, "body_seconds": 0.4, "idle_seconds": 0.3, "send_seconds": 0.3}
LONG = 600.0


class Toy:
    """A server whose application echoes the length of bodies, and waits, hurries or talks too much on request."""

    def __init__(self, **settings):
        self.release = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.ended = 0
        times = dict.fromkeys(QUICK, LONG)
        self.settings = ServeSettings(port=0, **{**times, **settings})
        self.protocol = receipt_protocol(self.settings)
        config = uvicorn.Config(
            self.app, http=self.protocol, host="127.0.0.1", port=0, log_level="critical", lifespan="off", ws="none",
            interface="asgi3", timeout_keep_alive=int(LONG),
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until = time.monotonic() + PATIENCE
        while not self.server.started:
            assert time.monotonic() < until
            time.sleep(0.005)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    async def app(self, scope, receive, send):
        path = scope["path"]
        body, length = b"", 0
        if path != "/early":
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.ended += 1
                    return
                length += len(message["body"])
                if not message["more_body"]:
                    break
        if path == "/wait":
            self.waiting.release()
            while not self.release.is_set():
                await asyncio.sleep(0.005)
        body = b"x" * 20_000_000 if path == "/large" else b"%d %d" % (length, len(scope["headers"]))
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 413 if path == "/early" else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @property
    def open(self):
        return len(self.protocol.open.all)

    def comes_to(self, count, *, ended=None):
        """Wait for so many open connections, and until the application has heard of so many that ended early."""
        until = time.monotonic() + PATIENCE
        while self.open != count or ended not in (None, self.ended):
            assert time.monotonic() < until, f"{self.open} connections and {self.ended} ended, not {count} and {ended}"
            time.sleep(0.005)

    def stop(self):
        self.release.set()
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture(params=["httptools", "h11"])
def toy(request, monkeypatch):
    if request.param == "h11":
        monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    else:
        pytest.importorskip("httptools")
    started = []

    def start(**settings):
        started.append(Toy(**settings))
        names = [kind.__name__ for kind in started[-1].protocol.__mro__]
        assert {"httptools": "HttpToolsProtocol", "h11": "H11Protocol"}[request.param] in names
        return started[-1]

    yield start
    for found in started:
        found.stop()


def test_what_comes_in_time_is_answered(toy):
    server = toy()
    with connect(server.url) as client:
        for length in (0, 1, 100_000):
            client.sendall(head("POST", "/", f"Content-Length: {length}") + b"x" * length)
            assert answer(client) == (200, b"%d 2" % length)
        client.sendall(
            head("POST", "/", "Transfer-Encoding: chunked") + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n"
        )
        assert answer(client) == (200, b"5 2")
        # Sizes and line ends alone are more than a head may have.
        client.sendall(head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert answer(client) == (200, b"100000 2")
        # Several at once, and the rest of the last one a little later.
        client.sendall(head("GET", "/") * 3 + head("GET", "/")[:20])
        found = b""
        while found.count(b"0 1") < 3:
            found += client.recv(65536)
        client.sendall(head("GET", "/")[20:])
        assert answer(client) == (200, b"0 1")
    server.comes_to(0)


def test_slow_headers_end_at_their_deadline_whatever_still_comes(toy):
    server = toy(header_seconds=0.2)
    with connect(server.url) as client:
        said = drip(client, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 1000)
        assert status(said) == 408
        assert "headers" in json.loads(said.partition(b"\r\n\r\n")[2])["error"]
    server.comes_to(0)


def test_the_next_request_of_a_connection_has_the_same_deadline(toy):
    server = toy(header_seconds=0.2)
    with connect(server.url) as client:
        client.sendall(head("GET", "/") + b"GET")
        assert answer(client)[0] == 200
        assert status(drip(client, b" / HTTP/1.1\r\n" + b"X-A: b\r\n" * 1000)) == 408


def test_a_slow_body_ends_at_its_deadline_and_the_application_hears_of_it(toy):
    server = toy(header_seconds=0.1, body_seconds=0.2)
    with connect(server.url) as client:
        client.sendall(head("POST", "/", "Content-Length: 100000"))
        said = drip(client, b"x" * 10_000)
        assert status(said) == 408
        assert "body" in json.loads(said.partition(b"\r\n\r\n")[2])["error"]
    server.comes_to(0, ended=1)


def test_chunks_without_end_are_a_slow_body_too(toy):
    server = toy(header_seconds=0.1, body_seconds=0.2)
    with connect(server.url) as client:
        client.sendall(head("POST", "/", "Transfer-Encoding: chunked"))
        assert status(drip(client, b"1\r\nx\r\n" * 2000)) == 408


def test_a_body_that_comes_slowly_has_less_time_than_one_that_comes_well(toy):
    """100 bytes a second or so end with the headers' time; the body's own is for large ones."""
    server = toy(header_seconds=0.1, body_seconds=LONG)
    with connect(server.url) as client:
        client.sendall(head("POST", "/", "Content-Length: 100000"))
        assert status(drip(client, b"x" * 10_000)) == 408
    with connect(server.url) as client:
        # 100,000 bytes at once earn 10 seconds.
        client.sendall(head("POST", "/", "Content-Length: 100002"))
        client.sendall(b"x")
        time.sleep(0.05)
        client.sendall(b"x" * 100_000)
        time.sleep(0.3)
        client.sendall(b"x")
        assert answer(client) == (200, b"100002 2")
        # What was earned is spent with that request.
        client.sendall(head("POST", "/", "Content-Length: 100000"))
        assert b"within 0 seconds" in drip(client, b"x" * 10_000)


def test_work_has_no_deadline_of_receipt(toy):
    server = toy(**QUICK)
    with connect(server.url) as client:
        client.sendall(head("POST", "/wait", "Content-Length: 1") + b"x")
        assert server.waiting.acquire(timeout=PATIENCE)
        time.sleep(1.0)  # more than every deadline
        server.release.set()
        assert answer(client) == (200, b"1 2")


def test_a_part_of_the_next_request_does_not_end_the_work_on_this_one(toy):
    server = toy(**QUICK)
    with connect(server.url) as client:
        client.sendall(head("GET", "/wait") + head("POST", "/", "Content-Length: 5") + b"x")
        assert server.waiting.acquire(timeout=PATIENCE)
        time.sleep(1.0)
        server.release.set()
        assert answer(client) == (200, b"0 1")


def test_idle_connections_are_closed_with_and_without_a_request_before(toy):
    server = toy(idle_seconds=0.3)
    with connect(server.url) as silent, connect(server.url) as used:
        used.sendall(head("GET", "/"))
        assert answer(used)[0] == 200
        assert rest(silent) == rest(used) == b""
    server.comes_to(0)


def test_an_answer_that_is_not_read_is_not_kept(toy):
    server = toy(send_seconds=0.3)
    with connect(server.url, receive_buffer=4096) as client:
        client.sendall(head("GET", "/large"))
        assert client.recv(10)
        server.comes_to(0)
        assert len(rest(client)) < 20_000_000


def test_a_closing_connection_whose_answer_is_not_read_is_not_kept_either(toy):
    server = toy(send_seconds=0.3)
    with connect(server.url, receive_buffer=4096) as client:
        client.sendall(head("GET", "/large", "Connection: close"))
        assert client.recv(10)
        server.comes_to(0)


def test_an_early_answer_is_heard_by_a_client_that_still_sends(toy):
    """Closed at once, the connection would be reset, and the answer lost."""
    server = toy(header_seconds=0.2, body_seconds=0.2)
    with connect(server.url) as client:
        client.sendall(head("POST", "/early", "Content-Length: 3000000") + b"x" * 1_000_000)
        client.sendall(b"x" * 2_000_000)
        assert answer(client)[0] == 413
        client.sendall(head("GET", "/"))
        assert answer(client) == (200, b"0 1")
        client.sendall(head("POST", "/early", "Content-Length: 3000000"))
        assert answer(client)[0] == 413
        # And one that never sends the rest is not waited for.
        assert rest(client) == b""


def test_at_the_bound_the_one_that_waited_longest_makes_way(toy):
    server = toy(max_connections=3)
    with ExitStack() as opened:
        silent, slow, used = (opened.enter_context(connect(server.url)) for _ in range(3))
        server.comes_to(3)
        slow.sendall(b"GET / HT")
        for closed in (silent, slow):
            # What is used waits less long than the others.
            used.sendall(head("GET", "/"))
            assert answer(used)[0] == 200
            client = opened.enter_context(connect(server.url))
            assert rest(closed) == b""
            client.sendall(head("GET", "/"))
            assert answer(client)[0] == 200
            server.comes_to(3)


def test_work_never_makes_way_and_newcomers_are_told_when_to_come_again(toy):
    server = toy(max_connections=2)
    with connect(server.url) as first, connect(server.url) as second:
        for client in (first, second):
            client.sendall(head("GET", "/wait"))
            assert server.waiting.acquire(timeout=PATIENCE)
        with connect(server.url) as third:
            said = rest(third)
            assert status(said) == 503 and b"retry-after: 1" in said
            assert "too many" in json.loads(said.partition(b"\r\n\r\n")[2])["error"]
        server.release.set()
        assert answer(first)[0] == answer(second)[0] == 200
        with connect(server.url) as third:
            third.sendall(head("GET", "/"))
            assert answer(third)[0] == 200


def test_many_idle_connections_keep_nobody_out(toy):
    server = toy(max_connections=50)
    crowd = [connect(server.url) for _ in range(200)]
    try:
        with connect(server.url) as client:
            client.sendall(head("GET", "/"))
            assert answer(client)[0] == 200
        assert server.open <= 50
    finally:
        for found in crowd:
            found.close()
    server.comes_to(0)


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX-A: ",
        b"GET /",
        head("POST", "/", "Transfer-Encoding: chunked") + b"1;",
        head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-A: ",
    ],
    ids=["headers", "one header", "url", "extension of a chunk", "trailer"],
)
def test_headers_without_end_are_bounded(toy, beginning):
    server = toy()
    with connect(server.url) as client:
        client.sendall(beginning)
        sent = 0
        try:
            while sent < 100 * MAX_HEADER_BYTES:
                client.sendall(b"A: b\r\n" * 1000 if beginning == b"GET / HTTP/1.1\r\n" else b"a" * 6000)
                sent += 6000
        except ConnectionError:
            pass
        assert sent < 100 * MAX_HEADER_BYTES
        assert status(rest(client)) in (0, 200, 400, 431)
    server.comes_to(0)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        head("POST", "/", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("POST", "/", "Content-Length: 5", "Content-Length: 6") + b"123456",
        head("POST", "/", "Content-Length: -1"),
        head("POST", "/", "Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_one_line(toy, nonsense):
    server = toy(header_seconds=0.3, body_seconds=0.3, idle_seconds=0.3)
    with connect(server.url) as client:
        client.sendall(nonsense)
        said = rest(client)
        # h11 takes some of it.
        if status(said) not in (0, 200):
            assert status(said) in (400, 408)
            assert "\n" not in json.loads(said.partition(b"\r\n\r\n")[2])["error"]
    with connect(server.url) as client:
        client.sendall(head("GET", "/"))
        assert answer(client)[0] == 200


def test_the_bound_follows_what_the_process_may_open(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = {"now": (256, 400)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
    assert receipt_protocol(ServeSettings(max_connections=1000)).open.most == 300
    assert limits["now"] == (400, 400)
    limits["now"] = (256, resource.RLIM_INFINITY)
    assert receipt_protocol(ServeSettings(max_connections=1000)).open.most == 1000
    assert limits["now"][0] >= 1100
