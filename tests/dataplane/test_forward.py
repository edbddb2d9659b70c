"""The forwarder alone: what it sends a region, byte by byte, and what it makes of regions that answer oddly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import h11
import pytest

from bootplane.dataplane import forward
from bootplane.dataplane.forward import CutShort, Forwarder, RegionsDown, origin_form

SECRET = "5e" * 32
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Downstream:
    """A client that keeps what it is sent."""

    def __init__(self, address: str = "10.0.0.9") -> None:
        self.peer = (address, 1234)
        self.events: list[h11.Event] = []

    async def send(self, event: h11.Event) -> None:
        self.events.append(event)

    @property
    def status(self) -> int:
        assert isinstance(self.events[0], h11.Response)
        return self.events[0].status_code

    @property
    def headers(self) -> dict[str, str]:
        assert isinstance(self.events[0], h11.Response)
        return {name.decode(): value.decode() for name, value in self.events[0].headers}

    @property
    def body(self) -> bytes:
        return b"".join(bytes(event.data) for event in self.events if isinstance(event, h11.Data))

    @property
    def is_whole(self) -> bool:
        return isinstance(self.events[-1], h11.EndOfMessage)


class Region:
    """Answers every connection with the same bytes, once a whole request (or *after* bytes of one) has come.

    One that stalls reads no further and keeps the connection until the test is over.
    """

    def __init__(self, answer: bytes, after: int | None, *, reset: bool, stall: bool) -> None:
        self.answer = answer
        self.after = after
        self.reset = reset
        self.stall = stall
        self.over = asyncio.Event()
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = b""
        try:
            if self.after is not None:
                got = await reader.readexactly(self.after)
            else:
                got = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in got.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                got += await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
            self.requests.append(got)
            writer.write(self.answer)
            if self.stall:
                await self.over.wait()
        finally:
            if self.reset:
                writer.transport.abort()
            writer.close()


@contextlib.asynccontextmanager
async def region(
    answer: bytes, after: int | None = None, *, reset: bool = False, stall: bool = False
) -> AsyncIterator[Region]:
    it = Region(answer, after, reset=reset, stall=stall)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    server = await asyncio.start_server(it.serve, sock=listener)
    it.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with server:
        try:
            yield it
        finally:
            it.over.set()


def request(target: bytes = b"/MAAS/x", method: bytes = b"GET", **headers: str) -> h11.Request:
    fields = [("Host", "rack:5248"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    return h11.Request(method=method, target=target, headers=fields)


async def ask(answer: bytes, body: bytes = b"", method: bytes = b"GET", **how: bool) -> Downstream:
    client = Downstream()
    async with region(answer, **how) as it:
        await Forwarder(lambda: [it.url]).forward(client, request(method=method), body)
    return client


async def sent(asked: h11.Request, body: bytes = b"", *, secret: str | None = None, address: str = "10.0.0.9") -> bytes:
    """The request as the region gets it."""
    async with region(OK) as it:
        await Forwarder(lambda: [it.url], secret).forward(Downstream(address), asked, body)
        return it.requests[0]


# -- what a region gets


async def test_a_request_reaches_the_region_with_the_machines_address_and_the_racks_secret() -> None:
    assert await sent(request(b"//MAAS/x?y=1", b"POST", Content_Type="text/plain"), b"hello", secret=SECRET) == (
        b"POST /MAAS/x?y=1 HTTP/1.1\r\nHost: rack:5248\r\nContent-Type: text/plain\r\nX-Forwarded-For: 10.0.0.9\r\n"
        b"X-Forwarded-Proto: http\r\nVia: 1.1 bootplane-rack\r\nConnection: close\r\n"
        b"Bootplane-Rack: " + SECRET.encode() + b"\r\nContent-Length: 5\r\n\r\nhello"
    )


async def test_without_a_secret_there_is_no_such_field() -> None:
    assert b"bootplane-rack:" not in (await sent(request())).lower()


@pytest.mark.parametrize(
    "name",
    ["Bootplane-Rack", "bOOTPLANE-rACK", "Bootplane-Anything", "X-Forwarded-For", "X-Forwarded-Host",
     "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded", "X-Real-IP", "Via"],
)  # fmt: skip
async def test_what_only_a_rack_may_say_is_taken_from_a_machine(name: str) -> None:
    asked = h11.Request(method="GET", target="/MAAS/x", headers=[("Host", "r"), (name, "evil-1"), (name, "evil-2")])
    assert b"evil" not in await sent(asked, secret=SECRET)


@pytest.mark.parametrize("named", ["bootplane-rack", "x-forwarded-for", "host, x-forwarded-for, content-length, close"])
async def test_a_machine_cannot_have_the_racks_own_fields_removed(named: str) -> None:
    got = await sent(request(method=b"POST", Connection=named), b"hello", secret=SECRET)
    for line in (b"X-Forwarded-For: 10.0.0.9", b"Bootplane-Rack: " + SECRET.encode(), b"Content-Length: 5"):
        assert got.count(b"\r\n" + line + b"\r\n") == 1
    assert got.lower().count(b"\r\nhost: ") == 1


async def test_what_a_chunked_body_carried_goes_on_with_its_length() -> None:
    asked = request(method=b"POST", Transfer_Encoding="chunked", TE="trailers", Trailer="X-Sum")
    got = await sent(asked, b"hello")
    assert b"Content-Length: 5\r\n\r\nhello" in got
    assert not {b"transfer-encoding", b"te", b"trailer"} & {
        line.split(b":")[0].lower() for line in got.split(b"\r\n")[1:]
    }


async def test_an_ipv6_address_is_told_bare() -> None:
    assert b"\r\nX-Forwarded-For: fd77::50\r\n" in await sent(request(), address="fd77::50")


async def test_credentials_of_the_machine_pass() -> None:
    oauth = 'OAuth oauth_nonce="1", oauth_signature_method="PLAINTEXT", oauth_token="t", oauth_signature="%26ts"'
    assert f"\r\nAuthorization: {oauth}\r\n".encode() in await sent(request(Authorization=oauth), secret=SECRET)


# -- what a region answers


async def test_interim_answers_are_not_the_answer() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    client = await ask(early + OK)
    assert (client.status, client.body, client.is_whole) == (200, b"hi", True)
    assert "link" not in client.headers


async def test_a_switch_of_protocols_that_nobody_asked_for_is_no_answer() -> None:
    with pytest.raises(RegionsDown, match="no region can be reached") as error:
        await ask(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    assert error.value.status == 503


async def test_of_two_framings_the_chunks_are_believed_and_the_length_is_not_passed_on() -> None:
    client = await ask(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    assert (client.body, client.is_whole) == (b"hello", True)
    assert not {"content-length", "transfer-encoding"} & set(client.headers)
    assert not list(client.events[-1].headers)


async def test_a_body_that_ends_with_the_connection_is_whole() -> None:
    client = await ask(b"HTTP/1.0 200 OK\r\nX-Y: z\r\n\r\nall of it")
    assert (client.body, client.is_whole, client.headers["x-y"]) == (b"all of it", True, "z")


async def test_the_answer_to_a_head_has_a_length_and_no_body() -> None:
    client = await ask(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", method=b"HEAD")
    assert (client.headers["content-length"], client.body, client.is_whole) == ("99", b"", True)


async def test_nothing_stands_behind_a_204() -> None:
    client = await ask(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"b", b"POST")
    assert (client.status, client.body, client.is_whole) == (204, b"", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshortXX0\r\n\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_never_ended(answer: bytes) -> None:
    client = Downstream()
    async with region(answer) as it:
        with pytest.raises(CutShort):
            await Forwarder(lambda: [it.url]).forward(client, request(), b"")
    assert client.status == 200
    assert not client.is_whole


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"220 smtp ready\r\n", b"\x16\x03\x01"])
@pytest.mark.parametrize("reset", [False, True])
async def test_no_answer_to_a_post_is_502_and_no_other_region_is_asked(answer: bytes, reset: bool) -> None:
    async with region(answer, reset=reset) as first, region(OK) as second:
        client = Downstream()
        with pytest.raises(RegionsDown, match="the region did not answer") as error:
            await Forwarder(lambda: [first.url, second.url]).forward(client, request(method=b"POST"), b"x")
        assert (error.value.status, client.events, second.requests) == (502, [], [])


async def test_no_answer_to_a_get_is_asked_of_the_next_region() -> None:
    async with region(b"") as first, region(OK) as second:
        client = Downstream()
        await Forwarder(lambda: [first.url, second.url]).forward(client, request(), b"")
        assert (client.body, len(first.requests), len(second.requests)) == (b"hi", 1, 1)


async def test_a_region_that_answers_before_it_has_read_the_body_is_heard() -> None:
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"
    client = Downstream()
    async with region(refusal, after=100, stall=True) as it:
        await Forwarder(lambda: [it.url]).forward(client, request(method=b"POST"), bytes(16 << 20))
    assert (client.status, client.body) == (413, b"no\n")


@pytest.mark.parametrize("body", [b"", bytes(16 << 20)])  # more than socket buffers hold
async def test_a_region_that_neither_reads_nor_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(forward, "ANSWER_S", 0.05)
    async with region(b"", after=100, stall=True) as it:
        with pytest.raises(RegionsDown, match="sent nothing for 0 s") as error:
            await Forwarder(lambda: [it.url]).forward(Downstream(), request(method=b"POST"), body)
    assert error.value.status == 502


async def test_a_client_that_takes_no_more_ends_the_exchange() -> None:
    class Vanished(Downstream):
        async def send(self, event: h11.Event) -> None:
            raise ConnectionResetError

    async with region(OK) as it:
        with pytest.raises(ConnectionResetError):
            await Forwarder(lambda: [it.url]).forward(Vanished(), request(), b"")


# -- targets


@pytest.mark.parametrize(
    ("target", "origin"),
    [
        (b"/MAAS/x?y=1", b"/MAAS/x?y=1"),
        (b"//MAAS/metadata//2012-03-01/meta-data/", b"/MAAS/metadata/2012-03-01/meta-data/"),
        (b"///MAAS/x?op=//y", b"/MAAS/x?op=//y"),
        (b"http://rack:5248//MAAS/x?y=1", b"/MAAS/x?y=1"),
        (b"HTTP://rack/MAAS/http://x", b"/MAAS/http:/x"),
        (b"http://rack", b"/"),
        (b"http://rack?x", b"/?x"),
        (b"http://[rack/MAAS/x", b"/MAAS/x"),
        (b"/MAAS/%2fx/%2E", b"/MAAS/%2fx/%2E"),
    ],
)
def test_a_target_goes_to_a_region_in_origin_form(target: bytes, origin: bytes) -> None:
    assert origin_form(target) == origin
