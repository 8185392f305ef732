"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` for every failure."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from plait.errors import ModelError, PlaitError
from plait.serve.worker import QueueFull, Stopping


class ApiError(Exception):
    """A request that is refused: the status, the reason in words, and the field that is at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
        self.headers = headers or {}


KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def body(error: ApiError) -> dict[str, dict[str, str | None]]:
    """The JSON object of an error."""
    kind = "server_error" if error.status >= 500 else KINDS.get(error.status, "invalid_request_error")
    param = None if error.param is None else _writable(error.param)
    return {"error": {"message": _writable(error.message), "type": kind, "param": param, "code": error.code}}


def _writable(text: str) -> str:
    # what a client sent may hold halves of surrogate pairs, which UTF-8 cannot
    return text.encode("utf-8", "replace").decode("utf-8")


def response(error: ApiError) -> JSONResponse:
    """The HTTP response of an error."""
    return JSONResponse(body(error), status_code=error.status, headers=error.headers)


def as_api_error(error: Exception) -> ApiError:
    """Any failure in this server's words; a bug is not explained to the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        headers = {"retry-after": str(error.retry_after)}
        return ApiError(f"the server is busy: {error}", status=429, code="queue_full", headers=headers)
    if isinstance(error, Stopping):
        return ApiError(str(error), status=503, code="shutting_down", headers={"connection": "close"})
    if isinstance(error, ModelError):
        return ApiError(str(error), status=500, code="model_error")
    if isinstance(error, PlaitError):
        return ApiError(str(error), code="invalid_value")
    return ApiError("the server failed to answer this request; its log says why", status=500, code="internal")


def install(app: FastAPI) -> None:
    """Let the application answer every error in this shape."""
    app.add_exception_handler(ApiError, _any_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _any_error)


async def _any_error(request: Request, error: Exception) -> JSONResponse:
    return response(as_api_error(error))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == 404:
        return response(ApiError(f"there is no {path!r} here", status=404, code="not_found"))
    if error.status_code == 405:
        message = f"{path} does not take {request.method}; it takes {headers.get('Allow', 'another method')}"
        return response(ApiError(message, status=405, code="method_not_allowed", headers=headers))
    return response(ApiError(str(error.detail), status=error.status_code, headers=headers))
