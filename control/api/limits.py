"""A bound on request bodies: an announced one that is too large is refused at once, any other when it grows.

One route has a bound of its own, the size its upload was announced with, and passes: the files of custom images.
"""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bootplane.control.api.problems import problem

BODY_BYTES = 16 << 20
UPLOAD = re.compile(r"/api/v1/uploads/[0-9a-f]+/files/[^/]+\Z")  # and PUT


class BodyLimit:
    """ASGI middleware: 413 for a body of more than *limit* bytes."""

    def __init__(self, app: ASGIApp, limit: int = BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "PUT" and UPLOAD.match(scope["path"]):
            await self._app(scope, receive, _closing(send))
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._limit:
            answer = problem(413, "too-large", "body too large", self._said(int(announced)), {"Connection": "close"})
            await answer(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:  # raised inside the application: its handlers make the problem document
                raise HTTPException(413, self._said(seen), {"Connection": "close"})
            return message

        await self._app(scope, counted, send)

    def _said(self, got: int) -> str:
        return f"request body: expected at most {self._limit} bytes, got {got} or more"


def _closing(send: Send) -> Send:
    """A refusal ends the connection: the rest of a large body is not worth reading."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return sent
