"""The ASGI application: the routes of all protocols, and the order of what surrounds them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from signsclf.errors import SignsclfError
from signsclf.serve.answers import ClientGone, Refused, error_response, refusal
from signsclf.serve.protocols import predict
from signsclf.serve.service import Service

PROTOCOLS = (predict,)
"""Modules whose ``routes`` are served; of two routes for one path, the first counts."""

_CLIENT_CLOSED_REQUEST = 499  # nginx's number, seen in logs alone


def make_app(service: Service) -> Starlette:
    """Make the application that answers for a service."""
    routes = [route for protocol in PROTOCOLS for route in protocol.routes(service)]
    handlers = {
        Refused: _refuse,
        SignsclfError: _refuse,
        HTTPException: _refuse_http,
        ClientGone: _forget,
        Exception: _refuse,
    }
    return Starlette(routes=[*routes, *_health(service)], exception_handlers=handlers)


def _health(service: Service) -> list[Route]:
    async def live(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ready\n") if service.ready else PlainTextResponse("not ready\n", 503)

    return [Route("/health/live", live), Route("/health/ready", ready)]


async def _refuse(_: Request, error: Exception) -> Response:
    return error_response(refusal(error))


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "no such path", 405: f"{request.method} is not for this path"}.get(error.status_code)
    return error_response(Refused(error.status_code, sentence or error.detail, error.headers))


async def _forget(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
