"""How `signsclf serve` stands beside FastAPI, LitServe and BentoML, in one run on one machine.

    python scripts/bench_serve.py [--rivals PYTHON] [--rounds 3] [--seconds 8] [--out FILE.json]

All serve the same networks of random weights (signnet at 32 px, ResNet-34 at 64 px) to the same PNG files, sent as they
are, but to LitServe, which takes no raw body, as base64 in JSON. The load comes from the last core that this process
may use, the servers have the others. Prints for each server: images/s under a closed loop of 16 connections (wrk, which
must be installed); then, under Poisson arrivals at 25 to 200 % of that, latencies counted from the time at which a
request was due, and goodput, the answers a second that came within a second of it. The bare loop decodes and runs one
image after the other on the servers' cores. PYTHON is an interpreter with fastapi, uvicorn, litserve, bentoml,
onnxruntime and pillow; without it signsclf is measured alone. scripts/soak_serve.py watches the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np
from bench_predict import make_images, make_model

HERE = Path(__file__).parent
Requests: TypeAlias = tuple[str, list[bytes]]
"""Content type and bodies."""
RIVALS = {
    "fastapi": ["plain_fastapi.py"],
    "litserve": ["lit_serve.py"],
    "bentoml": ["-m", "bentoml", "serve", "bento_ml:Signs", "--host", "127.0.0.1", "--port"],
}
NETWORKS = {"signnet_32px": ("signnet", 32), "resnet34_64px": ("resnet34", 64)}
SHARES = (0.25, 0.5, 0.8, 0.95, 1.5, 2.0)
CONNECTIONS = 16
IN_TIME = 1.0
"""Seconds within which an answer is of use."""
BARE = """
import sys, time, pathlib
sys.path.insert(0, sys.argv[1])
from pixels import Network
network = Network()
bodies = [file.read_bytes() for file in sorted(pathlib.Path(sys.argv[2]).iterdir())]
network.probabilities([network.decode(bodies[0])])
began, n = time.perf_counter(), 0
while time.perf_counter() - began < float(sys.argv[3]):
    network.probabilities([network.decode(bodies[n % len(bodies)])])
    n += 1
