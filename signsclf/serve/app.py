"""The ASGI application: the routes of all protocols, and the order of what surrounds them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from signsclf.errors import SignsclfError, first_line
from signsclf.serve import page
from signsclf.serve.admission import Ticket
from signsclf.serve.answers import ClientGone, Refused, error_response, refusal
from signsclf.serve.engine import now
from signsclf.serve.guard import Guard
from signsclf.serve.protocols import clouds, docs, huggingface, inference, predict
from signsclf.serve.service import Service
from signsclf.serve.telemetry import CONTENT_TYPE, log_line
from signsclf.text import visible

PROTOCOLS = (clouds, predict, inference, huggingface, docs, page)
"""Modules whose ``routes`` are served; of two routes for one path, the first counts."""

_logger = logging.getLogger("signsclf")
_CLIENT_CLOSED_REQUEST = 499  # nginx's number, seen in logs alone


def make_app(service: Service, log: Callable[[str], None] | None = None) -> ASGIApp:
    """Make the application that answers for a service; ``log`` is given a JSON line for each request."""
    routes = [route for protocol in PROTOCOLS for route in protocol.routes(service)] + _health(service)
    handlers = {
        Exception: _refuse,
        Refused: _refuse,
        SignsclfError: _refuse,
        HTTPException: _refuse_http,
        ClientGone: _forget,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    paths = {route.endpoint: route.path for route in routes}
    return Outermost(Guard(app, service.settings), service, paths, log)


class Outermost:
    """Middleware around all others: the budget's ticket, ids passed through, counts, the log."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        paths: Mapping[Callable[..., Any], str],
        log: Callable[[str], None] | None,
    ) -> None:
        self._app = app
        self._service = service
        self._paths = paths
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = now()
        service = self._service
        ticket = scope[Ticket.KEY] = Ticket(service.admission)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(key, value) for key, value in scope["headers"] if key == b"x-request-id"]
                if not service.ready:
                    # Clients on kept connections go elsewhere, before this server ends.
                    own.append((b"connection", b"close"))
                if own:
                    message["headers"] = [*message["headers"], *own]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            _logger.error(
                "%s: unexpected %s: %s", visible(scope["path"][:200]), type(error).__name__, first_line(error)
            )
            if not status:
                await error_response(refusal(error))(scope, receive, sending)
        finally:
            ticket.release()
            # Starlette tells the endpoint that it found; paths themselves would be a counter for each that is tried.
            path = self._paths.get(scope.get("endpoint"), "other")
            service.telemetry.answered(path, status, now() - began)
            if self._log is not None:
                self._log(log_line(scope, status, now() - began))


def _health(service: Service) -> list[Route]:
    async def live(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ready\n") if service.ready else PlainTextResponse("not ready\n", 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics(), media_type=CONTENT_TYPE)

    return [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]


async def _refuse(_: Request, error: Exception) -> Response:
    return error_response(refusal(error))


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "no such path", 405: f"{request.method} is not for this path"}.get(error.status_code)
    return error_response(Refused(error.status_code, sentence or error.detail, error.headers))


async def _forget(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
