"""A bound on request bodies, before anything reads one: an announced one is refused at once, any other when it grows."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bootplane.control.api.problems import problem

BODY_BYTES = 16 << 20


class BodyTooLarge(Exception):
    """The body grew beyond its bound."""


class BodyLimit:
    """ASGI middleware. Answers 413 and closes when a body has more than *limit* bytes."""

    def __init__(self, app: ASGIApp, limit: int = BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(scope, receive, send, int(announced))
            return
        seen = 0
        answered = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise BodyTooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except BodyTooLarge:
            if not answered:
                await self._refuse(scope, receive, send, seen)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, got: int) -> None:
        detail = f"request body: expected at most {self._limit} bytes, got {got} or more"
        answer = problem(413, "too-large", "body too large", detail, {"Connection": "close"})
        await answer(scope, receive, send)
