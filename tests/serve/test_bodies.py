"""What JSON bodies are taken apart into, and what is refused before it costs anything."""

from __future__ import annotations

import pytest

from signsclf.serve import bodies
from signsclf.serve.answers import Refused
from signsclf.serve.bodies import base64_bytes, form_parts, json_object

pytestmark = pytest.mark.serve


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "should be JSON: Expecting value"),
        (b"[1]", "should be a JSON object"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": "\xff"}', "JSON in UTF-8"),
        (b'{"a":' * 40_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "should be JSON: "),
    ],
)
def test_what_is_no_json_object_is_refused(body, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        json_object(body)
    assert caught.value.status == 400 and "\n" not in caught.value.sentence
    assert json_object(b'{"a": [1, "\xc3\xa4"]}') == {"a": [1, "ä"]}


def test_more_values_than_allowed_are_refused_unparsed(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_JSON_VALUES", 3)
    assert json_object(b'{"a": [1, 2, 3]}') == {"a": [1, 2, 3]}
    with pytest.raises(Refused, match="more than 3 values") as caught:
        json_object(b'{"a": [1, 2, 3, 4')
    assert caught.value.status == 413


@pytest.mark.parametrize("inside", [b"[]," * 9 + b"1", b"{}," * 9 + b"1", b'{"a":{"b":{"c":{"d":1}}}}'])
def test_more_objects_than_allowed_are_refused_unparsed(monkeypatch, inside):
    body = b'{"a": [' + inside + b"]}"
    assert list(json_object(body)) == ["a"]
    monkeypatch.setattr(bodies, "MAX_JSON_OBJECTS", 8)
    with pytest.raises(Refused, match="more than 8 lists, objects and keys") as caught:
        json_object(body)
    assert caught.value.status == 413
    assert json_object(b'{"a": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}')


@pytest.mark.parametrize("value", ["AA", "AAA=\n", "ä", "data:image/png;base64,AAAA", 5, None, ["AAAA"]])
def test_only_plain_base64_is_decoded(value):
    with pytest.raises(Refused, match="data should be base64 text") as caught:
        base64_bytes(value, "data")
    assert caught.value.status == 400
    assert base64_bytes("AAEC", "data") == b"\0\1\2"


FORM = "multipart/form-data; boundary=b"


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def test_a_form_is_taken_apart_into_its_fields_and_files():
    body = form(
        b'Content-Disposition: form-data; name="a"; filename="x \\"y\\".png"\r\nA: b\r\n\r\n\0\r\n--x',
        b'content-disposition: form-data; filename=""; name=b\r\n\r\n',
        b'Content-Disposition: form-data; name="top_k"\r\n\r\n3',
        b"X: y\r\n\r\nnameless",
    )
    found = [(part.name, part.filename, part.data) for part in form_parts(body, FORM, 4)]
    assert found == [("a", 'x "y".png', b"\0\r\n--x"), ("b", "", b""), ("top_k", None, b"3"), ("", None, b"nameless")]
    preamble = form_parts(b"words\r\n" + body, 'multipart/form-data; charset=utf-8; boundary="b"', 4)
    assert len(preamble) == 4
    assert form_parts(b"--b--", FORM, 4) == []


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (b"", "multipart/form-data", "without a boundary"),
        (b"--c--", FORM, "does not begin with the boundary"),
        (form(b"A: b\r\n\r\nx", end=b""), FORM, "damaged, or ends too early"),
        (form(b"no headers' end"), FORM, "damaged, or ends too early"),
        (b"--bx\r\nA: b\r\n\r\nx\r\n--b--", FORM, "damaged, or ends too early"),
        (form(b"A: " + b"x" * 9000 + b"\r\n\r\nx"), FORM, "damaged, or ends too early"),
        (form(*[b"A: b\r\n\r\nx"] * 5), FORM, "more than 4 parts"),
    ],
)
def test_what_is_no_form_is_refused(body, content_type, sentence):
    with pytest.raises(Refused, match=sentence) as caught:
        form_parts(body, content_type, 4)
    assert caught.value.status == 400


def test_a_compressed_body_is_refused(server):
    answer = server.post("/predict", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415 and "Content-Encoding" in answer.json()["error"]
