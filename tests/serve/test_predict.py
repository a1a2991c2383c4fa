"""POST /predict and GET /models."""

from __future__ import annotations

import pytest
from serving import png

pytestmark = pytest.mark.serve


def test_an_image_is_answered_with_all_that_is_known(server):
    answer = server.post("/predict", png("red"), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    found = answer.json()
    (one,) = found.pop("predictions")
    assert found == {"model": "tiny", "digest": server.service.models.get().digest, "threshold": 0.9}
    assert (one["label"], one["index"], one["accepted"], one["error"]) == ("red", 0, True, None)
    assert one["top_k"][0] == {"label": "red", "probability": one["probability"]}
    assert [part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")] == ["queue", "decode", "run"]
    assert server.get("/models").json()["default"] == "tiny"


def test_what_is_no_image_is_refused_in_one_line(server):
    answer = server.post("/predict", b"%PDF-1.7 and more")
    assert answer.status_code == 415
    assert answer.json() == {"error": "image: not an image that can be read: a PDF document; convert it to JPEG or PNG"}
    truncated = server.post("/predict", png()[:50])
    assert truncated.status_code == 422 and "damaged or truncated" in truncated.json()["error"]
