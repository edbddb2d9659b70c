"""Exception -> application/problem+json (RFC 9457), once for the whole application."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bootplane.control.errors import BootplaneError

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger("bootplane.api")
_TITLES = {
    400: "bad request",
    401: "not authorised",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    413: "too large",
}


def problem(
    status: int,
    kind: str,
    title: str,
    detail: str,
    headers: dict[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    document = {"type": f"urn:bootplane:{kind}", "title": title, "status": status, "detail": detail} | dict(
        members or {}
    )
    return JSONResponse(document, status, headers=headers, media_type=MEDIA_TYPE)


def of_error(error: BootplaneError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return problem(error.status, error.kind, error.title, str(error), headers, error.members)


def install(app: FastAPI) -> None:
    @app.exception_handler(BootplaneError)
    def ours(_request: Request, error: BootplaneError) -> JSONResponse:
        if error.status >= 500:
            _LOG.error("%s", error)
        return of_error(error)

    @app.exception_handler(RequestValidationError)
    def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return problem(422, "validation", "malformed request", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def framework(request: Request, error: HTTPException) -> JSONResponse:
        title = _TITLES.get(error.status_code, "error")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problem(error.status_code, title.replace(" ", "-"), title, detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        detail = f"{request.method} {request.url.path}: the region failed; its log says why"
        return problem(500, "internal", "internal error", detail)
