"""What surrounds all protocols."""

from __future__ import annotations

import logging
import time

import pytest
from serving import png

pytestmark = pytest.mark.serve


def test_an_unexpected_error_is_500_and_one_line_in_the_log(serve, monkeypatch, caplog):
    running = serve()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(running.service, "_answer", broken)
    with caplog.at_level(logging.ERROR, logger="signsclf"):
        answer = running.post("/predict", png())
        # The line follows the answer.
        until = time.monotonic() + 30
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.005)
    assert answer.status_code == 500
    assert answer.json() == {"error": "unexpected ZeroDivisionError; the server's log has more"}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert [record.getMessage() for record in caplog.records] == ["/predict: unexpected ZeroDivisionError: secret"]
    assert running.service.admission.bytes == running.service.admission.pixels == 0


def test_memory_that_is_out_is_503(serve, monkeypatch):
    running = serve()

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(running.service.models.get().classifier, "logits", full)
    answer = running.post("/predict", png())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "out of memory" in answer.json()["error"]


def test_before_its_start_a_service_takes_nothing(serve):
    running = serve()
    running.service._running = False
    answer = running.post("/predict", png())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    running.service._running = True
    assert running.post("/predict", png()).status_code == 200
