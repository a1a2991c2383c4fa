"""The Open Inference Protocol: by tritonclient as it is, and what the parser refuses."""

from __future__ import annotations

import base64
import json
import struct
from io import BytesIO

import numpy as np
import pytest
from serving import png, write_model

from signsclf.serve import bodies
from signsclf.serve.answers import Refused
from signsclf.serve.protocols import inference
from signsclf.serve.protocols.inference import HEADER_LENGTH, Requested, classification, encode, parse, version_of

pytestmark = pytest.mark.serve

INFER = "/v2/models/tiny/infer"
PIXELS = np.zeros((2, 6, 8, 3), np.uint8)
PIXELS[0, ..., 0] = PIXELS[1, ..., 2] = 255
LOGITS = [[9, -3, -3], [-3, -3, 9]]


@pytest.fixture(scope="module")
def triton(server):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=30) as client:
        yield client


def tensor(name, values, datatype, binary):
    from tritonclient.http import InferInput

    found = InferInput(name, list(values.shape), datatype)
    return found.set_data_from_numpy(values, binary_data=binary)


def test_tritonclient_asks_what_is_there(triton, server):
    assert triton.is_server_live() and triton.is_server_ready() and triton.is_model_ready("tiny")
    assert not triton.is_model_ready("other") and not triton.is_model_ready("tiny", "1")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    found = triton.get_model_metadata("tiny")
    version = version_of(server.service.models.get())
    assert found["versions"] == [version] and triton.get_model_metadata("tiny", version) == found
    assert found["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, 6, 8, 3]}
    assert [output["name"] for output in found["outputs"]] == [
        "logits",
        "probabilities",
        "label",
        "accepted",
        "features",
    ]
    assert found["parameters"] == {"digest": server.service.models.get().digest, "threshold": 0.9}


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_pixels_and_gets_every_output(triton, binary):
    from tritonclient.http import InferRequestedOutput

    outputs = [
        InferRequestedOutput(name, binary_data=binary)
        for name in ("features", "logits", "probabilities", "label", "accepted")
    ]
    answer = triton.infer("tiny", [tensor("image", PIXELS, "UINT8", binary)], outputs=outputs, request_id="ä 7")
    assert answer.get_response()["id"] == "ä 7"
    np.testing.assert_allclose(answer.as_numpy("logits"), LOGITS)
    assert answer.as_numpy("logits").dtype == np.float32 and answer.as_numpy("probabilities").dtype == np.float64
    np.testing.assert_allclose(answer.as_numpy("probabilities").sum(axis=1), 1)
    np.testing.assert_allclose(answer.as_numpy("features"), PIXELS.transpose(0, 3, 1, 2) / 255)
    labels = [text.decode() if binary else text for text in answer.as_numpy("label")]
    assert labels == ["red", "blue"] and answer.as_numpy("accepted").tolist() == [True, True]


def test_tritonclient_sends_files_and_without_outputs_gets_all_but_features(triton):
    files = np.array([png("red"), png("blue")], dtype=object)
    answer = triton.infer("tiny", [tensor("file", files, "BYTES", True)], timeout=5_000_000)
    assert [output["name"] for output in answer.get_response()["outputs"]] == [
        "logits",
        "probabilities",
        "label",
        "accepted",
    ]
    np.testing.assert_allclose(answer.as_numpy("logits"), LOGITS)


def test_tritonclient_gets_classes(triton):
    from tritonclient.http import InferRequestedOutput

    wanted = [InferRequestedOutput("logits", class_count=2), InferRequestedOutput("probabilities", class_count=9)]
    answer = triton.infer("tiny", [tensor("image", PIXELS, "UINT8", True)], outputs=wanted)
    assert answer.as_numpy("logits").tolist() == [
        [b"9.000000:0:red", b"-3.000000:1:green"],
        [b"9.000000:2:blue", b"-3.000000:0:red"],
    ]
    assert answer.as_numpy("probabilities").shape == (2, 3)


def test_tritonclient_is_told_what_is_wrong(triton):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match=r"\[404\] no model 'other'"):
        triton.infer("other", [tensor("image", PIXELS, "UINT8", True)])
    with pytest.raises(InferenceServerException, match=r"\[404\] tiny has no version '1'"):
        triton.infer("tiny", [tensor("image", PIXELS, "UINT8", True)], model_version="1")
    with pytest.raises(InferenceServerException, match=r"\[400\] pixels should be uint8 \(N, 6, 8, 3\)"):
        triton.infer("tiny", [tensor("image", PIXELS[:, :5], "UINT8", True)])
    with pytest.raises(InferenceServerException, match=r"\[415\] image 2 of 2: .*PDF"):
        triton.infer("tiny", [tensor("file", np.array([png(), b"%PDF-1.7"], dtype=object), "BYTES", True)])
    with pytest.raises(InferenceServerException, match=r"\[504\] the deadline passed"):
        triton.infer("tiny", [tensor("image", PIXELS, "UINT8", True)], timeout=1)


