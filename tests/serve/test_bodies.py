"""What JSON bodies are taken apart into, and what is refused before it costs anything."""

from __future__ import annotations

import pytest

from signsclf.serve import bodies
from signsclf.serve.answers import Refused
from signsclf.serve.bodies import base64_bytes, json_object

pytestmark = pytest.mark.serve


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "should be JSON: Expecting value"),
        (b"[1]", "should be a JSON object"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": "\xff"}', "JSON in UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply"),
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


@pytest.mark.parametrize("value", ["AA", "AAA=\n", "ä", "data:image/png;base64,AAAA", 5, None, ["AAAA"]])
def test_only_plain_base64_is_decoded(value):
    with pytest.raises(Refused, match="data should be base64 text") as caught:
        base64_bytes(value, "data")
    assert caught.value.status == 400
    assert base64_bytes("AAEC", "data") == b"\0\1\2"
