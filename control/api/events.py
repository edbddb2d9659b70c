"""The event stream: server-sent events of the hub, with a heartbeat, at most STREAMS at once.

Each event is a state, not a difference: a client that missed some lost nothing it cannot read again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from bootplane.control.errors import Unavailable
from bootplane.control.events import Hub

HEARTBEAT_S = 15.0
STREAMS = 64
RETRY_MS = 2000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def stream(hub: Hub, first: Callable[[], dict[str, Any]], heartbeat_s: float = HEARTBEAT_S) -> StreamingResponse:
    """The stream as a response. *first* gives the <sync> document that opens it."""
    if hub.subscribers >= STREAMS:
        raise Unavailable(f"events: expected at most {STREAMS} open streams, got one more")
    return StreamingResponse(_lines(hub, first, heartbeat_s), media_type="text/event-stream", headers=HEADERS)


async def _lines(hub: Hub, first: Callable[[], dict[str, Any]], heartbeat_s: float) -> AsyncGenerator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    yield _event("sync", await run_in_threadpool(first))
    async with contextlib.aclosing(hub.subscribe(heartbeat_s)) as subscription:
        async for event in subscription:
            yield ": beat\n\n" if event is None else _event(*event)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
