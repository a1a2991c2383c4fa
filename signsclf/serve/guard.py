"""Who may ask, and what browsers may do with an answer: an ASGI middleware around the whole application.

In this order: the Host header, requests that a browser sends for another site, the token. An answer without a header of
`HEADERS` gets it here; one that has it keeps it, as pages do with a policy of their own (`page_policy`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from signsclf.errors import SignsclfError
from signsclf.serve.answers import Refused, error_response
from signsclf.serve.hosts import address_of, host_name, is_loopback
from signsclf.serve.settings import ServeSettings
from signsclf.text import visible

PUBLIC = frozenset(
    {
        "/",
        "/icon.svg",
        "/docs",
        "/openapi.json",
        "/health/live",
        "/health/ready",
        "/ping",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
"""Paths that GET and HEAD need no token for. Health: what restarts a container or balances load has no secrets, and
learns one word. The pages: a browser sends no token when it opens an address; they hold nothing of the models, and the
token that is typed into them goes with their own requests."""

TOKEN_VARIABLE = "SIGNSCLF_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}={0,2}")

_CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    b"content-security-policy": f"default-src 'none'; {_CLOSED}".encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""What an answer has where it says nothing else."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ASKED_HEADERS = (
    "Authorization, Content-Type, Inference-Header-Content-Length, X-Deadline-Ms, X-Request-ID, traceparent"
)
_TOLD_HEADERS = b"Inference-Header-Content-Length, Retry-After, Server-Timing, X-Request-ID"
_READ = (b"host", b"origin", b"sec-fetch-site", b"authorization", b"access-control-request-method")

_INLINE = re.compile(rb"<(script|style)\b[^>]*>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)


def read_token(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """Read the token from a file, else from ``$SIGNSCLF_TOKEN``; None where neither is given.

    Raises:
        SignsclfError: the file cannot be read, or the token has fewer than 16 characters or others than those of
            ``Authorization: Bearer``.
    """
    if file is None:
        text, where = environ.get(TOKEN_VARIABLE, ""), f"${TOKEN_VARIABLE}"
        if not text:
            return None
    else:
        where = visible(file)
        try:
            with file.open("rb") as opened:
                text = opened.read(8192).decode("ascii", "replace")
        except OSError as error:
            raise SignsclfError(f"the token file {where} cannot be read ({error.strerror or error})") from error
    text = text.strip()
    # The token itself is shown nowhere.
    if not _TOKEN.fullmatch(text):
        raise SignsclfError(
            f"{where} holds no token: it should be one line of 16 characters or more out of A-Z a-z 0-9 . _ ~ + / -; "
            'make one with: python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return text


def page_policy(html: bytes) -> str:
    """Make the Content-Security-Policy of a page: its inline scripts and styles by their hashes, and its own server.

    Besides them it may show images that it made itself (``blob:``), and nothing may frame it.
    """
    hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        hashes[kind.lower()].append(f"'sha256-{digest}'")
    sources = [f"{kind.decode()}-src {' '.join(found)}" for kind, found in hashes.items() if found]
    return "; ".join(["default-src 'none'", *sources, "img-src 'self' blob:", "connect-src 'self'", _CLOSED])


class Guard:
    """The middleware; everything that is not HTTP passes."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._names = {"localhost", settings.host.lower(), *(name.lower() for name in settings.allow_hosts)}
        self._public = PUBLIC | {settings.health_route}
        self._any_name = "*" in settings.allow_hosts
        self._any_address = not is_loopback(settings.host)
        self._origins = {origin.encode() for origin in settings.allow_origins}
        self._token = settings.token.encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused here; pass on all else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked: dict[bytes, list[bytes]] = {name: [] for name in _READ}
        for name, value in scope["headers"]:
            if name in asked:
                asked[name].append(value)
        shared = len(asked[b"origin"]) == 1 and asked[b"origin"][0] in self._origins

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in HEADERS.items() if name not in present]
                if self._origins:
                    headers.append((b"vary", b"Origin"))
                if shared:
                    headers.append((b"access-control-allow-origin", asked[b"origin"][0]))
                    headers.append((b"access-control-expose-headers", _TOLD_HEADERS))
                message = {**message, "headers": headers}
            await send(message)

        method, preflight = scope["method"], bool(asked[b"origin"] and asked[b"access-control-request-method"])
        refused = self._wrong_host(asked)
        if refused is None and method == "OPTIONS" and preflight:
            # A browser asks before it sends the token. Without --allow-origin it is told why its page gets nothing.
            allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": _ASKED_HEADERS}
            answer = Response(status_code=204, headers={**allowed, "Access-Control-Max-Age": "600"})
            await (answer if shared else error_response(_foreign(asked)))(scope, receive, send_guarded)
            return
        if refused is None and method not in _SAFE and not shared and _is_foreign(asked):
            refused = _foreign(asked)
        if refused is None and not (method in ("GET", "HEAD") and scope["path"] in self._public):
            refused = self._wrong_token(asked)
        if refused is None:
            await self._app(scope, receive, send_guarded)
        else:
            await error_response(refused)(scope, receive, send_guarded)

    def _wrong_host(self, asked: Mapping[bytes, list[bytes]]) -> Refused | None:
        """Refuse names that are not this server's.

        A page of another site can have its own name resolve to this machine (DNS rebinding), and then passes for
        same-origin; the name in the Host header is all that tells. An address needs no resolving, so that a server
        which others reach by its address answers to any.
        """
        values = asked[b"host"]
        name = host_name(values[0].decode("latin-1")) if len(values) == 1 else None
        if name is None:
            return Refused(400, "the request should have one Host header with a name or an address")
        address = address_of(name)
        if self._any_name or name in self._names or (address and (address.is_loopback or self._any_address)):
            return None
        return Refused(421, f"this server does not answer to the name {name[:253]}; --allow-host adds one")

    def _wrong_token(self, asked: Mapping[bytes, list[bytes]]) -> Refused | None:
        if self._token is None:
            return None
        values = asked[b"authorization"]
        scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token):
            return None
        sentence = "this server wants its token in the header Authorization: Bearer TOKEN"
        return Refused(401, sentence, {"WWW-Authenticate": 'Bearer realm="signsclf"'})


def _is_foreign(asked: Mapping[bytes, list[bytes]]) -> bool:
    """Tell whether a browser sends this for a page of another origin, as Go 1.25's CrossOriginProtection does.

    Programs that are no browsers send neither header, and pass.
    """
    site, origin = asked[b"sec-fetch-site"], asked[b"origin"]
    if site:
        # Browsers send it to https and to localhost only, and pages cannot set it.
        return site not in ([b"same-origin"], [b"none"])
    if not origin:
        return False
    try:
        host = urlsplit(origin[0].decode("latin-1")).netloc
    except ValueError:
        return True
    return len(origin) != 1 or host.lower() != asked[b"host"][0].decode("latin-1").lower()


def _foreign(asked: Mapping[bytes, list[bytes]]) -> Refused:
    origin = visible(asked[b"origin"][0].decode("latin-1"))[:253] if asked[b"origin"] else "another site"
    return Refused(403, f"requests of pages from {origin} are not allowed; --allow-origin allows an origin")