def test_json_files_are_base64_and_lists_may_be_nested(server):
    text = base64.b64encode(png("blue")).decode()
    asked = {"inputs": [{"name": "file", "shape": [1, 1], "datatype": "BYTES", "data": [[text]]}]}
    answer = server.post(INFER, json=asked)
    found = {output["name"]: output for output in answer.json()["outputs"]}
    assert found["label"] == {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["blue"]}
    assert answer.json()["parameters"]["threshold"] == 0.9 and "id" not in answer.json()
    assert answer.headers["Server-Timing"].startswith("queue;dur=")
    asked = {"inputs": [{"name": "image", "shape": [2, 6, 8, 3], "datatype": "UINT8", "data": PIXELS.tolist()}]}
    assert server.post(INFER, json=asked).json()["outputs"][0]["data"] == [9, -3, -3, -3, -3, 9]


def test_a_model_without_a_threshold_has_no_verdict(serve, tmp_path):
    server = serve(write_model(tmp_path / "plain", reject_threshold=None, features=False))
    found = server.get("/v2/models/plain").json()
    assert [output["name"] for output in found["outputs"]] == ["logits", "probabilities", "label"]
    asked = {"inputs": [{"name": "image", "shape": [1, 6, 8, 3], "datatype": "UINT8", "data": [0] * 144}]}
    for name in ("accepted", "features", "x" * 500):
        answer = server.post("/v2/models/plain/infer", json={**asked, "outputs": [{"name": name}]})
        assert answer.status_code == 400 and "it has logits, probabilities, label" in answer.json()["error"]
    server.service.ready = False
    assert server.get("/v2/health/ready").status_code == server.get("/v2/models/plain/ready").status_code == 503


IMAGE = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}
FILE = {"name": "file", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}


