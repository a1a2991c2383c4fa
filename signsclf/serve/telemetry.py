"""What a server tells of its work: counters and histograms for Prometheus, and a JSON line for each request."""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from signsclf.serve.engine import STAGES, Engine

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of seconds by upper bound."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._total += seconds

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Yield its lines in Prometheus's text format; ``labels`` is "" or 'name="value",'."""
        cumulated = 0
        for bound, count in zip((*_SECONDS, "+Inf"), self._counts, strict=True):
            cumulated += count
            yield f'{name}_bucket{{{labels}le="{bound}"}} {cumulated}'
        own = f"{{{labels.rstrip(',')}}}" if labels else ""
        yield f"{name}_sum{own} {self._total:.6f}"
        yield f"{name}_count{own} {cumulated}"


class Telemetry:
    """Counters of one server; used by the event loop's thread alone."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._predictions: Counter[tuple[str, str]] = Counter()
        self._unreadable = 0
        self._request_seconds = Histogram()
        self._stages = {stage: Histogram() for stage in STAGES}

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request; ``path`` is that of a route, so that their number is bounded."""
        self._requests[path, status] += 1
        self._request_seconds.observe(seconds)

    def predicted(self, model: str, accepted: bool | None, timings: Mapping[str, float]) -> None:
        """Count the prediction for one image."""
        outcome = "unrated" if accepted is None else "accepted" if accepted else "rejected"
        self._predictions[model, outcome] += 1
        for stage, seconds in timings.items():
            self._stages[stage].observe(seconds)

    def unread(self) -> None:
        """Count an image that could not be read."""
        self._unreadable += 1

    def text(self, engine: Engine, gauges: Mapping[str, float]) -> str:
        """Write all of it in Prometheus's text format; ``gauges`` are further values by name."""
        lines = [
            *_head("requests_total", "counter", "Requests by route and status."),
            *(
                f'signsclf_requests_total{{path="{_escape(path)}",code="{code}"}} {n}'
                for (path, code), n in sorted(self._requests.items())
            ),
            *_head("predictions_total", "counter", "Images predicted, by model and by the reject threshold."),
            *(
                f'signsclf_predictions_total{{model="{_escape(model)}",outcome="{outcome}"}} {n}'
                for (model, outcome), n in sorted(self._predictions.items())
            ),
            *_head("unreadable_images_total", "counter", "Images that could not be read."),
            f"signsclf_unreadable_images_total {self._unreadable}",
            *_head("runs_total", "counter", "Runs of a network, by the images in them."),
            *(f'signsclf_runs_total{{batch="{size}"}} {n}' for size, n in sorted(engine.batches.items())),
            *_head("request_seconds", "histogram", "Time from a request's headers to its answer."),
            *self._request_seconds.lines("signsclf_request_seconds", ""),
            *_head("stage_seconds", "histogram", "Time of an image in each stage."),
        ]
        for stage, histogram in self._stages.items():
            lines += histogram.lines("signsclf_stage_seconds", f'stage="{stage}",')
        for name, value in gauges.items():
            lines += [*_head(name, "gauge", name.replace("_", " ").capitalize() + "."), f"signsclf_{name} {value}"]
        return "\n".join(lines) + "\n"


def log_line(scope: Mapping, status: int, seconds: float) -> str:
    """Write the JSON line of a request: never its body, its query or its token."""
    found = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "ms": round(1000 * seconds, 3),
    }
    for key, value in scope["headers"]:
        if key in (b"x-request-id", b"traceparent", b"content-length"):
            found[key.decode().replace("-", "_")] = value.decode("latin-1")[:200]
    return json.dumps(found)


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP signsclf_{name} {text}", f"# TYPE signsclf_{name} {kind}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
