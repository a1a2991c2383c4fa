"""POST /predict and GET /models."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from serving import png, write_model

from signsclf import images
from signsclf.inference.classifier import Classifier
from signsclf.inference.explain import activation_map

pytestmark = pytest.mark.serve


def half(left: str, right: str) -> bytes:
    """An image of two colours, 20×10."""
    image = Image.new("RGB", (20, 10), left)
    image.paste(right, (10, 0, 20, 10))
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_an_image_is_answered_with_all_that_is_known(server):
    answer = server.post("/predict", png("red"), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    found = answer.json()
    (one,) = found.pop("predictions")
    assert found == {"model": "tiny", "digest": server.service.models.get().digest, "threshold": 0.9}
    assert (one["name"], one["label"], one["index"], one["accepted"], one["error"]) == ("", "red", 0, True, None)
    assert one["top_k"][0] == {"label": "red", "probability": one["probability"]} and len(one["top_k"]) == 3
    assert [part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")] == ["queue", "decode", "run"]


def test_the_answer_is_that_of_the_package(server, tiny):
    data = half("orange", "navy")
    expected = Classifier(tiny).predict(data)
    one = server.post("/predict?top_k=2", data).json()["predictions"][0]
    assert (one["label"], one["probability"]) == (expected.label, expected.probability)
    assert [tuple(each.values()) for each in one["top_k"]] == list(expected.top_k[:2])
    assert one["accepted"] == expected.accepted


def test_a_roi_is_cropped_before_resizing(server):
    data = half("red", "blue")
    assert server.post("/predict?roi=0,0,9,9", data).json()["predictions"][0]["label"] == "red"
    assert server.post("/predict?roi=10,0,19,9", data).json()["predictions"][0]["label"] == "blue"
    outside = server.post("/predict?roi=0,0,20,9", data)
    assert outside.status_code == 422 and "is not inside the 20×10 image" in outside.json()["error"]


def test_the_heat_map_is_that_of_the_package(server, tiny, tmp_path, serve):
    data = half("red", "blue")
    heat = server.post("/predict?explain=1", data).json()["predictions"][0]["heat"]
    expected = activation_map(Classifier(tiny), images.decode(data))
    np.testing.assert_allclose(heat, expected, atol=1e-4)
    assert "heat" not in server.post("/predict?explain=0", data).json()["predictions"][0]
    without = serve(write_model(tmp_path / "flat", features=False))
    answer = without.post("/predict?explain=1", data)
    assert answer.status_code == 400 and "gives no heat map" in answer.json()["error"]


def test_several_files_of_a_form_are_answered_in_order(server):
    files = [("a", ("r.png", png("red"))), ("a", ("no.txt", b"just text\n")), ("b", ('q"b.png', png("blue")))]
    answer = server.post("/predict", files=files, data={"top_k": "1"})
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    assert [each["label"] for each in found] == ["red", None, "blue"]
    assert [each["name"] for each in found][:2] == ["r.png", "no.txt"]
    assert found[1]["error"].startswith("image: not an image that can be read")
    assert (found[1]["probability"], found[1]["top_k"], found[1]["accepted"]) == (None, [], None)
    assert len(found[0]["top_k"]) == 1


def test_json_carries_images_in_base64(server):
    body = {
        "images": [
            {"name": "left", "data": encoded(half("red", "blue")), "roi": [0, 0, 9, 9]},
            {"data": encoded(half("red", "blue")), "roi": "10,0,19,9"},
        ],
        "top_k": 2,
        "explain": True,
        "model": "tiny",
    }
    found = server.post("/predict", json=body).json()["predictions"]
    assert [(each["name"], each["label"], len(each["top_k"])) for each in found] == [
        ("left", "red", 2),
        ("", "blue", 2),
    ]
    assert np.shape(found[0]["heat"]) == (6, 8)


@pytest.mark.parametrize(
    ("query", "body", "status", "sentence"),
    [
        ("?top_k=0", png(), 400, "top_k is '0'"),
        ("?roi=1,2,3", png(), 400, "roi is '1,2,3'"),
        ("?explain=maybe", png(), 400, "explain is 'maybe'"),
        ("?model=other", png(), 404, "no model 'other'; there are tiny"),
        ("", b"", 415, "the file is empty"),
        ("", b"%PDF-1.7 and more", 415, "a PDF document; convert it to JPEG or PNG"),
        ("", png()[:50], 422, "damaged or truncated"),
        ("", {"images": []}, 400, "0 images, where a request has 1 to 64"),
        ("", {"images": 5}, 400, '"images" should be a list'),
        ("", {"images": [{}] * 65}, 400, "a list of 1 to 64 objects"),
        ("", {"images": ["x"]}, 400, 'images[0] should be an object with "data"'),
        ("", {"images": [{"data": "?"}]}, 400, "images[0].data should be base64"),
        ("", {"images": [{"data": "", "name": 5}]}, 400, "images[0].name should be text"),
        ("", {"images": [{"data": encoded(png())}], "topk": 5}, 400, "the JSON has 'topk'"),
        ("", {"images": [{"data": encoded(b"text")}]}, 415, "not an image"),
        ("", {"images": [{"data": encoded(png())}], "top_k": 1.5}, 400, "top_k is '1.5'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(server, query, body, status, sentence):
    sent = {"json": body} if isinstance(body, dict) else {"data": body}
    answer = server.post(f"/predict{query}", **sent)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert sentence in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_unknown_paths_and_methods_are_refused_alike(server):
    assert server.get("/nothing").json() == {"error": "no such path"}
    wrong = server.get("/predict")
    assert (wrong.status_code, wrong.json()) == (405, {"error": "GET is not for this path"})


def test_limits_of_bytes_and_pixels_are_413(serve):
    small = serve(max_bytes=1000, max_pixels=200)
    large = small.post("/predict", b"x" * 1001)
    assert large.status_code == 413 and "larger than 1,000 bytes" in large.json()["error"]
    # Without a declared length it is counted as it comes.
    chunked = small.post("/predict", iter([b"x" * 600] * 2))
    assert chunked.status_code == 413
    wide = small.post("/predict", png(size=(20, 11)))
    assert wide.status_code == 413 and "too many pixels (20×11, at most 200)" in wide.json()["error"]
    assert small.post("/predict", png(size=(20, 10))).status_code == 200
    assert small.service.admission.bytes == small.service.admission.pixels == 0


def test_formats_with_other_headers_have_their_pixels_counted_too(serve):
    small = serve(max_pixels=200)
    for kind in ("TIFF", "JPEG2000", "WEBP", "GIF", "BMP", "JPEG", "PPM"):
        data = BytesIO()
        Image.new("RGB", (20, 11), "red").save(data, kind)
        answer = small.post("/predict", data.getvalue())
        assert answer.status_code == 413, kind


def test_a_deadline_is_heeded(server):
    assert server.post("/predict", png(), headers={"X-Deadline-Ms": "5000"}).status_code == 200
    for text in ("0", "-1", "1.5", "soon", "1" * 30):
        answer = server.post("/predict", png(), headers={"X-Deadline-Ms": text})
        assert answer.status_code == 400 and "X-Deadline-Ms" in answer.json()["error"]


def test_work_whose_deadline_has_passed_is_504_and_not_run(serve, monkeypatch):
    running = serve()
    monkeypatch.setattr(running.service, "deadline", lambda request: 0.0)
    before = dict(running.service._engine.batches)
    late = running.post("/predict", png())
    assert late.status_code == 504 and "deadline passed" in late.json()["error"]
    assert dict(running.service._engine.batches) == before


def test_models_are_listed_and_chosen_by_name(tiny, tmp_path, serve):
    other = write_model(tmp_path / "other", reject_threshold=None)
    both = serve(tiny, other)
    found = both.get("/models").json()
    assert found["default"] == "tiny"
    assert [(m["name"], m["threshold"], m["explains"]) for m in found["models"]] == [
        ("tiny", 0.9, True),
        ("other", None, True),
    ]
    assert found["models"][0]["labels"] == ["red", "green", "blue"] and found["models"][0]["size"] == [6, 8]
    assert found["models"][0]["card"] == "# A tiny model\n"
    answer = both.post("/predict?model=other", png()).json()
    assert (answer["model"], answer["threshold"], answer["predictions"][0]["accepted"]) == ("other", None, None)