print(n / (time.perf_counter() - began))
"""
LUA = """
local bodies, n = {}, 0
for name in io.popen('ls "FOLDER"'):lines() do
  local file = io.open("FOLDER/" .. name, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
request = function()
  n = n % #bodies + 1
  return wrk.format("POST", "/predict", {["Content-Type"] = "TYPE"}, bodies[n])
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", help="interpreter that has the other servers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    asked = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed; on Debian: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("one core for the load and one for the servers are needed, and this process may use one")
    os.sched_setaffinity(0, cores[-1:])
    figures: dict[str, object] = {"server_cores": len(cores) - 1}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_images(folder / "images", 64)
        for name in asked.networks:
            model = make_model(folder / name, *NETWORKS[name])
            figures[name] = bench(Bench(folder, model, set(cores[:-1]), asked.rivals, asked.seconds), asked.rounds)
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


class Bench:
    """One network behind each of the servers in turn."""

    def __init__(self, folder: Path, model: Path, cores: set[int], rivals: str | None, seconds: float) -> None:
        self.folder, self.model, self.cores, self.seconds = folder, model, cores, seconds
        self._images = [file.read_bytes() for file in sorted((folder / "images").iterdir())]
        self._python = rivals
        self.servers = ["signsclf", *(RIVALS if rivals else ())]
        for server in self.servers:
            bodies = folder / server
            bodies.mkdir(exist_ok=True)
            kind, contents = self.requests(server)
            for number, content in enumerate(contents):
                (bodies / f"{number:03}").write_bytes(content)
            (folder / f"{server}.lua").write_text(LUA.replace("FOLDER", str(bodies)).replace("TYPE", kind))

    def requests(self, server: str) -> Requests:
        """Make the content type and the bodies of the requests to a server."""
        if server == "litserve":
            texts = [json.dumps({"image": base64.b64encode(image).decode()}) for image in self._images]
            return "application/json", [text.encode() for text in texts]
        return "image/png", self._images

    @contextmanager
    def serving(self, server: str) -> Iterator[tuple[int, float]]:
        """Run a server; gives its port and the seconds until its first answer."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environ = os.environ | {"BENCH_MODEL": str(self.model), "BENCH_PORT": str(port), "ORT_DISABLE_TELEMETRY": "1"}
        if server == "signsclf":
            command = [sys.executable, "-m", "signsclf", "serve", str(self.model), "--port", str(port)]
        else:
            command = [str(self._python), *RIVALS[server]] + ([str(port)] if server == "bentoml" else [])
            environ.pop("PYTHONPATH", None)
        log = self.folder / "server.log"
        began = time.perf_counter()
        # In a session of its own, so that its own child processes end with it.
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=environ, cwd=HERE / "rivals" if server != "signsclf" else None, start_new_session=True,
                stdout=output, stderr=output, preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
            )  # fmt: skip
        try:
            while asyncio.run(_answers(port, self.requests(server))) != 200:
                if process.poll() is not None or time.perf_counter() - began > 60:
                    raise SystemExit(f"{server} does not answer:\n{log.read_text()}")
                time.sleep(0.02)
            yield port, time.perf_counter() - began
        finally:
            # BentoML's workers have sessions of their own, and end only if their parent ends them.
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def bare(self) -> float:
        """Measure images/s of the bare loop."""
        command = [sys.executable, "-c", BARE, str(HERE / "rivals"), str(self.folder / "images"), str(self.seconds)]
        environ = os.environ | {"BENCH_MODEL": str(self.model), "ORT_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(
            command, env=environ, check=True, capture_output=True, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
        )  # fmt: skip
        return float(done.stdout)

    def peak(self, server: str, port: int, seconds: float) -> float:
        """Measure images/s of a closed loop; answers that are no success do not count."""
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "-s", str(self.folder / f"{server}.lua")]
        done = subprocess.run([*command, f"http://127.0.0.1:{port}"], check=True, capture_output=True, text=True)
        total, took = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout).groups()
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
        return (int(total) - int(failed[1] if failed else 0)) / float(took)


def bench(bench: Bench, rounds: int) -> dict[str, object]:
    """All figures of one network; peaks and bare loops are medians over interleaved rounds."""
    peaks: dict[str, list[float]] = {server: [] for server in ("bare", *bench.servers)}
    ready: dict[str, list[float]] = {server: [] for server in bench.servers}
    idle: dict[str, list[float]] = {server: [] for server in bench.servers}
    for _ in range(rounds):
        peaks["bare"].append(bench.bare())
        for server in bench.servers:
            with bench.serving(server) as (port, seconds):
                ready[server].append(seconds)
                bench.peak(server, port, 2)  # warm, and past any calibration
                peaks[server].append(bench.peak(server, port, bench.seconds))
                idle[server].append(asyncio.run(one_by_one(port, bench.requests(server), 200)))
    bare = statistics.median(peaks["bare"])
    print(f"\n{bench.model.name}: bare loop {bare:.0f} images/s ({min(peaks['bare']):.0f} to {max(peaks['bare']):.0f})")
    figures: dict[str, object] = {"bare": peaks["bare"]}
    for server in bench.servers:
        best, alone = statistics.median(peaks[server]), statistics.median(idle[server])
        print(
            f"{server:9} {best:6.0f} images/s, {best / bare:.2f} of bare; idle {1000 * alone:.2f} ms, "
            f"{alone * bare:.2f} times bare; first answer after {statistics.median(ready[server]):.2f} s"
        )
        figures[server] = {"peak": peaks[server], "idle_seconds": idle[server], "ready_seconds": ready[server]}
    print(f"{'':9} load  due/s  goodput    p50      p99    p99.9 ms  answers")
    for server in bench.servers:
        best = statistics.median(peaks[server])
        points = []
        with bench.serving(server) as (port, _):
            bench.peak(server, port, 2)
            for share in SHARES:
                point = asyncio.run(open_loop(port, bench.requests(server), share * best, bench.seconds))
                points.append({"share": share, "rate": share * best, **point})
                p50, p99, p999 = point["p50"], point["p99"], point["p99.9"]
                print(
                    f"{server:9} {share:4.0%} {share * best:6.0f} {point['goodput']:7.0f} {p50:8.2f} {p99:8.2f} "
                    f"{p999:8.2f}    {point['answers']}"
                )
        figures[server]["open_loop"] = points
    return figures


class Connection(asyncio.Protocol):
    """A kept connection that sends one request at a time; `ask` gives the status of its answer."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_open = True

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if found and length and len(body) >= int(length[1]) and self._waiter is not None and not self._waiter.done():
            self._buffer = b""
            self._waiter.set_result(int(head.split(b" ", 2)[1]))

    async def ask(self, kind: str, body: bytes) -> int:
        self._waiter = asyncio.get_running_loop().create_future()
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        self._transport.write(head.encode() + b"\r\n\r\n" + body)
        return await self._waiter

    def close(self) -> None:
        self._transport.abort()


async def _connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def _answers(port: int, requests: Requests) -> int:
    """Ask once; gives the status, 0 where nothing answers."""
    try:
        return await asyncio.wait_for((await _connect(port)).ask(requests[0], requests[1][0]), 10)
    except (OSError, asyncio.TimeoutError):
        return 0


async def one_by_one(port: int, requests: Requests, n: int) -> float:
    """Measure the median seconds of requests on one connection, one after the other."""
    kind, bodies = requests
    connection, seconds = await _connect(port), []
    for i in range(n):
        began = time.perf_counter()
        await connection.ask(kind, bodies[i % len(bodies)])
        seconds.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(seconds)


async def open_loop(port: int, requests: Requests, rate: float, seconds: float) -> dict[str, object]:
    """Send requests at Poisson arrivals, whether or not earlier ones are answered."""
    kind, bodies = requests
    rng = np.random.default_rng(0)
    due = np.cumsum(rng.exponential(1 / rate, round(rate * seconds)))
    latencies: list[float] = []
    answers: Counter[str] = Counter()
    free: deque[Connection] = deque()
    began = time.perf_counter()

    async def one(number: int, time_due: float) -> None:
        connection = None
        try:
            while free and not (connection := free.pop()).is_open:
                connection = None
            connection = connection or await _connect(port)
            status = await connection.ask(kind, bodies[number % len(bodies)])
        except OSError:
            answers["none"] += 1
            return
        except asyncio.CancelledError:
            answers["unanswered"] += 1
            raise
        answers[str(status)] += 1
        free.append(connection)
        if status == 200:
            latencies.append(time.perf_counter() - began - time_due)

    tasks = []
    for number, time_due in enumerate(due):
        wait = began + time_due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number, time_due)))
    _, unanswered = await asyncio.wait(tasks, timeout=5)
    for task in unanswered:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    values = np.array(latencies or [np.nan])
    percentiles = {f"p{q}": float(1000 * np.percentile(values, q)) for q in (50, 99, 99.9)}
    in_time = int((values < IN_TIME).sum())
    return {"goodput": in_time / float(due[-1]), **percentiles, "answers": dict(answers)}


if __name__ == "__main__":
    main()
