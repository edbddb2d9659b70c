"""Handed-over connections over a socket pair or loopback, against the fake region; no reactor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from bootplane.dataplane import proxy
from bootplane.dataplane.forward import Forwarder
from bootplane.dataplane.proxy import ControlPort, name_of
from tests.fakes.region import FakeRegion

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"kernel": b"k"}) as fake:
        yield fake


class Handed:
    """One connection as a reactor hands it over, and what comes back."""

    def __init__(self, *urls: str) -> None:
        self.back: list[tuple[int, int, bytes]] = []
        self.port = ControlPort(
            Forwarder(lambda: urls), lambda: b"bootplane_up 1\n", lambda *args: self.back.append(args)
        )

    async def send(self, data: bytes, more: bytes = b"") -> bytes:
        """What the client reads until the connection is closed or given back."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            self.port.take(3, theirs.detach(), data, ("10.0.0.9", 1234))
            tasks = list(self.port._tasks)
            if more:
                await loop.sock_sendall(ours, more)
            reading = loop.create_task(self._read(ours))
            await asyncio.wait(tasks, timeout=20)
            for _, fd, _ in self.back:
                socket.socket(fileno=fd).close()
            return await asyncio.wait_for(reading, 20)
        finally:
            ours.close()

    @staticmethod
    async def _read(sock: socket.socket) -> bytes:
        loop, got = asyncio.get_running_loop(), b""
        try:
            while data := await loop.sock_recv(sock, 65536):
                got += data
        except ConnectionResetError:
            return got
        sock.close()  # as a client does: the server's wait for it ends
        return got


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body


async def test_metrics_are_answered_here_and_the_connection_goes_back() -> None:
    handed = Handed()
    status, headers, body = split(await handed.send(b"GET /metrics HTTP/1.1\r\nHost: r\r\n\r\nGET /next"))
    assert (status, body) == (200, b"bootplane_up 1\n")
    assert headers == {"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Content-Length": "15"}
    assert [(reactor, left) for reactor, _, left in handed.back] == [(3, b"GET /next")]


