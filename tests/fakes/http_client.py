"""A client that sends exactly the bytes a test wants, and a rack of one reactor to send them to.

``Client`` is a socket: what it sends is what the test wrote, and what it reads is split into responses by
Content-Length alone, as firmware does. ``rack()`` is a reactor on loopback with a table of names; on leaving it adds up
what came and went: every connection closed, every name looked up once, every blob let go.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import pytest

from bootplane.core import blob as blobs
from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table

PATIENCE_S = 60.0
CHUNK = 1 << 20


class Response(NamedTuple):
    """One response; *headers* by the names exactly as they were sent."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    head: bytes


class Client:
    """One connection. Reads time out loudly after PATIENCE_S."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = bytearray()  # grows in place: bytes would be copied with every packet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def get(self, target: str, *lines: str, method: str = "GET", version: str = "1.1") -> Response:
        """One request with these header lines and its response."""
        host = ("Host: rack",) if version == "1.1" else ()
        self.send("\r\n".join([f"{method} {target} HTTP/{version}", *host, *lines, "", ""]).encode("latin-1"))
        return self.response(method)

    def more(self) -> bool:
        data = self.socket.recv(1 << 20)
        self.buffer += data
        return bool(data)

    def head(self) -> Response:
        """The next head; its body stays in the buffer."""
        while b"\r\n\r\n" not in self.buffer:
            assert self.more(), f"the connection ended inside a head: {self.buffer!r}"
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        head = bytes(raw)
        line, *fields = head.decode("latin-1").split("\r\n")
        version, status, reason = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(field.split(": ", 1) for field in fields)
        assert len(headers) == len(fields), f"a field is there twice: {fields}"
        return Response(int(status), reason, headers, b"", head + b"\r\n\r\n")

    def response(self, method: str = "GET") -> Response:
        """The next response, its body by Content-Length."""
        head = self.head()
        if method == "HEAD" or head.status == 304:
            return head
        length = int(head.headers["Content-Length"])
        while len(self.buffer) < length:
            assert self.more(), f"the connection ended after {len(self.buffer)} of {length} body bytes"
        body = bytes(self.buffer[:length])
        del self.buffer[:length]
        return head._replace(body=body)

    def end(self) -> str:
        """How the connection ends once everything before is read: "closed", "reset" or the bytes that came instead."""
        if self.buffer:
            return repr(bytes(self.buffer))
        try:
            data = self.socket.recv(100)
        except ConnectionResetError:
            return "reset"
        return repr(data) if data else "closed"

    def rest(self) -> tuple[int, str]:
        """Reads to the end: (bytes, "closed" or "reset")."""
        n = len(self.buffer)
        self.buffer.clear()
        try:
            while data := self.socket.recv(1 << 20):
                n += len(data)
        except ConnectionResetError:
            return n, "reset"
        return n, "closed"

    def abort(self) -> None:
        """Goes away with RST, as a machine that is switched off looks like to the next packet."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Rack:
    """One reactor on a loopback port. ``Client`` finds it on 127.0.0.1 alone, other clients on *host*."""

    def __init__(
        self, names: Mapping[str, Blob] | None, *, host: str = "127.0.0.1", park_limit_s: float = 20.0, **options: Any
    ) -> None:
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family, backlog=4096)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.reactor = Reactor(http=[self.listener.fileno()], http_options=options, park_limit_s=park_limit_s)
        self.mails: list[Any] = []
        self.reactor.start()
        if names is not None:
            self.reactor.publish(Table(names, 1))

    def client(self, receive_buffer: int = 0) -> Client:
        return Client(self.port, receive_buffer)

    def get(self, target: str, *lines: str, **how: str) -> Response:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.get(target, *lines, **how)

    def mail(self, kind: str) -> Any:
        """The next mail of this kind from the reactor; earlier ones of other kinds are kept."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for i, mail in enumerate(self.mails):
                if mail[0] == kind:
                    return self.mails.pop(i)
            assert time.monotonic() < deadline, f"no {kind} came, only {self.mails}"
            select.select([self.reactor], [], [], PATIENCE_S)
            self.mails += self.reactor.take()

    def count(self, name: str) -> int:
        return self.reactor.counters()[name]

    def wait_for(self, name: str, value: int) -> None:
        """Until a counter has reached *value*: the thread counts a moment after the client has seen the bytes."""
        deadline = time.monotonic() + PATIENCE_S
        while self.count(name) < value:
            assert time.monotonic() < deadline, f"{name}: expected {value}, got {self.count(name)}"
            select.select([], [], [], 0.001)

    def stop(self) -> dict[str, int]:
        """Ends the thread; the sums must hold afterwards."""
        self.reactor.stop()
        self.listener.close()
        for mail in self.reactor.take(100000):
            if mail[0] == "handover":
                os.close(mail[1])
        c = self.reactor.counters()
        assert c["http_connections"] - c["http_closed"] - c["http_handed_over"] + c["http_adopted"] == 0, c
        assert c["lookups"] == c["names_found"] + c["names_dynamic"] + c["names_unknown"], c
        return c


@contextlib.contextmanager
def rack(
    names: Mapping[str, Blob] | None, *, host: str = "127.0.0.1", park_limit_s: float = 20.0, **options: Any
) -> Iterator[Rack]:
    """A rack that serves *names*, with options of http_options_t. On leaving, nothing may be left behind."""
    held = {name: blob.references for name, blob in (names or {}).items()}
    it = Rack(names, host=host, park_limit_s=park_limit_s, **options)
    try:
        yield it
    finally:
        it.stop()
        del it.reactor
    blobs.reap()
    for name, blob in (names or {}).items():
        assert blob.references == held[name], f"{name}: {blob.references - held[name]} references were not given back"


def curl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """The real curl, its errors shown; without the sanitizer this process may run under, in which it hangs."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = ["curl", "-sS", *(["-f"] if check else []), *arguments]
    return subprocess.run(command, capture_output=True, check=check, timeout=60, env=env)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Every segment and blob made inside is gone at the end: no reference on either was forgotten."""
    gc.collect()
    blobs.reap()
    before = blobs.counts()
    yield
    gc.collect()
    blobs.reap()
    assert blobs.counts() == before


def chunk_list(data: bytes) -> bytes:
    return b"".join(hashlib.sha256(data[i : i + CHUNK]).digest() for i in range(0, len(data), CHUNK))


def cold(cache: Cache, data: bytes) -> Blob:
    """A blob of which the cache holds nothing yet; give it chunks with fill()."""
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunk_list(data))


def fill(cache: Cache, blob: Blob, data: bytes, chunk: int) -> None:
    assert cache.begin(blob, chunk)
    cache.store(blob, chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK])