def without(value, key):
    return {name: item for name, item in value.items() if name != key}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({}, "0 inputs, where there should be one"),
        ({"inputs": [IMAGE, FILE]}, "2 inputs"),
        ({"inputs": [5]}, "a list of objects"),
        ({"inputs": {"name": "image"}}, "a list of objects"),
        ({"inputs": [IMAGE], "id": 5}, "id should be text"),
        ({"inputs": [IMAGE], "id": "x" * 1001}, "at most 1000 characters"),
        ({"inputs": [IMAGE], "parameters": []}, "parameters should be an object"),
        ({"inputs": [IMAGE], "parameters": {"timeout": 0}}, "microseconds"),
        ({"inputs": [IMAGE], "parameters": {"timeout": True}}, "microseconds"),
        ({"inputs": [IMAGE], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [{**IMAGE, "datatype": "FP32"}]}, "the input should be image, UINT8"),
        ({"inputs": [{**IMAGE, "name": ["image"]}]}, "the input should be image, UINT8"),
        ({"inputs": [{**IMAGE, "shape": [1, 1, True, 3]}]}, "whole numbers"),
        ({"inputs": [{**IMAGE, "shape": [1, 1, -1, -3]}]}, "whole numbers"),
        ({"inputs": [{**IMAGE, "shape": [3]}]}, "shape .N, height, width, 3."),
        ({"inputs": [{**IMAGE, "shape": [9**9] * 4}]}, "image has 3 values, and its shape"),
        ({"inputs": [{**IMAGE, "data": "abc"}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**IMAGE, "data": [1, 2, 256]}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**IMAGE, "data": [1, 2, 3.5]}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**IMAGE, "data": [True] * 3}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**IMAGE, "data": [1, 2, 10**30]}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**IMAGE, "data": [[1, 2], 3]}]}, "lists nested as the shape is"),
        ({"inputs": [{**IMAGE, "data": [[1, 2, 3]]}]}, "lists nested as the shape is"),
        ({"inputs": [without(IMAGE, "data")]}, "either data or the parameter binary_data_size"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": 3}}]}, "either data or the parameter"),
        ({"inputs": [{**IMAGE, "parameters": {"shared_memory_region": "a"}}]}, "shared memory"),
        ({"inputs": [{**FILE, "data": "AAAA"}]}, "data should be a list"),
        ({"inputs": [{**FILE, "data": ["%"]}]}, "should be base64"),
        ({"inputs": [{**FILE, "data": [["AAAA"], [7]]}]}, "should be base64"),
        ({"inputs": [{**FILE, "shape": [2]}]}, "file has 1 elements, and its shape 2"),
        ({"inputs": [{**FILE, "shape": [65]}]}, "65 images, where a request has 1 to 64"),
        ({"inputs": [{**FILE, "shape": []}]}, r"file should have the shape \[N\]"),
        ({"inputs": [IMAGE], "outputs": [{}]}, "should have a name"),
        ({"inputs": [IMAGE], "outputs": [{"name": "label"}] * 2}, "asked for twice"),
        ({"inputs": [IMAGE], "outputs": [{"name": "label", "parameters": {"classification": 1}}]}, "is for logits"),
        ({"inputs": [IMAGE], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, "of classes"),
        ({"inputs": [IMAGE], "outputs": [{"name": "a", "parameters": {"shared_memory_region": "a"}}]}, "shared memory"),
    ],
)
def test_what_does_not_follow_the_protocol_is_refused(value, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        parse(json.dumps(value).encode(), None, 64)
    assert caught.value.status == 400 and "\n" not in caught.value.sentence


def with_binary(value, binary):
    text = json.dumps(value).encode()
    return text + binary, str(len(text))


def claim(value, size):
    return {"inputs": [{**without(value, "data"), "parameters": {"binary_data_size": size}}]}


@pytest.mark.parametrize(
    ("body", "length", "sentence"),
    [
        (b"{}", "3", "the body has 2 bytes"),
        (b"{}", "-1", "a number of bytes"),
        (b"{}", "²", "a number of bytes"),
        (b"{}", "0", "should be JSON"),
        (*with_binary({"inputs": [IMAGE]}, b"abc"), "3 bytes follow the JSON, which no input claims"),
        (*with_binary(claim(IMAGE, 4), b"abc"), "binary_data_size should be 3"),
        (*with_binary(claim(IMAGE, True), b"a"), "binary_data_size should be 1"),
        (*with_binary(claim(IMAGE, 4), b"abcd"), "image has 4 values, and its shape 3"),
        (*with_binary(claim(FILE, 3), b"\0\0\0"), "longer than the bytes"),
        (*with_binary(claim(FILE, 5), b"\2\0\0\0a"), "longer than the bytes"),
        (*with_binary(claim(FILE, 4), b"\xff\xff\xff\xff"), "longer than the bytes"),
        (*with_binary(claim(FILE, 8), b"\0" * 8), "file has 2 elements"),
        (*with_binary(claim(FILE, 4000), b"\0" * 4000), "file has 2 elements"),
    ],
)
def test_binary_tensors_fit_their_sizes(body, length, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        parse(body, length, 64)
    assert caught.value.status == 400


def test_more_values_than_json_may_hold_are_to_be_asked_for_in_binary(monkeypatch):
    monkeypatch.setattr(inference, "MAX_JSON_VALUES", 3)
    values = np.zeros((2, 2))
    with pytest.raises(Refused, match="4 values; ask for it with binary_data"):
        encode({}, [(Requested(name="logits"), values)])
    body, length = encode({}, [(Requested(name="logits", is_binary=True), values)])
    assert json.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 32}
    assert bodies.MAX_JSON_VALUES > 64 * 1000


def test_classes_are_ordered_by_value_and_then_by_index():
    found = classification(np.array([[1.0, 2.0, 2.0]]), ["a:b", "ä", "c"], 3)
    assert found.tolist() == [["2.000000:1:ä", "2.000000:2:c", "1.000000:0:a:b"]]
    body, length = encode({}, [(Requested(name="logits", is_binary=True), found)])
    stream = BytesIO(body[length:])
    (size,) = struct.unpack("<I", stream.read(4))
    assert stream.read(size) == "2.000000:1:ä".encode()
    assert HEADER_LENGTH == "Inference-Header-Content-Length"
