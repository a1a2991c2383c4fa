"""Who may ask, what browsers may do with an answer, and which servers do not start."""

from __future__ import annotations

import base64
import hashlib
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from signsclf.errors import SignsclfError
from signsclf.serve.guard import HEADERS, PUBLIC, Guard, page_policy, read_token
from signsclf.serve.settings import ServeSettings

pytestmark = pytest.mark.serve

TOKEN = "0123456789abcdef-secret"


def asked(path="/models", method="GET", **settings):
    """What a guarded application answers to these headers: a function of them."""

    async def answer(request):
        own = {"content-security-policy": "own", "vary": "Accept-Encoding"} if request.url.path == "/page" else {}
        return PlainTextResponse("reached", headers=own)

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])])
    guard = Guard(app, ServeSettings(**settings))

    def send(*headers, **named):
        pairs = [*headers, *((name.replace("_", "-"), value) for name, value in named.items())]
        if not any(name == "host" for name, _ in pairs):
            pairs.insert(0, ("host", "127.0.0.1:8000"))
        return anyio_run(guard, method, path, pairs)

    return send


def anyio_run(app, method, path, pairs):
    import asyncio

    async def run():
        transport = httpx.ASGITransport(_with_headers(app, pairs))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path)

    return asyncio.run(run())


def _with_headers(app, pairs):
    """The application, given exactly these headers: clients would not send some of them."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in pairs]

    async def call(scope, receive, send):
        await app({**scope, "headers": raw}, receive, send)

    return call


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.9.9.9:80", "[::1]:8000"])
def test_loopback_names_are_answered_to_with_any_port(host):
    assert asked()(host=host).text == "reached"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.5", "10.0.0.1:8000"]
)
@pytest.mark.parametrize("path", ["/models", "/", "/health/live"])
def test_a_name_that_an_attacker_had_resolve_to_this_machine_gets_nothing(host, path):
    """DNS rebinding: the request is same-origin for the browser, whatever else it carries."""
    answer = asked(path)(("sec-fetch-site", "same-origin"), ("origin", f"http://{host}"), host=host)
    assert answer.status_code == 421
    assert "--allow-host" in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_a_request_has_exactly_one_host():
    answered = asked()(("host", "127.0.0.1"), ("host", "evil.example"))
    assert answered.status_code == 400
    assert anyio_run(Guard(PlainTextResponse("no"), ServeSettings()), "GET", "/", []).status_code == 400
    assert asked()(host="127.0.0.1@evil.example").status_code == 400


def test_hosts_are_those_allowed_and_the_own_one():
    served = {"host": "signs.example.org", "is_open": True, "allow_hosts": ("Other.example",)}
    for host in ("signs.example.org:8000", "other.example", "localhost"):
        assert asked(**served)(host=host).status_code == 200
    assert asked(**served)(host="third.example").status_code == 421
    # By address: nobody had to resolve a name.
    assert asked(host="0.0.0.0", is_open=True)(host="192.168.1.5:8000").status_code == 200
    assert asked(host="0.0.0.0", is_open=True)(host="third.example").status_code == 421
    assert asked(allow_hosts=("*",))(host="third.example").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl, requests: no browser
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}, 200),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8000"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": ""}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[bad"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_pages_of_other_sites_change_nothing(method, headers, status):
    answer = asked("/predict", method)(*headers.items())
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_two_origins_are_those_of_no_page():
    origin = ("origin", "http://127.0.0.1:8000")
    assert asked("/predict", "POST")(origin, origin).status_code == 403


def test_reading_is_left_to_the_browsers_own_rules():
    answer = asked()(origin="https://evil.example", sec_fetch_site="cross-site")
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_an_allowed_origin_may_ask_and_read():
    site = "https://app.example"
    served = {"allow_origins": (site,)}
    answer = asked("/predict", "POST", **served)(origin=site, sec_fetch_site="cross-site")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == site
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers
    for other in ("https://app.example.evil.example", "http://app.example", "https://app.example:444", "null"):
        answer = asked("/predict", "POST", **served)(origin=other, sec_fetch_site="cross-site")
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
        # A cache must not give one site's answer to another.
        assert answer.headers["vary"] == "Origin"


def test_a_preflight_is_answered_before_the_token_and_only_to_allowed_origins():
    wish = {"access_control_request_method": "POST", "sec_fetch_site": "cross-site"}
    served = {"allow_origins": ("https://app.example",), "token": TOKEN}
    answer = asked("/predict", "OPTIONS", **served)(origin="https://app.example", **wish)
    assert (answer.status_code, answer.text) == (204, "")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    answer = asked("/predict", "OPTIONS", **served)(origin="https://evil.example", **wish)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    answer = asked("/predict", "OPTIONS", **served)(("host", "evil.example"), origin="https://app.example", **wish)
    assert answer.status_code == 421


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("authorization", "Bearer wrong-wrong-wrong-wrong")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", TOKEN)],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer \xe9")],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("x-api-key", TOKEN)],
        [("cookie", f"token={TOKEN}")],
    ],
)
@pytest.mark.parametrize("path", ["/models", "/metrics", f"/models?token={TOKEN}", f"/models?access_token={TOKEN}"])
def test_without_its_token_a_server_says_nothing(path, given):
    answer = asked(path, token=TOKEN)(*given)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens(scheme):
    assert asked(token=TOKEN)(authorization=f"{scheme} {TOKEN}").text == "reached"


@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_health_and_pages_are_read_without_the_token_and_no_more(path):
    assert asked(path, token=TOKEN)().text == "reached"
    assert asked(path, "POST", token=TOKEN)().status_code == 401
    assert asked(f"{path}x", token=TOKEN)().status_code == 401


def test_every_answer_has_the_headers_and_a_page_keeps_its_own():
    for answer in (asked()(), asked()(host="evil.example"), asked(token=TOKEN)()):
        for name, value in HEADERS.items():
            assert answer.headers[name.decode()] == value.decode()
    page = asked("/page", allow_origins=("https://app.example",))()
    assert page.headers["content-security-policy"] == "own"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers.get_list("vary") == ["Accept-Encoding", "Origin"]


def test_the_policy_of_a_page_allows_its_own_blocks_and_no_others():
    html = b"<style>a{}</style><SCRIPT type='module'>\nlet a = 1\n</SCRIPT><script>b</script><p>text</p>"
    policy = page_policy(html)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == rules["form-action"] == "'none'"
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in (b"\nlet a = 1\n", b"b")
    ]
    assert rules["script-src"].split() == hashes
    assert len(rules["style-src"].split()) == 1
    assert "unsafe" not in policy and not re.search(r"https?:|\*", policy)
    assert "script-src" not in page_policy(b"<p>no script</p>")


def test_beyond_loopback_a_server_wants_a_token_or_the_word_open():
    for host in ("0.0.0.0", "::", "192.168.1.5", "signs.example.org"):
        with pytest.raises(SignsclfError, match=r"--token-file.*--open"):
            ServeSettings(host=host)
        assert ServeSettings(host=host, token=TOKEN).host == ServeSettings(host=host, is_open=True).host == host
    assert TOKEN not in repr(ServeSettings(token=TOKEN))
    for wrong in ({"allow_hosts": ("http://a",)}, {"allow_origins": ("*",)}, {"allow_origins": ("https://a/",)}):
        with pytest.raises(SignsclfError, match="allow_"):
            ServeSettings(**wrong)


def test_a_token_comes_from_its_file_else_from_the_environment(tmp_path):
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\r\n")
    assert read_token(file, {"SIGNSCLF_TOKEN": "another-0123456789"}) == TOKEN
    assert read_token(None, {"SIGNSCLF_TOKEN": "another-0123456789"}) == "another-0123456789"
    assert read_token(None, {}) is None and read_token(None, {"SIGNSCLF_TOKEN": ""}) is None


@pytest.mark.parametrize(
    "text", ["", "short", "two words of a token", "umläute-umläute-umläute", "a" * 9000, "a\nb" * 9]
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text, "utf-8")
    with pytest.raises(SignsclfError) as caught:
        read_token(file, {})
    assert str(file) in str(caught.value) and "secrets.token_urlsafe" in str(caught.value)
    assert len(text) < 2 or text not in str(caught.value)
    with pytest.raises(SignsclfError, match="cannot be read"):
        read_token(tmp_path / "none", {})
