"""What stands around a connection that is handed over: a region's real routes, a reactor and its control port, clients.

Machines stand on 127.0.0.2 and further, rack and region on 127.0.0.1, so that whose address the region believes can be
seen. ``Site`` has all of it in this process; nothing of it waits for a clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bootplane.control.metadata import MetadataApi
from bootplane.control.racks import RackBook
from bootplane.control.storage.racks import RackRecord
from bootplane.control.tickets import Tickets
from bootplane.control.timeline import BootEvent
from bootplane.core.blob import Blob
from bootplane.core.table import Table
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.forward import Forwarder
from bootplane.dataplane.proxy import ControlPort
from bootplane.dataplane.reactors import Reactors, address_of, open_http
from tests.fakes.http_client import Client
from tests.fakes.http_client import Response as Answer

MAC, RACK, SECRET, MACHINE = "52:54:00:77:00:01", "r0a1b2c3d", "5e" * 32, "127.0.0.2"
KERNEL = random.Random(7).randbytes((3 << 20) + 77)
SMALL = b"a boot loader\n" * 100
PATIENCE_S = 60.0


class Racks:
    """A repository of one rack."""

    def list(self) -> list[RackRecord]:
        return [RackRecord(RACK, "a07", hashlib.sha256(SECRET.encode()).hexdigest(), "2026-11-21T10:00:00Z")]


class Timeline:
    """Keeps what it is given, in memory."""

    def __init__(self) -> None:
        self.events: list[BootEvent] = []

    def note(self, event: BootEvent) -> None:
        self.events.append(event)

    def add(self, events: Sequence[BootEvent]) -> None:
        self.events.extend(events)


class Region:
    """The metadata routes as the region serves them, and a few of the test's own under /MAAS/test/."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.tickets = Tickets(bytes(32))
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.held = 0
        self.release = threading.Event()
        self.release.set()
        api = MetadataApi(
            region_id="region-1",
            tickets=self.tickets,
            racks=RackBook(Racks()),  # type: ignore[arg-type]
            timeline=self.timeline,  # type: ignore[arg-type]
        )
        self.app = Starlette(
            routes=[*api.routes(), Route("/MAAS/test/{how}", self.answer, methods=["GET", "POST"])],
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(
                self.app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
                proxy_headers=False,
            )
        )  # fmt: skip
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    async def answer(self, request: Request) -> Response:
        self.seen.append((request.method, request.url.path, dict(request.headers)))
        if request.path_params["how"] == "held":
            self.held += 1
            while not self.release.is_set():
                await asyncio.sleep(0.005)
            return Response("let go")

        async def parts() -> AsyncIterator[bytes]:
            yield b"one "
            if request.path_params["how"] == "cut":
                raise asyncio.CancelledError  # uvicorn closes the connection under a half-sent answer
            yield b"two"

        return StreamingResponse(parts())

    def stop(self) -> None:
        self.release.set()
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)


class Rack:
    """A reactor with two files, and what stands behind it on a loop, in a thread."""

    def __init__(self, region: str, host: str = "127.0.0.1") -> None:
        listeners = open_http(HostPort(host, 0), 1)
        self.port = address_of(listeners[0]).port
        self.reactors = Reactors(listeners)
        self.reactors.start()
        self.reactors.publish(Table({"kernel": Blob.memory(KERNEL), "bootx64.efi": Blob.memory(SMALL)}, 1))
        self.region = region
        ready = threading.Event()
        self.thread = threading.Thread(target=lambda: uvloop.run(self.run(ready)))
        self.thread.start()
        assert ready.wait(PATIENCE_S)

    async def run(self, ready: threading.Event) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self.control = ControlPort(
            Forwarder(lambda: [self.region], SECRET), lambda: b"metrics 1\n", self.reactors.adopt
        )
        self.reactors.attach(
            self.loop, {"handover": lambda index, mail: self.control.take(index, mail[1], mail[2], mail[3])}
        )
        ready.set()
        await self.ended.wait()
        await self.control.close()
        self.reactors.detach(self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(PATIENCE_S)
        self.reactors.stop()


class Machine(Client):
    """A client on an address of its own. Understands chunks and what has no body; names of fields are lower-case."""

    def __init__(self, port: int, address: str = MACHINE, to: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((to, port), timeout=PATIENCE_S, source_address=(address, 0))
        self.buffer = bytearray()

    def response(self, method: str = "GET") -> Answer:
        head = self.head()
        head = head._replace(headers={name.lower(): value for name, value in head.headers.items()})
        if method == "HEAD" or head.status in (100, 204, 304):
            return head
        body, n = b"", int(head.headers.get("content-length", -1))
        while (n < 0 and not self.buffer.endswith(b"0\r\n\r\n")) or len(self.buffer) < n:
            assert self.more(), f"the connection ended inside a body: {bytes(self.buffer[:100])!r}"
        if n < 0:
            n = len(self.buffer)
        body = bytes(self.buffer[:n])
        del self.buffer[:n]
        return head._replace(body=body)

    def fetch(self, path: str, expected: bytes) -> None:
        answer = self.get(path)
        assert (answer.status, answer.body == expected) == (200, True)

    def post(self, path: str, report: dict[str, Any], *lines: str) -> Answer:
        self.send(post(path, report, *lines))
        return self.response()


def post(path: str, report: dict[str, Any] | bytes, *lines: str, version: str = "1.1") -> bytes:
    body = report if isinstance(report, bytes) else json.dumps(report).encode()
    head = [f"POST {path} HTTP/{version}", "Host: rack:5248", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


class Site:
    def __init__(self, host: str = "127.0.0.1") -> None:
        self.region = Region()
        self.rack = Rack(self.region.url, host)
        eventually(lambda: self.region.server.started)

    def stop(self) -> None:
        self.rack.stop()
        self.region.stop()

    def machine(self, address: str = MACHINE) -> Machine:
        return Machine(self.rack.port, address)

    def ticket(self) -> str:
        return f"/MAAS/metadata/boot/{self.region.tickets.issue(MAC, RACK, MACHINE)}"

    @property
    def told(self) -> list[tuple[str, str, str, str]]:
        return [(event.kind, event.name, event.address, event.rack) for event in self.region.timeline.events]

    def counts(self) -> dict[str, int]:
        return self.rack.reactors.counters()

    @property
    def is_idle(self) -> bool:
        return not self.rack.control._tasks and (self.rack.control._slots._total, self.rack.control._slots._of) == (
            0,
            {},
        )


def eventually(is_true: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.005)
