"""Names and addresses of Host headers and origins."""

from __future__ import annotations

import pytest

from signsclf.serve.hosts import host_name, is_host_name, is_loopback, is_origin


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("localhost.:80", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("signs.example.org", "signs.example.org"),
        ("", None),
        (":8000", None),
        ("localhost:", None),
        ("localhost:123456", None),
        ("localhost:80:80", None),
        ("user@localhost", None),
        ("localhost/x", None),
        ("local host", None),
        ("localhost,evil.example", None),
        ("localhost..", None),
        ("::1", None),
        ("[localhost]", None),
        ("[::1", None),
        ("löcalhost", None),
    ],
)
def test_a_host_header_names_one_host_or_none(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_only_this_machine_is_loopback(host, expected):
    assert is_loopback(host) is expected


def test_names_and_origins_have_no_more_than_they_need():
    assert is_host_name("signs.example.org") and is_host_name("10.0.0.1") and is_host_name("fe80::1")
    assert not any(map(is_host_name, ("", "https://a.example", "a.example:80", "*.a.example", "a/b", "a b")))
    assert is_origin("https://a.example") and is_origin("http://localhost:5173") and is_origin("http://[::1]:80")
    assert not any(map(is_origin, ("*", "null", "a.example", "https://a.example/", "https://A.example", "file://")))