async def test_a_head_of_metrics_has_a_length_and_no_body() -> None:
    status, headers, body = split(await Handed().send(b"HEAD /metrics HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert (status, headers["Content-Length"], body) == (200, "15", b"")


async def test_a_client_that_wants_to_close_is_closed_and_not_given_back() -> None:
    handed = Handed()
    status, _, _ = split(await handed.send(b"GET /metrics HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n"))
    assert status == 200
    assert handed.back == []


async def test_a_head_that_arrives_in_pieces_is_one_request() -> None:
    status, _, _ = split(await Handed().send(b"GET /met", b"rics HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert status == 200


@pytest.mark.parametrize(
    ("request_head", "status", "allow"),
    [
        (b"PUT /images/x/kernel HTTP/1.1\r\nHost: r\r\n\r\n", 405, "GET, HEAD"),
        (b"OPTIONS * HTTP/1.1\r\nHost: r\r\n\r\n", 405, "GET, HEAD"),
        (b"POST /metrics HTTP/1.1\r\nHost: r\r\n\r\n", 405, "GET, HEAD"),
        (b"DELETE /bootx64.efi HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\nabc", 405, "GET, HEAD"),
        (b"TRACE /MAAS/x HTTP/1.1\r\nHost: r\r\n\r\n", 405, "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
        (b"BREW /pot HTTP/1.1\r\nHost: r\r\n\r\n", 501, None),
        (b"GET /bootx64.efi HTTP/1.1\r\nHost: r\r\nContent-Length: 3\r\n\r\nabc", 400, None),
        (b"GET /MAAS/../rack/v1/catalogue HTTP/1.1\r\nHost: r\r\n\r\n", 400, None),
        (b"GET /MAAS/%2e%2e/rack/v1/catalogue HTTP/1.1\r\nHost: r\r\n\r\n", 400, None),
        (b"GET /MAAS/\x00 HTTP/1.1\r\nHost: r\r\n\r\n", 400, None),
        (b"nonsense\r\n\r\n", 400, None),
        (b"GET /MAAS/x HTTP/1.1\r\n\r\n", 400, None),
        (b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: x\r\n\r\n", 400, None),
        (b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: gzip\r\n\r\n", 501, None),
        (b"POST http://[r/MAAS/../x HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n", 400, None),
        (b"POST ftp://r/MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n", 400, None),
        (b"GET /MAAS/x HTTP/1.1\r\nHost: r\r\nX: " + b"x" * 20000, 431, None),
        (b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 1048577\r\n\r\n" + b"x" * 1048577, 413, None),
    ],
)
async def test_what_is_not_ours_to_serve_gets_the_status_of_the_rfc(
    region: FakeRegion, request_head: bytes, status: int, allow: str | None
) -> None:
    handed = Handed(region.url)
    got, headers, body = split(await handed.send(request_head[:16384], request_head[16384:]))
    assert (got, headers.get("Allow")) == (status, allow)
    assert body.endswith(b"\n")
    assert region.proxied == []


async def test_a_request_to_the_metadata_tree_reaches_a_region(region: FakeRegion) -> None:
    handed = Handed(region.url)
    request = (
        b"POST //MAAS/metadata/latest/?op=x HTTP/1.1\r\nHost: rack:5248\r\nAuthorization: OAuth x\r\n"
        b"X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\n"
        b"TE: trailers\r\nContent-Length: 5\r\n\r\nhello"
    )
    status, headers, body = split(await handed.send(request))
    assert (status, body) == (200, b"region says hello")
    assert headers["X-Region"] == "fake"
    assert not {"X-Hop", "Connection"} & set(headers)
    assert len(handed.back) == 1
    method, path, sent, received = region.proxied[0]
    assert (method, path, received) == ("POST", "/MAAS/metadata/latest/?op=x", b"hello")
    assert sent == {
        "Host": "rack:5248",
        "Authorization": "OAuth x",
        "X-Forwarded-For": "10.0.0.9",
        "X-Forwarded-Proto": "http",
        "Via": "1.1 bootplane-rack",
        "Connection": "close",
        "Content-Length": "5",
    }


async def test_a_chunked_answer_is_streamed(region: FakeRegion) -> None:
    answer = await Handed(region.url).send(b"GET /MAAS/chunked HTTP/1.1\r\nHost: r\r\n\r\n")
    status, headers, body = split(answer)
    assert (status, headers["Transfer-Encoding"]) == (200, "chunked")
    assert body.endswith(b"0\r\n\r\n")
    assert b"".join(body.split(b"\r\n")[1:-3:2]) == b"one two three"


async def test_a_client_of_http_1_0_gets_the_whole_answer_and_a_close(region: FakeRegion) -> None:
    handed = Handed(region.url)
    answer = await handed.send(b"GET /MAAS/chunked HTTP/1.0\r\n\r\n")
    status, headers, body = split(answer)
    assert (status, body) == (200, b"one two three")
    assert "Transfer-Encoding" not in headers
    assert handed.back == []


async def test_an_answer_that_breaks_off_is_passed_on_as_one_that_breaks_off(region: FakeRegion) -> None:
    handed = Handed(region.url)
    status, headers, body = split(await handed.send(b"GET /MAAS/cut HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert (status, headers["Content-Length"], body) == (200, "1000", b"short")
    assert handed.back == []


async def test_a_chunked_answer_that_breaks_off_has_no_last_chunk(region: FakeRegion) -> None:
    handed = Handed(region.url)
    _, _, body = split(await handed.send(b"GET /MAAS/chunked-cut HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert body.endswith(b"three\r\n")
    assert (handed.back, handed.port.outcomes) == ([], {"cut": 1})


async def test_a_client_that_expects_100_continue_is_told_to_go_on(region: FakeRegion) -> None:
    handed = Handed(region.url)
    answer = await handed.send(
        b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"ok"
    )
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert region.proxied[0][3] == b"ok"
    assert "Expect" not in region.proxied[0][2]


async def test_a_body_that_is_too_long_by_its_own_word_is_refused_before_it_is_sent(region: FakeRegion) -> None:
    handed = Handed(region.url)
    status, headers, _ = split(
        await handed.send(
            b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nContent-Length: 1048577\r\n\r\n"
        )
    )
    assert (status, headers["Connection"], handed.back, region.proxied) == (413, "close", [], [])


async def test_a_body_in_chunks_ends_at_the_limit_too(region: FakeRegion) -> None:
    head = b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    status, _, _ = split(await Handed(region.url).send(head, chunk * 16 + b"0\r\n\r\n"))
    assert (status, len(region.proxied[0][3])) == (200, 1 << 20)
    handed = Handed(region.url)
    status, headers, _ = split(await handed.send(head, chunk * 16 + b"1\r\nx"))
    assert (status, headers["Connection"], handed.back, len(region.proxied)) == (413, "close", [], 1)


async def test_a_slow_body_ends_with_408(region: FakeRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "BODY_S", 0.01)
    handed = Handed(region.url)
    status, headers, _ = split(await handed.send(b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\n\r\nhel"))
    assert (status, headers["Connection"], handed.back, region.proxied) == (408, "close", [], [])


async def test_two_framings_are_refused_and_what_follows_is_no_request(region: FakeRegion) -> None:
    handed = Handed(region.url)
    status, headers, _ = split(
        await handed.send(
            b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /bootx64.efi HTTP/1.1\r\nHost: r\r\n\r\n"
        )
    )
    assert (status, headers["Connection"], handed.back, region.proxied) == (400, "close", [], [])


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhelloXX0\r\n\r\n",  # a chunk that ends in something else
        b"5;a=\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX y: z\r\n\r\n",
    ],
)
async def test_chunks_that_can_be_read_in_two_ways_are_refused(region: FakeRegion, body: bytes) -> None:
    handed = Handed(region.url)
    head = b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, _ = split(await handed.send(head + body + b"GET /MAAS/y HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert (status, handed.back, region.proxied) == (400, [], [])


async def test_what_stands_behind_a_post_goes_back_with_the_connection(region: FakeRegion) -> None:
    handed = Handed(region.url)
    behind = b"GET /bootx64.efi HTTP/1.1\r\nHost: r\r\n\r\n"
    status, _, _ = split(
        await handed.send(b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\n\r\nhello" + behind)
    )
    assert (status, region.proxied[0][3], [left for _, _, left in handed.back]) == (200, b"hello", [behind])


async def test_empty_lines_before_a_request_are_passed_over_as_core_does(region: FakeRegion) -> None:
    status, _, _ = split(
        await Handed(region.url).send(b"\r\n\r\nPOST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\nhi")
    )
    assert (status, region.proxied[0][3]) == (200, b"hi")


async def test_the_next_region_is_asked_when_one_is_gone(region: FakeRegion) -> None:
    status, _, _ = split(await Handed(DEAD, region.url).send(b"GET /MAAS/x HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert status == 200


async def test_without_a_region_the_answer_is_503_and_the_connection_stays() -> None:
    handed = Handed(DEAD)
    status, headers, body = split(await handed.send(b"GET /MAAS/x HTTP/1.1\r\nHost: r\r\n\r\n"))
    assert (status, headers["Retry-After"]) == (503, "5")
    assert body.startswith(b"no region can be reached: http://127.0.0.1:9: ")
    assert len(handed.back) == 1


async def test_a_slow_head_ends_with_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "HEAD_S", 0.01)
    status, headers, _ = split(await Handed().send(b"GET /metrics HTT"))
    assert (status, headers["Connection"]) == (408, "close")


async def test_a_client_that_goes_away_is_counted_and_nothing_else() -> None:
    handed = Handed()
    ours, theirs = socket.socketpair()
    ours.close()
    handed.port.take(0, theirs.detach(), b"", ("10.0.0.9", 1))
    await asyncio.wait(list(handed.port._tasks), timeout=20)
    assert handed.port.outcomes == {"gone": 1}


async def test_a_client_whose_address_nobody_knows_any_more_is_not_served(region: FakeRegion) -> None:
    handed = Handed(region.url)
    ours, theirs = socket.socketpair()
    handed.port.take(0, theirs.detach(), b"GET /MAAS/x HTTP/1.1\r\nHost: r\r\n\r\n", ("", 0))
    assert (ours.recv(100), handed.port.outcomes, region.proxied) == (b"", {"gone": 1}, [])
    ours.close()


# -- how many at a time


class Holding:
    """A region that answers nobody until it is told to."""

    def __init__(self) -> None:
        self.waiting = 0
        self.arrived = asyncio.Condition()
        self.release = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        async with self.arrived:
            self.waiting += 1
            self.arrived.notify_all()
        await self.release.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async def holds(self, count: int) -> None:
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: self.waiting >= count)


@contextlib.asynccontextmanager
async def holding() -> AsyncIterator[tuple[Holding, Handed]]:
    it = Holding()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    handed = Handed(it.url)
    async with server:
        try:
            yield it, handed
        finally:
            it.release.set()
            await asyncio.wait_for(asyncio.gather(*handed.port._tasks), 20)
            for _, fd, _ in handed.back:
                socket.socket(fileno=fd).close()


class Asking:
    """A connection of *address* on which a request waits to be answered."""

    def __init__(self, handed: Handed, address: str, head: bytes = b"GET /MAAS/x HTTP/1.1\r\nHost: r\r\n\r\n") -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        handed.port.take(0, theirs.detach(), head, (address, 1))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        self.sock.close()
        return split(data)


async def test_one_machine_has_so_many_requests_at_a_time_and_the_others_have_theirs() -> None:
    async with holding() as (region, handed):
        first = [Asking(handed, "10.0.0.9") for _ in range(proxy.MAX_PER_ADDRESS)]
        await region.holds(16)
        status, headers, body = await Asking(handed, "10.0.0.9").answer()
        assert (status, headers["Retry-After"]) == (503, "5")
        assert body == b"expected at most 16 requests of 10.0.0.9 at a time, got one more\n"
        other = Asking(handed, "10.0.0.10")
        await region.holds(17)
        region.release.set()
        assert {(await each.answer())[0] for each in [*first, other]} == {204}
        assert (await Asking(handed, "10.0.0.9").answer())[0] == 204


async def test_a_machine_that_is_refused_all_the_time_takes_no_room_from_others() -> None:
    async with holding() as (region, handed):
        served = [Asking(handed, "10.0.0.9") for _ in range(16)]
        await region.holds(16)
        refused = [Asking(handed, "10.0.0.9", b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nContent-Length: 9\r\n\r\n")
                   for _ in range(2 * proxy.MAX_REQUESTS)]  # fmt: skip
        other = Asking(handed, "10.0.0.10")
        await region.holds(17)
        region.release.set()
        assert [(await each.answer())[0] for each in refused] == [503] * len(refused)
        assert {(await each.answer())[0] for each in [*served, other]} == {204}


async def test_a_request_whose_body_is_refused_is_told_so_before_it_is_sent() -> None:
    async with holding() as (region, handed):
        served = [Asking(handed, "10.0.0.9") for _ in range(16)]
        await region.holds(16)
        expecting = b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        status, headers, _ = await Asking(handed, "10.0.0.9", expecting).answer()
        assert (status, headers["Connection"]) == (503, "close")
        region.release.set()
        assert {(await each.answer())[0] for each in served} == {204}


async def test_all_machines_together_have_so_many_requests_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MAX_REQUESTS", 20)
    async with holding() as (region, handed):
        first = [Asking(handed, f"10.0.1.{n}") for n in range(20)]
        await region.holds(20)
        status, headers, _ = await Asking(handed, "10.0.0.9").answer()
        assert (status, headers["Retry-After"]) == (503, "5")
        region.release.set()
        assert {(await each.answer())[0] for each in first} == {204}


async def test_a_connection_beyond_all_limits_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MAX_CONNECTIONS", 4)
    async with holding() as (region, handed):
        first = [Asking(handed, f"10.0.1.{n}") for n in range(4)]
        await region.holds(4)
        late = Asking(handed, "10.0.0.9")
        assert await asyncio.get_running_loop().sock_recv(late.sock, 100) == b""
        late.sock.close()
        region.release.set()
        assert {(await each.answer())[0] for each in first} == {204}


async def test_what_is_under_way_when_the_rack_ends_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "GRACE_S", 20)
    async with holding() as (region, handed):
        asking = Asking(handed, "10.0.0.9")
        await region.holds(1)
        ending = asyncio.create_task(handed.port.close())
        await asyncio.sleep(0)  # close() waits now
        region.release.set()
        assert (await asking.answer())[0] == 204
        await asyncio.wait_for(ending, 20)


async def test_what_does_not_end_with_the_rack_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "GRACE_S", 0.01)
    async with holding() as (region, handed):
        asking = Asking(handed, "10.0.0.9")
        await region.holds(1)
        await handed.port.close()
        assert handed.port._tasks == set()
        with contextlib.suppress(ConnectionResetError):
            assert asking.sock.recv(100) == b""
        asking.sock.close()


async def test_a_slot_is_free_again_however_a_request_ended(region: FakeRegion) -> None:
    handed = Handed(region.url)
    for request in (
        b"GET /MAAS/cut HTTP/1.1\r\nHost: r\r\n\r\n",
        b"BREW /MAAS/x HTTP/1.1\r\nHost: r\r\n\r\n",
        b"POST /MAAS/x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: r\r\n\r\n",
    ):
        await handed.send(request)
        handed.back.clear()
    assert (handed.port._slots._total, handed.port._slots._of) == (0, {})


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/MAAS/x?y=/../z", "MAAS/x"),
        (b"//MAAS//x/./y", "MAAS/x/y"),
        (b"http://rack:5248/MAAS/x?y", "MAAS/x"),
        (b"/metrics", "metrics"),
        (b"*", "*"),
        (b"rack:5248", None),
        (b"ftp://rack/MAAS/x", None),
        (b"/a/../b", None),
    ],
)
def test_a_target_is_read_as_the_core_reads_names(target: bytes, name: str | None) -> None:
    assert name_of(target) == name
