"""Events from the region to whoever watches: the event stream of the API, and through it the pages.

Publishers are any threads, subscribers live on the event loop. Every subscriber has a bounded queue; one that does not
keep up loses the oldest of its events, because each event is a state and not a difference, and the newest says it all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

QUEUE_EVENTS = 64
NAMES = ("sync", "images", "sources", "racks", "machines", "banner", "uploads")


class Hub:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[tuple[str, Any] | None]] = set()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @property
    def subscribers(self) -> int:
        return len(self._queues)

    def publish(self, name: str, data: Any) -> None:
        """From any thread; never blocks. Without a loop or subscribers it does nothing."""
        loop = self._loop
        if loop is None or loop.is_closed() or not self._queues:
            return
        loop.call_soon_threadsafe(self._spread, (name, data))

    def close(self) -> None:
        """End every subscription; called on the loop."""
        self._spread(None)

    async def subscribe(self, heartbeat_s: float) -> AsyncGenerator[tuple[str, Any] | None]:
        """Events as they come; None after *heartbeat_s* seconds of silence. Ends when the hub closes."""
        queue: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue(QUEUE_EVENTS)
        self._queues.add(queue)
        try:
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), heartbeat_s)
                except TimeoutError:
                    yield None
                    continue
                if event is None:
                    return
                yield event
        finally:
            self._queues.discard(queue)

    def _spread(self, event: tuple[str, Any] | None) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
