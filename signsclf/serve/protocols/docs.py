"""GET /openapi.json, and GET /docs: the same for people, a page that loads nothing and has no script."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from signsclf.serve.guard import page_policy
from signsclf.serve.service import Service

OPENAPI = Path(__file__).with_name("openapi.json")
_TEMPLATE = Path(__file__).with_name("docs.html")
_CACHED = {"Cache-Control": "no-cache"}


def routes(_: Service) -> list[Route]:
    """Make the routes of the documentation."""

    async def openapi(_: Request) -> Response:
        return Response(_openapi(), headers=_CACHED, media_type="application/json")

    async def docs(_: Request) -> Response:
        html = page()
        return Response(html, headers={**_CACHED, "Content-Security-Policy": page_policy(html)}, media_type="text/html")

    return [Route("/openapi.json", openapi, methods=["GET"]), Route("/docs", docs, methods=["GET"])]


@lru_cache(maxsize=1)
def page() -> bytes:
    """Render the page of /docs from openapi.json."""
    # Here: it would take a tenth of the time until the server is ready.
    from jinja2 import Environment, StrictUndefined

    spec = json.loads(_openapi())
    operations = [
        {"path": path, "method": method, **operation, "parameters": parameters}
        for path, item in spec["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
        for parameters in [[*item.get("parameters", []), *operation.get("parameters", [])]]
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

    def follow(value: dict) -> dict:
        """Follow a reference within the file."""
        for name in value.get("$ref", "#").split("/")[1:]:
            value = (spec if name == "components" else value)[name]
        return value

    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(spec=spec, operations=operations, follow=follow).encode()


@lru_cache(maxsize=1)
def _openapi() -> bytes:
    return OPENAPI.read_bytes()
