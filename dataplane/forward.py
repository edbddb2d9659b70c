"""Forwards one request to a region and streams the answer back: what makes the rack a gateway for metadata and the API.

Invariants: the region sees the machine's address in X-Forwarded-For and nothing the machine wrote there, and the rack's
secret in Bootplane-Rack, by which it knows whose word that is; hop-by-hop fields end here in both directions (RFC 9110,
7.6.1); an answer that breaks off is passed on as one that breaks off, never as a shorter whole. A request is sent to a
second region only while nobody can have acted on it.

Left to others: what may be forwarded, and the client's limits (proxy).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import h11

CONNECT_S = 3.0
ANSWER_S = 60.0  # without one byte of the region's answer
READ_BYTES = 64 << 10

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
REWRITTEN = frozenset(b"forwarded x-real-ip via expect content-length".split())
ABSOLUTE = re.compile(rb"\Ahttps?://[^/?]+", re.IGNORECASE)  # the front of a target in absolute-form (RFC 9112, 3.2.2)
OURS = (b"x-forwarded-", b"bootplane-")  # how fields begin that only a rack may say
REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))

Fields = list[tuple[bytes, bytes]]


class RegionsDown(Exception):
    """No region could be asked (503), or the one that was asked did not answer properly (502)."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class CutShort(Exception):
    """The region's answer broke off after its head had been passed on."""


class Downstream(Protocol):
    """What the forwarder needs of a client (proxy.Client)."""

    @property
    def peer(self) -> tuple[str, int]: ...
    async def send(self, event: h11.Event) -> None: ...


class _NoAnswer(Exception):
    """Nothing of an answer arrived."""


class Forwarder:
    """*regions()* gives base URLs, the one to be tried first at the front. *secret* is the rack's own."""

    def __init__(self, regions: Callable[[], Sequence[str]], secret: str | None = None) -> None:
        self._regions = regions
        self._secret = secret

    async def forward(self, client: Downstream, request: h11.Request, body: bytes) -> None:
        """Streams the region's answer to *client*. Raises RegionsDown before its head, CutShort after it."""
        reasons: list[str] = []
        for url in self._regions():
            try:
                async with _connected(url) as (reader, writer):
                    await self._relay(client, request, body, url, reader, writer)
                return
            except _NoAnswer as error:
                reasons.append(f"{url}: {error}")
                if bytes(request.method) not in REPEATABLE:
                    raise RegionsDown(f"the region did not answer: {reasons[-1]}", 502) from error
            except _Unreachable as error:
                reasons.append(f"{url}: {error}")
        raise RegionsDown(f"no region can be reached: {'; '.join(reasons)}", 503)

    async def _relay(
        self,
        client: Downstream,
        request: h11.Request,
        body: bytes,
        url: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        http = h11.Connection(h11.CLIENT)
        started = False
        try:
            writer.write(http.send(self._request(client, request, body, url)) or b"")
            if body:
                writer.write(http.send(h11.Data(data=body)) or b"")
            writer.write(http.send(h11.EndOfMessage()) or b"")
            # Not drained: the body is in memory already, and a region that answers before it has read all of it must
            # be heard. One that does neither is given up by _answer().
            async for event in _answer(http, reader):
                if isinstance(event, h11.Response):
                    started = True
                    fields = _end_to_end(event.headers.raw_items())
                    event = h11.Response(status_code=event.status_code, reason=event.reason, headers=fields)
                elif isinstance(event, h11.EndOfMessage):
                    event = h11.EndOfMessage()  # trailers are hop-by-hop for us
                await client.send(event)
        except _Gone as error:
            if started:
                raise CutShort(f"{url}: {error}") from error
            raise _NoAnswer(str(error)) from error

    def _request(self, client: Downstream, request: h11.Request, body: bytes, url: str) -> h11.Request:
        fields = [
            (name, value)
            for name, value in _end_to_end(request.headers.raw_items())
            if name.lower() not in REWRITTEN and not name.lower().startswith(OURS)
        ]
        if not any(name.lower() == b"host" for name, _ in fields):  # HTTP/1.0
            fields.append((b"Host", urlsplit(url).netloc.encode()))
        fields += [
            (b"X-Forwarded-For", client.peer[0].encode()),
            (b"X-Forwarded-Proto", b"http"),
            (b"Via", b"1.1 bootplane-rack"),
            (b"Connection", b"close"),
        ]
        if self._secret is not None:
            fields.append((b"Bootplane-Rack", self._secret.encode()))
        if body or bytes(request.method) not in REPEATABLE:
            fields.append((b"Content-Length", str(len(body)).encode()))
        return h11.Request(method=request.method, target=origin_form(bytes(request.target)), headers=fields)


def origin_form(target: bytes) -> bytes:
    """The path and query of a request target; slashes of the path that follow each other become one.

    cloud-init is known to send //MAAS/metadata/ and joins further parts with a slash of its own.
    """
    path, mark, query = ABSOLUTE.sub(b"", target, count=1).partition(b"?")
    return re.sub(rb"/+", b"/", b"/" + path) + mark + query


class _Unreachable(Exception):
    """No connection."""


class _Gone(Exception):
    """The region's side of the exchange failed."""


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    except TimeoutError as error:
        raise _Unreachable(f"no connection within {CONNECT_S:.0f} s") from error
    except OSError as error:
        raise _Unreachable(error.strerror or str(error)) from error
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # one request each; nothing of it is worth waiting for


async def _answer(http: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    """Response, Data..., EndOfMessage. Raises _Gone."""
    while True:
        try:
            event = http.next_event()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(ANSWER_S):
                    http.receive_data(await reader.read(READ_BYTES))
                continue
        except TimeoutError as error:
            raise _Gone(f"sent nothing for {ANSWER_S:.0f} s") from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise _Gone(str(error) or type(error).__name__) from error
        if isinstance(event, h11.ConnectionClosed):
            raise _Gone("closed the connection")
        if not isinstance(event, h11.InformationalResponse):
            yield event
        if isinstance(event, h11.EndOfMessage):
            return


def _end_to_end(items: Sequence[tuple[bytes, bytes]]) -> Fields:
    """Without hop-by-hop fields and those that Connection names; and one framing has to do (RFC 9112, 6.3)."""
    named = {
        option.strip().lower()
        for name, value in items
        if name.lower() == b"connection"
        for option in bytes(value).split(b",")
    }
    if any(name.lower() == b"transfer-encoding" for name, _ in items):
        named.add(b"content-length")
    return [(name, value) for name, value in items if name.lower() not in HOP_BY_HOP | named]
