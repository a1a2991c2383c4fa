"""The life of the real process: start, signals, end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Thread

import pytest
import requests
from serving import png

pytestmark = [
    pytest.mark.serve,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM and SIGHUP to send"),
]
SHORT = ("--runners", "1", "--threads", "1", "--max-batch", "1")


@dataclass
class Process:
    """`signsclf serve` as a process of its own."""

    process: subprocess.Popen
    url: str = ""
    lines: list[str] = field(default_factory=list)

    def wait_for(self, pattern: str) -> str:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            for line in self.lines:
                if found := re.search(pattern, line):
                    return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no {pattern!r} in {self.lines}")

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)


@pytest.fixture
def process(tiny) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*options: object, model: object = tiny, prefix: tuple[str, ...] = (), **environment: str) -> Process:
        command = [*prefix, sys.executable, "-m", "signsclf", "serve", str(model), "--port", "0", *map(str, options)]
        made = Process(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
            )
        )
        started.append(made)

        def read() -> None:
            for line in made.process.stderr:
                made.lines.append(line.rstrip())

        Thread(target=read, daemon=True).start()
        made.url = made.wait_for(r"http://[0-9.]+:[0-9]+")
        return made

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()


def test_sigterm_is_told_to_balancers_drained_and_ends_with_0(process):
    ran = process(*SHORT, "--drain", "0.7")
    assert ran.get("/health/ready").status_code == ran.get("/health/live").status_code == 200
    ran.process.send_signal(signal.SIGTERM)
    ran.wait_for("once more ends at once")
    assert ran.get("/health/ready").status_code == 503
    assert ran.get("/health/live").status_code == 200
    answer = requests.post(f"{ran.url}/predict", png(), timeout=30)  # work is still accepted
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    assert ran.process.wait(30) == 0
    with pytest.raises(requests.ConnectionError):
        ran.get("/health/live")


def test_a_second_signal_ends_it_at_once(process):
    ran = process(*SHORT, "--drain", "600")
    ran.process.send_signal(signal.SIGTERM)
    ran.wait_for("once more ends at once")
    ran.process.send_signal(signal.SIGTERM)
    assert ran.process.wait(30) == 128 + signal.SIGTERM


def test_ctrl_c_waits_for_no_balancer(process):
    ran = process(*SHORT, "--drain", "600")
    ran.process.send_signal(signal.SIGINT)
    assert ran.process.wait(30) == 0


def test_it_calibrates_while_it_answers_and_sighup_reads_the_folder_anew(process):
    ran = process()
    assert requests.post(f"{ran.url}/predict", png(), timeout=30).status_code == 200
    ran.wait_for(r"tiny: \d+ runners? of \d+ threads?, up to \d+ images? a run: .* alone \(measured;")
    ran.process.send_signal(signal.SIGHUP)
    ran.wait_for("tiny: unchanged")
    assert ran.get("/health/ready").status_code == 200


def test_sighup_is_heard_under_nohup(process):
    ran = process(*SHORT, prefix=("nohup",))
    ran.process.send_signal(signal.SIGHUP)
    ran.wait_for("tiny: unchanged")


def test_the_log_has_a_json_line_for_each_request_and_never_its_query(process):
    ran = process(*SHORT, "--access-log")
    sent = {"X-Request-ID": "abc", "traceparent": "00-aa-bb-01"}
    answer = requests.post(f"{ran.url}/predict?top_k=1", png(), headers=sent, timeout=30)
    assert answer.headers["X-Request-ID"] == "abc"
    ran.process.send_signal(signal.SIGINT)
    assert ran.process.wait(30) == 0
    (line,) = ran.process.stdout.read().splitlines()
    found = json.loads(line)
    assert found.pop("ms") > 0 and found.pop("time").endswith("Z")
    assert found == {
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "content_length": str(len(png())),
        "x_request_id": "abc",
        "traceparent": "00-aa-bb-01",
    }


def test_an_address_in_use_is_told_in_one_line(process, cli, tiny):
    ran = process(*SHORT)
    port = ran.url.rpartition(":")[2]
    second = cli("serve", tiny, "--port", port, *SHORT)
    assert second.code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in second.complaint


def test_a_model_that_cannot_be_served_is_told_in_one_line(cli, tmp_path, tiny):
    missing = cli("serve", tmp_path / "none", "--port", "0")
    assert missing.code == 2 and "none" in missing.complaint
    twice = cli("serve", tiny, tiny, "--port", "0")
    assert "two models have the same name: tiny, tiny" in twice.complaint
