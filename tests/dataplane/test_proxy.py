"""Handed-over connections over a socket pair or loopback, against the fake region; no reactor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from bootplane.dataplane import proxy
from bootplane.dataplane.forward import Forwarder, origin_form
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


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/MAAS/x?y=/../z", "MAAS/x"),
        (b"//MAAS//x/./y", "MAAS/x/y"),
        (b"http://rack:5248/MAAS/x?y", "MAAS/x"),
        (b"/metrics", "metrics"),
        (b"*", "*"),
        (b"rack:5248", None),
        (b"/a/../b", None),
    ],
)
def test_a_target_is_read_as_the_core_reads_names(target: bytes, name: str | None) -> None:
    assert name_of(target) == name


def test_a_target_goes_to_a_region_in_origin_form() -> None:
    assert origin_form(b"//MAAS/x?y=1") == b"/MAAS/x?y=1"
    assert origin_form(b"http://rack:5248/MAAS/x?y=1") == b"/MAAS/x?y=1"
