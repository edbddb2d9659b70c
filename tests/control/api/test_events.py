"""The event stream: opens with a state, beats in silence, is bounded, ends with the region."""

from __future__ import annotations

import asyncio
import json

import pytest

from bootplane.control.api import events
from bootplane.control.errors import Unavailable
from bootplane.control.events import QUEUE_EVENTS, Hub

SYNC = {"state": "idle"}


async def lines(hub: Hub, heartbeat_s: float = 60.0) -> tuple[object, asyncio.Task[list[str]]]:
    """A stream that is open, and the task that gathers what it says until it ends."""
    stream = events._lines(hub, lambda: SYNC, heartbeat_s)
    first = [await anext(stream), await anext(stream)]

    async def rest() -> list[str]:
        return [*first, *[line async for line in stream]]

    task = asyncio.create_task(rest())
    while not hub.subscribers:
        await asyncio.sleep(0)
    return stream, task


async def test_a_stream_opens_with_the_sync_and_ends_with_the_hub() -> None:
    hub = Hub()
    hub.attach(asyncio.get_running_loop())
    _, task = await lines(hub)
    hub.publish("images", {"version": 7})
    await asyncio.sleep(0)
    hub.close()
    assert await task == [
        "retry: 2000\n\n",
        'event: sync\ndata: {"state":"idle"}\n\n',
        'event: images\ndata: {"version":7}\n\n',
    ]
    assert hub.subscribers == 0


async def test_a_silent_stream_beats() -> None:
    hub = Hub()
    hub.attach(asyncio.get_running_loop())
    stream = events._lines(hub, lambda: SYNC, heartbeat_s=0.01)
    await anext(stream), await anext(stream)
    assert await anext(stream) == ": beat\n\n"
    await stream.aclose()
    assert hub.subscribers == 0


async def test_a_slow_reader_loses_the_oldest_events_and_never_the_newest() -> None:
    hub = Hub()
    hub.attach(asyncio.get_running_loop())
    stream = hub.subscribe(60.0)
    reading = asyncio.create_task(anext(stream))
    while not hub.subscribers:
        await asyncio.sleep(0)
    for number in range(3 * QUEUE_EVENTS):
        hub.publish("sync", number)
    await asyncio.sleep(0)
    seen = [await reading]
    while len(seen) < QUEUE_EVENTS:
        seen.append(await anext(stream))
    assert seen[-1] == ("sync", 3 * QUEUE_EVENTS - 1)
    await stream.aclose()


async def test_streams_are_bounded() -> None:
    hub = Hub()
    hub._queues = {asyncio.Queue() for _ in range(events.STREAMS)}
    with pytest.raises(Unavailable, match="at most 64 open streams"):
        events.stream(hub, lambda: SYNC)


async def test_publishing_from_another_thread_arrives() -> None:
    hub = Hub()
    hub.attach(asyncio.get_running_loop())
    _, task = await lines(hub)
    await asyncio.to_thread(hub.publish, "banner", {})
    await asyncio.sleep(0)
    hub.close()
    assert json.loads((await task)[2].partition("data: ")[2]) == {}
