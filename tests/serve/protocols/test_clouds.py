"""What SageMaker and Vertex AI call."""

from __future__ import annotations

import base64

import pytest
from serving import png

from signsclf.errors import SignsclfError
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_invocations_does_what_predict_does(server):
    one = server.post("/invocations", png("red"), headers={"Content-Type": "application/x-image"})
    assert one.json() == server.post("/predict", png("red")).json() and one.status_code == 200
    two = server.post("/invocations?top_k=1", json={"images": [{"data": b64(png("blue"))}]})
    assert two.json()["predictions"][0]["top_k"][0]["label"] == "blue"
    assert server.post("/invocations", b"%PDF-1.7").status_code == 415


def test_instances_are_answered_one_by_one(server):
    instances = [{"b64": b64(png("red"))}, {"image_bytes": {"b64": b64(b"%PDF-1.7")}}, b64(png("blue"))]
    answer = server.post("/invocations", json={"instances": instances, "parameters": {"top_k": 2}})
    assert list(answer.json()) == ["predictions"] and "run;dur=" in answer.headers["Server-Timing"]
    red, bad, blue = answer.json()["predictions"]
    assert (red["label"], red["accepted"], len(red["top_k"]), red["threshold"]) == ("red", True, 2, 0.9)
    assert red["digest"] == server.service.models.get().digest and blue["label"] == "blue"
    assert bad["label"] is None and "PDF" in bad["error"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"instances": []}, "a list of 1 to 64 objects"),
        ({"instances": {}}, "a list of 1 to 64 objects"),
        ({"instances": [{}] * 65}, "a list of 1 to 64 objects"),
        ({"instances": [{"url": "http://127.0.0.1/"}]}, "instances[0] should be base64"),
        ({"instances": ["AAAA", 5]}, "instances[1] should be base64"),
        ({"instances": ["AAAA"], "parameters": {"top_k": "many"}}, "top_k is 'many'"),
        ({"instances": ["AAAA"], "parameters": []}, "parameters should be an object"),
    ],
)
def test_wrong_instances_are_refused(server, value, sentence):
    answer = server.post("/invocations", json=value)
    assert answer.status_code == 400 and sentence in answer.json()["error"]


def test_vertex_names_routes(serve):
    server = serve(health_route="/health", predict_route="/predict", token="a-token-of-16-characters")
    assert server.get("/health").status_code == server.get("/ping").status_code == 200
    headers = {"Authorization": "Bearer a-token-of-16-characters"}
    answer = server.post("/predict", json={"instances": [{"b64": b64(png("red"))}]}, headers=headers)
    assert answer.json()["predictions"][0]["label"] == "red"
    assert server.post("/predict", png("blue"), headers=headers).json()["predictions"][0]["label"] == "blue"
    server.service.ready = False
    assert server.get("/health").status_code == server.get("/ping").status_code == 503


@pytest.mark.parametrize("route", ["", "health", "/{all:path}", "/a b", "/a?b"])
def test_a_route_is_a_plain_path(route):
    with pytest.raises(SignsclfError, match=r"_route is .*, where it should be a path"):
        ServeSettings(predict_route=route)
