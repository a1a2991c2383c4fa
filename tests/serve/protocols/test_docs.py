"""/openapi.json says what the server does, by schemathesis as it is; /docs shows it."""

from __future__ import annotations

import base64
import json
import re
import shutil

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from serving import png
from starlette.routing import Route

from signsclf.serve import page
from signsclf.serve.app import PROTOCOLS, _health
from signsclf.serve.protocols import docs
from signsclf.serve.protocols.docs import OPENAPI

pytestmark = pytest.mark.serve

SPEC = json.loads(OPENAPI.read_text("utf-8"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXT = base64.b64encode(png()).decode()
PIXELS = {"name": "image", "datatype": "UINT8", "shape": [1, 6, 8, 3], "data": np.zeros(144, int).tolist()}


def operations():
    return [(path, method) for path, item in SPEC["paths"].items() for method in item if method != "parameters"]


@pytest.fixture(scope="module")
def schema(server):
    schemathesis = pytest.importorskip("schemathesis")
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_every_route_is_described(server):
    routes = [route for protocol in PROTOCOLS if protocol is not page for route in protocol.routes(server.service)]
    routes += _health(server.service)
    # POST / is described by POST /hf, which does the same.
    served = {(route.path, method.lower()) for route in routes if isinstance(route, Route) for method in route.methods}
    assert {one for one in served if one[1] != "head"} == {*operations(), ("/", "post")}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), operations())
def test_the_server_does_what_is_described(schema, server, path, method):
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS as KNOWN
    from schemathesis.checks import load_all_checks

    load_all_checks()
    checks = KNOWN.get_by_names(CHECKS)
    # A GET has nothing that could be wrong.
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 + (method == "post")]:

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=schema[path][method.upper()].as_strategy(mode))
        def ask(case):
            case.call_and_validate(base_url=server.url, session=server.session, checks=checks, timeout=30)

        ask()


POSITIVE = [
    ("/predict", "post", "/predict?top_k=2&roi=0,0,3,3&explain=1", {"data": png()}),
    ("/predict", "post", "/predict", {"json": {"images": [{"data": TEXT}, {"data": "AAAA"}]}}),
    ("/predict", "post", "/predict", {"files": [("image", ("a.png", png())), ("image", ("b.png", png()))]}),
    ("/models", "get", "/models", {}),
    ("/v2", "get", "/v2", {}),
    ("/v2/models/{model}", "get", "/v2/models/tiny", {}),
    ("/v2/models/{model}/ready", "get", "/v2/models/tiny/ready", {}),
    ("/v2/models/{model}/infer", "post", "/v2/models/tiny/infer", {"json": {"inputs": [PIXELS], "id": "7"}}),
    (
        "/v2/models/{model}/infer",
        "post",
        "/v2/models/tiny/infer",
        {"json": {"inputs": [PIXELS], "parameters": {"binary_data_output": True}}},
    ),
    ("/hf", "post", "/hf", {"data": png()}),
    ("/hf/{model}", "post", "/hf/tiny", {"json": {"inputs": TEXT, "parameters": {"function_to_apply": "none"}}}),
    ("/ping", "get", "/ping", {}),
    ("/invocations", "post", "/invocations", {"json": {"instances": [TEXT, {"b64": "AAAA"}]}}),
    ("/invocations", "post", "/invocations", {"data": png()}),
    ("/metrics", "get", "/metrics", {}),
]


@pytest.mark.parametrize(("path", "method", "asked", "options"), POSITIVE)
def test_answers_are_as_described(schema, server, path, method, asked, options):
    answer = server.session.request(method, server.url + asked, timeout=30, **options)
    assert answer.status_code == 200, answer.text
    schema[path][method.upper()].validate_response(answer)


@pytest.mark.parametrize(("path", "method"), [one for one in operations() if one[1] == "post"])
def test_examples_work(server, path, method):
    operation = SPEC["paths"][path][method]
    examples = [body["example"] for body in operation["requestBody"]["content"].values() if "example" in body]
    url = server.url + path.replace("{model}", "tiny")
    if "{version}" in url:
        (version,) = server.get("/v2/models/tiny").json()["versions"]
        url = url.replace("{version}", version)
    assert len(examples) == 1
    answer = requests.post(url, json=examples[0], timeout=30)
    assert answer.status_code == 200, answer.text


def test_the_page_shows_every_path_and_loads_nothing(server):
    answer = server.get("/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    html = answer.text
    for path, method in operations():
        assert re.search(rf"{method.upper()}</span> <code>{re.escape(path)}</code>", html), path
    for name in SPEC["components"]["schemas"]:
        assert f'<h3 id="{name}">' in html
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(SPEC["components"]["schemas"])
    assert not re.findall(r"<script|\bon\w+=|src=|url\(|@import", html)
    assert set(re.findall(r'href="([^#"][^"]*)"', html)) == {"icon.svg", "openapi.json"}
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert docs.page() is docs.page()


@pytest.mark.browser
def test_the_page_breaks_no_policy(server):
    if CHROMIUM is None:
        pytest.skip("no Chromium found; on Debian: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 320, "height": 700})
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(f"{server.url}/docs")
        assert tab.evaluate("getComputedStyle(document.body).maxWidth") == "960px"
        for summary in tab.locator("summary").all():
            summary.click()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 320
        browser.close()
    assert said == [] and set(asked) <= {f"{server.url}/docs", f"{server.url}/icon.svg"}
