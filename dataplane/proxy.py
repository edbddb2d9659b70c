"""Connections a reactor has handed over: one request each, answered here, then the descriptor goes back.

    /metrics                 answered here
    /MAAS/..., /api/...      forwarded to a region (forward)
    any other name           405 for methods we know, 501 for those nobody knows, 400 for a GET that carries a body

Invariants: every limit is a constant below and ends in the status RFC 9110 gives it; one client's requests leave room
for those of others; a connection goes back to its reactor only when request and answer are complete and the client
wants to keep it, with the bytes it had sent already; a request of another kind than file names never reaches a file.

Left to others: GET and HEAD of files (core), which has read each head before and refused what is malformed; who may
call what (the region checks tokens).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import h11

from bootplane.core.table import kind, normalise
from bootplane.dataplane.forward import ABSOLUTE, CutShort, Forwarder, RegionsDown, origin_form

HEAD_BYTES = 16 << 10
BODY_BYTES = 1 << 20  # of a request to a region: metadata reports and API calls; uploads go to the region itself
HEAD_S = 10.0
BODY_S = 30.0
SEND_S = 30.0  # without the client taking one piece
LINGER_S = 1.0
GRACE_S = 2.0  # for what is being answered when the rack ends
MAX_REQUESTS = 256  # answered at a time
MAX_PER_ADDRESS = 16  # of them for one client address: a machine waits for one or two, a console for some more
MAX_CONNECTIONS = 1024  # held, also those that are being told that they are too many
RETRY_AFTER_S = 5
READ_BYTES = 64 << 10

NAME_CONTROL = 3  # table.pxd
KNOWN_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"})
READING = frozenset({b"GET", b"HEAD"})
FORWARDED = KNOWN_METHODS - {b"TRACE", b"CONNECT"}

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
}

log = logging.getLogger("bootplane.proxy")

GiveBack = Callable[[int, int, bytes], None]  # (reactor, descriptor, bytes read already)


class Refused(Exception):
    """The request ends with *status*; *text* is one sentence for whoever sent it."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class Client:
    """The client's side of one exchange: events in, events out, with deadlines."""

    def __init__(self, sock: socket.socket, data: bytes, peer: tuple[str, int]) -> None:
        self.sock = sock
        self.peer = peer
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._loop = asyncio.get_running_loop()
        self._bodyless = False  # the answer to a HEAD
        self._announced = 0  # bytes of body, by its Content-Length
        while data.startswith(b"\r\n"):  # left over by an old client (RFC 9112, 2.2); core counts them
            data = data[2:]
        if data:
            self.http.receive_data(data)

    async def _event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self._loop.sock_recv(self.sock, READ_BYTES))
        return event

    async def request(self) -> h11.Request | None:
        """The head, or None when the client has gone."""
        try:
            async with asyncio.timeout(HEAD_S):
                event = await self._event()
        except TimeoutError:
            raise Refused(408, f"expected a whole request head within {HEAD_S:.0f} s") from None
        if not isinstance(event, h11.Request):
            return None
        self._bodyless = bytes(event.method) == b"HEAD"
        framing = {name: value for name, value in event.headers if name in (b"content-length", b"transfer-encoding")}
        if len(framing) > 1:
            raise Refused(400, "Transfer-Encoding stands with Content-Length", Connection="close")
        self._announced = int(framing.get(b"content-length", 0))
        return event

    async def body(self, limit: int = BODY_BYTES) -> bytes:
        """The whole body. Raises Refused when it is too slow or too long; unread when its Content-Length says so."""
        parts: list[bytes] = []
        size = 0
        if self._announced > limit:
            raise Refused(413, f"expected a body of at most {limit} bytes")
        try:
            async with asyncio.timeout(BODY_S):
                if self.http.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                while isinstance(event := await self._event(), h11.Data):
                    size += len(event.data)
                    if size > limit:
                        raise Refused(413, f"expected a body of at most {limit} bytes")
                    parts.append(bytes(event.data))
        except TimeoutError:
            raise Refused(408, f"expected the whole body within {BODY_S:.0f} s") from None
        return b"".join(parts)

    async def send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            async with asyncio.timeout(SEND_S):
                await self._loop.sock_sendall(self.sock, data)

    async def answer(self, status: int, body: bytes, content_type: str = "text/plain", **headers: str) -> None:
        """A whole answer of our own."""
        fields = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        if not self._has_whole_request() and "Connection" not in headers:
            fields.append(("Connection", "close"))
        reason = REASONS.get(status, b"")
        await self.send(h11.Response(status_code=status, reason=reason, headers=fields))
        if not self._bodyless:
            await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    def _has_whole_request(self) -> bool:
        """Takes what has arrived of an unread body. True when that was the end of it: the next request can be found."""
        while self.http.their_state is h11.SEND_BODY:
            try:
                if not isinstance(self.http.next_event(), (h11.Data, h11.EndOfMessage)):
                    return False
            except h11.RemoteProtocolError:
                return False
        return bool(self.http.their_state is h11.DONE)

    @property
    def is_reusable(self) -> bool:
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE and not self.http.trailing_data[1]

    def cut(self) -> None:
        """Closing will reset the connection: where the end of it ends a body (HTTP/1.0), a clean one would be a lie."""
        with contextlib.suppress(OSError):  # it is gone already
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def linger(self) -> None:
        """Lets the client read our last words: closing over unread bytes would reset the connection under them."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_S):
                while await self._loop.sock_recv(self.sock, READ_BYTES):
                    pass
        except (TimeoutError, OSError):
            return  # it had its time, or is gone


class Slots:
    """How many requests are being answered, in all and for each client address."""

    def __init__(self) -> None:
        self._total = 0
        self._of: Counter[str] = Counter()

    @contextlib.contextmanager
    def held(self, address: str) -> Iterator[None]:
        """One more, while it lasts. Raises Refused."""
        if self._total >= MAX_REQUESTS:
            raise Refused(503, "too many requests are being answered", Retry_After=str(RETRY_AFTER_S))
        if self._of[address] >= MAX_PER_ADDRESS:
            text = f"expected at most {MAX_PER_ADDRESS} requests of {address} at a time, got one more"
            raise Refused(503, text, Retry_After=str(RETRY_AFTER_S))
        self._total += 1
        self._of[address] += 1
        try:
            yield
        finally:
            self._total -= 1
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]


class ControlPort:
    """Serves handed-over connections on the running loop. *metrics()* gives Prometheus text."""

    def __init__(self, forwarder: Forwarder, metrics: Callable[[], bytes], give_back: GiveBack) -> None:
        self._forwarder = forwarder
        self._metrics = metrics
        self._give_back = give_back
        self._slots = Slots()
        self._tasks: set[asyncio.Task[None]] = set()
        self.outcomes: Counter[str] = Counter()  # metrics, forwarded, refused, unreachable, cut, gone

    def take(self, reactor: int, fd: int, data: bytes, peer: tuple[str, int]) -> None:
        """Owns *fd* from here on. Returns at once."""
        sock = socket.socket(fileno=fd)
        if not peer[0] or len(self._tasks) >= MAX_CONNECTIONS:  # it went away before anybody could ask who it was
            self.outcomes["gone" if not peer[0] else "refused"] += 1
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(reactor, sock, data, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, grace_s: float | None = None) -> None:
        """Cuts what has not been answered within *grace_s*; GRACE_S when it is not given."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_S if grace_s is None else grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reactor: int, sock: socket.socket, data: bytes, peer: tuple[str, int]) -> None:
        client = Client(sock, data, peer)
        is_answered = False
        try:
            outcome = await self._exchange(client)
            is_answered = True
            self.outcomes[outcome] += 1
            if client.is_reusable:
                left = client.http.trailing_data[0]
                self._give_back(reactor, sock.detach(), left)
            elif outcome != "gone":
                await client.linger()
        except CutShort as error:
            self.outcomes["cut"] += 1
            log.warning("%s: answer cut short: %s", peer[0], error)
        except (OSError, h11.RemoteProtocolError) as error:  # a TimeoutError too: it took nothing for SEND_S
            self.outcomes["gone"] += 1
            log.debug("%s went away: %s", peer[0], error)
        except Exception:  # everything: nobody awaits this task; the client is cut, and the log has the traceback
            self.outcomes["cut"] += 1
            log.exception("request of %s could not be answered", peer[0])
        finally:
            if not is_answered:
                client.cut()
            sock.close()

    async def _exchange(self, client: Client) -> str:
        try:
            request = await client.request()
            if request is None:
                return "gone"
            with self._slots.held(client.peer[0]):
                return await self._dispatch(client, request)
        except h11.RemoteProtocolError as error:
            if client.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                raise
            await client.answer(error.error_status_hint, f"{error}\n".encode())
        except Refused as error:
            await client.answer(error.status, f"{error}\n".encode(), **error.headers)
        return "refused"

    async def _dispatch(self, client: Client, request: h11.Request) -> str:
        method = bytes(request.method)
        if method not in KNOWN_METHODS:
            raise Refused(501, "the method is not one of RFC 9110 or 5789")
        name = name_of(bytes(request.target))
        if name is None:
            raise Refused(400, "the target names no path")
        if name == "metrics":
            if method not in READING:
                raise Refused(405, "metrics are read with GET", Allow="GET, HEAD")
            await client.body()
            text = self._metrics()
            await client.answer(200, text, "text/plain; version=0.0.4; charset=utf-8")
            return "metrics"
        if kind(name) != NAME_CONTROL:
            if method in READING:
                raise Refused(400, "a GET or HEAD of a file carries no body")
            raise Refused(405, "files are read with GET", Allow="GET, HEAD")
        if method not in FORWARDED:
            raise Refused(405, "the method is not forwarded", Allow="GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")
        body = await client.body()
        try:
            await self._forwarder.forward(client, request, body)
        except RegionsDown as error:
            self.outcomes["unreachable"] += 1
            raise Refused(error.status, str(error), Retry_After=str(RETRY_AFTER_S)) from error
        return "forwarded"


def name_of(target: bytes) -> str | None:
    """The canonical name in a request target, or None when it holds dot segments, control bytes or no path."""
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        if target == b"*":
            return "*"
        if not ABSOLUTE.match(path):
            return None
    return normalise(unquote_to_bytes(origin_form(path)))
