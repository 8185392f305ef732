"""Stands before the application: host and origin check, API key, safe headers, count of answers."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.serve.metrics import Metrics
from plait.serve.problems import ApiError, response

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
ROUTES = ("/", "/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions")


class Guard:
    """ASGI wrapper around the application.

    `hosts`: names the server answers to (None: any). On loopback it answers to loopback names only, so that
    a web page elsewhere cannot reach it through a name of its own that resolves to 127.0.0.1.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, api_key: str | None, hosts: Sequence[str] | None
    ) -> None:
        self.app, self.metrics = app, metrics
        self.key = api_key.encode("utf-8") if api_key else None
        self.hosts = None if hosts is None else {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(route(scope["path"]), str(message["status"])).inc()
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            self.check(scope)
        except ApiError as error:
            await response(error)(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def check(self, scope: Scope) -> None:
        """Raise ApiError for a foreign host (403), a foreign origin (403), or a wrong key (401)."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.hosts is not None:
            host = hostname("//" + headers.get(b"host", b"").decode("latin-1"))
            if host not in self.hosts:
                raise ApiError(
                    f"this server does not answer to the host {host!r}; allow it with --allow-host",
                    status=403,
                    code="host_not_allowed",
                )
            origin = headers.get(b"origin")
            if origin is not None and hostname(origin.decode("latin-1")) not in self.hosts:
                raise ApiError(
                    "requests from pages of other sites are not answered; allow one with --allow-host",
                    status=403,
                    code="origin_not_allowed",
                )
        if self.key is not None and scope["path"].startswith(("/v1/", "/metrics")):
            self.check_key(headers.get(b"authorization"))

    def check_key(self, authorization: bytes | None) -> None:
        """Compare in constant time, on bytes."""
        if authorization is None:
            message = "this server needs an API key; send the header `Authorization: Bearer KEY`"
            raise ApiError(
                message, status=401, code="missing_api_key", headers={"www-authenticate": "Bearer"}
            )
        scheme, _, given = authorization.partition(b" ")
        right = hmac.compare_digest(given.strip(), self.key or b"")
        if scheme.lower() != b"bearer" or not right:
            message = "the API key is not the one this server was started with"
            raise ApiError(
                message, status=401, code="invalid_api_key", headers={"www-authenticate": "Bearer"}
            )


def hostname(url: str) -> str:
    """The name in a URL or `//host:port`, lower case, without brackets; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def route(path: str) -> str:
    """A label of bounded variety for a path."""
    if path in ROUTES:
        return path
    if path.startswith("/v1/models/"):
        return "/v1/models/{id}"
    if path.startswith("/v1/tasks/"):
        return "/v1/tasks/{task}"
    return "/static/{name}" if path.startswith("/static/") else "other"
