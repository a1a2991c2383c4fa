"""Hugging Face's contract: by its own client as it is, and what is refused."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from serving import png

from signsclf.serve.answers import Refused
from signsclf.serve.protocols.huggingface import parse, ranked, scores

pytestmark = pytest.mark.serve

JSON = "application/json; charset=utf-8"


@pytest.fixture
def client(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda url: hub.InferenceClient(model=url, token="none", timeout=30)


@pytest.mark.parametrize("path", ["/hf", "/hf/tiny", "/", ""])
def test_inference_client_sends_the_image_itself(server, client, path):
    found = client(server.url + path).image_classification(png("blue"))
    assert [one.label for one in found] == ["blue", "red", "green"]
    assert found[0].score == server.post("/predict", png("blue")).json()["predictions"][0]["probability"]


def test_inference_client_sends_parameters(server, client, tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(png("red"))
    ask = client(f"{server.url}/hf/tiny").image_classification
    (one,) = ask(file, top_k=1)
    assert one.label == "red" and one.score > 0.99
    logits = ask(str(file), function_to_apply="none")
    assert [one.score for one in logits] == pytest.approx([9, -3, -3])
    sigmoid = ask(file, function_to_apply="sigmoid", top_k=2)
    assert [one.score for one in sigmoid] == pytest.approx([1 / (1 + np.exp(-9)), 1 / (1 + np.exp(3))])


def test_what_a_list_cannot_say_is_in_headers(server):
    answer = server.post("/hf", png("red"))
    assert answer.headers["X-Model-Digest"] == server.service.models.get().digest
    assert (answer.headers["X-Accepted"], answer.headers["X-Threshold"]) == ("true", "0.9")
    grey = server.post("/hf", png("grey"))
    assert grey.headers["X-Accepted"] == "false" and "run;dur=" in grey.headers["Server-Timing"]


def test_inference_client_is_told_what_is_wrong(server, client):
    from huggingface_hub.errors import HfHubHTTPError

    with pytest.raises(HfHubHTTPError, match="404"):
        client(f"{server.url}/hf/other").image_classification(png())
    answer = server.post("/hf", b"%PDF-1.7")
    assert answer.status_code == 415 and answer.json()["error"].startswith("image: not an image that can be read")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({}, "inputs should be base64"),
        ({"inputs": ["AAAA"]}, "inputs should be base64"),
        ({"inputs": "AAAA", "parameters": 5}, "parameters should be an object"),
        ({"inputs": "AAAA", "parameters": {"top_k": 0}}, "top_k should be a number from 1 to 1000"),
        ({"inputs": "AAAA", "parameters": {"top_k": True}}, "top_k should be a number"),
        ({"inputs": "AAAA", "parameters": {"top_k": 1001}}, "top_k should be a number"),
        ({"inputs": "AAAA", "parameters": {"function_to_apply": "relu"}}, "one of softmax, sigmoid, none"),
        ({"inputs": "AAAA", "parameters": {"function_to_apply": ["none"]}}, "one of softmax, sigmoid, none"),
    ],
)
def test_what_does_not_follow_the_contract_is_refused(value, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        parse(json.dumps(value).encode(), JSON)
    assert caught.value.status == 400


def test_a_body_is_read_by_its_content_type():
    text = base64.b64encode(b"abc").decode()
    body = json.dumps({"inputs": text, "parameters": None}).encode()
    assert parse(body, JSON) == (b"abc", 5, "softmax")
    assert parse(body, "image/png") == (body, 5, "softmax")
    asked = {"inputs": text, "parameters": {"top_k": 2, "function_to_apply": "none"}}
    assert parse(json.dumps(asked).encode(), JSON) == (b"abc", 2, "none")


def test_scores_of_large_logits_are_finite():
    logits = np.array([-1000, 1000, 0], np.float32)
    values = scores(logits, np.zeros(3), "sigmoid")
    assert ranked(values, "abc", 2) == [{"label": "b", "score": 1.0}, {"label": "c", "score": 0.5}]
