"""What is counted."""

from __future__ import annotations

import re

import pytest
from serving import png

pytestmark = pytest.mark.serve

LINE = re.compile(r'[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+')


def test_metrics_are_prometheus_text_and_count_what_happened(serve):
    running = serve()
    for data in (png("red"), png((120, 120, 120)), b"text"):
        running.post("/predict", data)
    running.get("/no/such/path")
    answer = running.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert all(line.startswith("# ") or LINE.fullmatch(line) for line in lines)
    assert len({line for line in lines if line.startswith("# TYPE")}) == answer.text.count("# TYPE")
    for line in (
        'signsclf_requests_total{path="/predict",code="200"} 2',
        'signsclf_requests_total{path="/predict",code="415"} 1',
        'signsclf_requests_total{path="other",code="404"} 1',
        'signsclf_predictions_total{model="tiny",outcome="accepted"} 1',
        'signsclf_predictions_total{model="tiny",outcome="rejected"} 1',
        "signsclf_unreadable_images_total 1",
        'signsclf_runs_total{batch="1"} 2',
        'signsclf_stage_seconds_bucket{stage="run",le="+Inf"} 2',
        'signsclf_stage_seconds_count{stage="queue"} 2',
        "signsclf_ready 1",
        "signsclf_images_in_work 0",
        "signsclf_body_bytes_in_memory 0",
        "signsclf_pixels_in_work 0",
    ):
        assert line in lines
    counts = [int(line.split()[-1]) for line in lines if line.startswith("signsclf_request_seconds_bucket")]
    assert counts == sorted(counts) and counts[-1] == 4
