"""RFC 9112: where messages begin and end on a connection, over real sockets.

| section | what is here |
|---|---|
| 2.2 Message Parsing | a byte at a time; empty lines first; no bare LF, bare CR or white space before a field |
| 2.3 HTTP Version | 1.0 and 1.1; a higher minor is 1.1, another major 505 |
| 3 Request Line | 400, 414 |
| 3.2 Request Target | origin-form, and absolute-form, whose host does not matter here; one right Host |
| 5.1, 5.2 Field Lines | nothing between name and colon, no folding |
| 5.5 of RFC 9110, Field Values | no control bytes; bytes beyond ASCII are passed over |
| 6 Message Body, 7 Transfer Codings | a length or a coding, never both; a body is refused, never read as a request |
| 6.3 Message Body Length | of a response: always Content-Length; HEAD and 304 end with their head |
| 9.3 Persistence, 9.3.2 Pipelining | who stays; answers in order |
| 9.5 Failures and Timeouts | deadlines, a new one for each head |
| 9.6 Tear-down | nothing behind close is answered; no refusal is lost |

Left to others: every way to damage a head (tests/core/test_http_head.py), all bytes at all (tests/fuzz).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import h11
import httptools
import pytest

from bootplane.core.blob import Blob
from tests.fakes.http_client import Rack, rack

SMALL = b"0123456789"
LARGE = os.urandom(5 << 20)
NAMES = {
    "small": Blob.memory(SMALL, dynamic=False),
    "large": Blob.memory(LARGE, dynamic=False),
    "empty": Blob.memory(b"", dynamic=False),
}
HOST = b" HTTP/1.1\r\nHost: rack\r\n\r\n"


@pytest.fixture
def served() -> Iterator[Rack]:
    with rack(NAMES) as it:
        yield it


def test_a_connection_carries_one_request_after_another(served: Rack) -> None:
    with served.client() as client:
        for _ in range(20):
            response = client.get("/small")
            assert (response.status, response.body) == (200, SMALL)
            assert "Connection" not in response.headers
    assert served.count("http_connections") == 1


def test_a_request_may_arrive_byte_by_byte(served: Rack) -> None:
    with served.client() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\nGET /small" + HOST:
            client.send(bytes([byte]))
        assert client.response().body == SMALL
        assert client.get("/empty").body == b""


@pytest.mark.parametrize("piece", [1, 7, 100, 4096, 1 << 20])
def test_pipelined_requests_are_all_answered_in_order(served: Rack, piece: int) -> None:
    wanted = [(b"GET", b"/small"), (b"HEAD", b"/large"), (b"GET", b"/nobody"), (b"GET", b"/empty")] * 12
    wanted.insert(10, (b"GET", b"/large"))
    wanted.append((b"GET", b"/large"))
    requests = b"".join(method + b" " + target + HOST for method, target in wanted)
    with served.client() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(requests), piece):
            client.send(requests[at : at + piece])
        for method, target in wanted:
            response = client.response(method.decode())
            assert response.status == (404 if target == b"/nobody" else 200)
            if method == b"GET" and target != b"/nobody":
                assert response.body == {b"/small": SMALL, b"/large": LARGE, b"/empty": b""}[target]
    served.wait_for("http_closed", 1)
    assert served.count("http_requests") == len(wanted)
    assert served.count("http_connections") == 1


def test_a_thousand_pipelined_requests_do_not_keep_others_waiting(served: Rack) -> None:
    with served.client() as greedy, served.client() as other:
        greedy.send((b"GET /small" + HOST) * 1000)
        assert other.get("/small").body == SMALL
        for _ in range(1000):
            assert greedy.response().body == SMALL


def test_a_client_that_half_closes_still_gets_every_answer(served: Rack) -> None:
    with served.client() as client:
        client.send(b"GET /small" + HOST + b"GET /large" + HOST + b"GET /small" + HOST)
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.response().body for _ in range(3)] == [SMALL, LARGE, SMALL]
        assert client.end() == "closed"


def test_a_head_that_is_cut_off_by_the_client_is_nobodys(served: Rack) -> None:
    with served.client() as client:
        client.send(b"GET /small HTTP/1.1\r\nHos")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.end() == "closed"
    assert served.count("http_requests") == 0


@pytest.mark.parametrize(
    ("version", "lines", "says", "stays"),
    [
        ("1.1", (), None, True),
        ("1.1", ("Connection: close",), "close", False),
        ("1.0", (), "close", False),
        ("1.0", ("Connection: keep-alive",), "keep-alive", True),
    ],
)
@pytest.mark.parametrize("target", ["/small", "/large", "/empty", "/nobody"])
def test_who_closes_and_says_so(
    served: Rack, version: str, lines: tuple[str, ...], says: str | None, stays: bool, target: str
) -> None:
    with served.client() as client:
        response = client.get(target, *lines, version=version)
        assert response.headers.get("Connection") == says
        if stays:
            assert client.get("/small").body == SMALL
        else:
            assert client.end() == "closed"


def test_what_follows_a_close_is_not_answered(served: Rack) -> None:
    with served.client() as client:
        client.send(b"GET /small HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\nGET /small" + HOST)
        assert client.response().body == SMALL
        assert client.end() == "closed"
    assert served.count("http_requests") == 1


def test_every_response_has_its_length_and_is_never_chunked(served: Rack) -> None:
    with served.client() as client:
        for method in ("GET", "HEAD"):
            for target, length in (("/small", 10), ("/empty", 0), ("/large", len(LARGE)), ("/nobody", 45)):
                headers = client.get(target, method=method).headers
                assert headers["Content-Length"] == str(length), target
                assert "Transfer-Encoding" not in headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /small HTTP/1.1\r\n\r\n", 400),
        (b"GET /small\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /../etc/passwd" + HOST, 400),
        (b"GET /%2e%2e/etc/passwd" + HOST, 400),
        (b"GET /\\..\\x" + HOST, 400),
        (b"GET /small HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + HOST, 414),
        (b"GET /small HTTP/1.1\r\nHost: rack\r\nCookie: " + b"a" * 20000 + b"\r\n\r\n", 431),
        (b"GET /small HTTP/1.1\r\nHost: rack\r\n" + b"A: b\r\n" * 3000 + b"\r\n", 431),
    ],
)
def test_a_wrong_request_gets_its_status_and_one_line_of_text(served: Rack, sent: bytes, status: int) -> None:
    with served.client() as client:
        response = client.send(sent).response()
        assert response.status == status
        assert response.body.startswith(f"{status} ".encode())
        assert response.body.count(b"\n") == 1
        assert response.headers["Content-Type"] == "text/plain"
        if "Connection" in response.headers:
            assert client.end() == "closed"  # and not "reset": the rest of the request was read first
        else:
            assert client.get("/small").body == SMALL


#: (section, request, status); where the standard lets a server choose between mending and refusing, it is refused
MUST = [
    ("2.2 a bare LF ends no line", b"GET /small HTTP/1.1\nHost: r\n\n", 400),
    ("2.2 a bare CR is no white space", b"GET /small HTTP/1.1\r\nHost: r\r\nX: a\rb\r\n\r\n", 400),
    ("2.2 a few empty lines first", b"\r\n\r\nGET /small HTTP/1.1\r\nHost: r\r\n\r\n", 200),
    ("2.2 empty lines without end", b"\r\n" * 9 + b"GET /small HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("2.2 white space before the first field", b"GET /small HTTP/1.1\r\n Host: r\r\n\r\n", 400),
    ("2.3 the name of the protocol has a case", b"GET /small http/1.1\r\nHost: r\r\n\r\n", 400),
    ("2.3 a higher minor version", b"GET /small HTTP/1.9\r\nHost: r\r\n\r\n", 200),
    ("2.3 another major version", b"GET /small HTTP/3.0\r\nHost: r\r\n\r\n", 505),
    ("3 two spaces", b"GET  /small HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("3 a byte that must be encoded", b"GET /sm\xc3\xa4ll HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("3.2 no Host", b"GET /small HTTP/1.1\r\n\r\n", 400),
    ("3.2 two Hosts", b"GET /small HTTP/1.1\r\nHost: r\r\nHost: r\r\n\r\n", 400),
    ("3.2 two Hosts in HTTP/1.0", b"GET /small HTTP/1.0\r\nHost: r\r\nHost: s\r\n\r\n", 400),
    ("3.2 a Host that is none", b"GET /small HTTP/1.1\r\nHost: r/x\r\n\r\n", 400),
    ("3.2 an empty Host is one", b"GET /small HTTP/1.1\r\nHost:\r\n\r\n", 200),
    ("3.2 HTTP/1.0 needs none", b"GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
    ("3.2.1 origin-form with a query", b"GET /small?a=b HTTP/1.1\r\nHost: r\r\n\r\n", 200),
    ("3.2.2 absolute-form", b"GET http://elsewhere:1/small HTTP/1.1\r\nHost: r\r\n\r\n", 200),
    ("3.2.2 absolute-form without a host", b"GET http:///small HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("3.2.2 another scheme", b"GET ftp://r/small HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("3.2.3 authority-form is CONNECT's", b"GET small:80 HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("3.2.4 asterisk-form is OPTIONS'", b"GET * HTTP/1.1\r\nHost: r\r\n\r\n", 400),
    ("5.1 white space before a colon", b"GET /small HTTP/1.1\r\nHost : r\r\n\r\n", 400),
    ("5.1 a field without a name", b"GET /small HTTP/1.1\r\nHost: r\r\n: x\r\n\r\n", 400),
    ("5.1 a field without a colon", b"GET /small HTTP/1.1\r\nHost: r\r\nX\r\n\r\n", 400),
    ("5.5 (RFC 9110) a NUL in a value", b"GET /small HTTP/1.1\r\nHost: r\r\nX: a\0b\r\n\r\n", 400),
    ("5.5 (RFC 9110) bytes beyond ASCII in a value", b"GET /small HTTP/1.1\r\nHost: r\r\nX: \xe4\r\n\r\n", 200),
    ("5.1 white space around a value", b"GET /small HTTP/1.1\r\nHost:\t r \t\r\n\r\n", 200),
    ("5.2 a folded line", b"GET /small HTTP/1.1\r\nHost: r\r\nX: a\r\n b\r\n\r\n", 400),
    ("6.1 a coding in HTTP/1.0", b"GET /small HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("6.1 a coding and a length",
     b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("6.1 a coding on a GET", b"GET /small HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("6.3 a length beyond 2**63",
     b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: 9223372036854775808\r\n\r\n", 400),
    ("6.3 a length of 2**64, which is not 0",
     b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: 18446744073709551616\r\n\r\n", 400),
    ("6.3 a length that is no number", b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: +5\r\n\r\n", 400),
    ("6.3 two lengths", b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    ("6.3 a list of lengths", b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: 5, 5\r\n\r\n", 400),
    ("6.3 a length of nothing", b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n", 200),
    ("7.8 (RFC 9110) an upgrade to nothing known", b"GET /small HTTP/1.1\r\nHost: r\r\nUpgrade: h2c\r\n\r\n", 200),
]  # fmt: skip
#: sections of which a refusal leaves the next request where it is
STAYS = ("3.2.2", "3.2.3", "3.2.4")


@pytest.mark.parametrize(("section", "sent", "status"), MUST, ids=[row[0] for row in MUST])
def test_as_the_section_says(section: str, sent: bytes, status: int) -> None:
    """And a request behind a head that cannot be trusted is not answered (9.6)."""
    with rack(NAMES, control=0) as served, served.client() as client:
        client.send(sent + b"GET /empty" + HOST)
        assert client.response().status == status
        if status == 200 or section.startswith(STAYS):
            assert client.response().status == 200
        else:
            assert client.end() == "closed"


def test_a_refusal_reaches_a_client_that_is_still_sending(served: Rack) -> None:
    with served.client() as client:
        client.send(b"GET /small HTTP/1.1\r\nHost: rack\r\nX: " + b"a" * 17000)
        for _ in range(20):
            client.send(b"a" * 50000)
        assert client.response().status == 431
        client.socket.shutdown(socket.SHUT_WR)
        assert client.end() == "closed"


def test_a_head_of_16_kib_less_one_byte_and_its_end_is_answered(served: Rack) -> None:
    start = b"GET /small HTTP/1.1\r\nHost: rack\r\nCookie: "
    with served.client() as client:
        for _ in range(2):
            client.send(start + b"c" * (16384 - len(start) - 4) + b"\r\n\r\n")
            assert client.response().body == SMALL


def test_a_body_on_the_bulk_port_is_refused_and_never_taken_for_a_request() -> None:
    with rack(NAMES, control=0) as served, served.client() as client:
        body = b"GET /small" + HOST
        client.send(b"GET /small HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.response().status == 400
        assert client.end() == "closed"


def test_the_bulk_port_knows_two_methods() -> None:
    with rack(NAMES, control=0) as served, served.client() as client:
        response = client.get("/small", method="DELETE")
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
        assert client.get("/metrics").status == 404
        assert client.get("/small").body == SMALL


ASKED = [[], [("Range", "bytes=1-2")], [("Range", "bytes=99999999-")], [("If-Match", '"x"')], [("If-None-Match", "*")]]


@pytest.mark.parametrize("target", ["/small", "/large", "/nobody", "/empty"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_h11_reads_every_response_to_its_end_and_as_we_meant_it(served: Rack, target: str, method: str) -> None:
    connection = h11.Connection(h11.CLIENT)
    with served.client() as client, served.client() as ours:
        for lines in ASKED:
            request = h11.Request(method=method, target=target, headers=[("Host", "rack"), *lines])
            client.send((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            head, body = None, b""
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(client.socket.recv(1 << 20))
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
            connection.start_next_cycle()
            meant = ours.get(target, *(f"{name}: {value}" for name, value in lines), method=method)
            assert head is not None
            assert (head.status_code, head.reason.decode(), body) == (meant.status, meant.reason, meant.body)
            fields = {name.decode().title(): value.decode() for name, value in head.headers}
            assert fields | {"Date": ""} == {name.title(): value for name, value in meant.headers.items()} | {
                "Date": ""
            }


class Collected:
    """What httptools makes of the responses on one connection: (status, body) each."""

    def __init__(self) -> None:
        self.read: list[tuple[int, bytes]] = []
        self.body = bytearray()
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.read.append((self.parser.get_status_code(), bytes(self.body)))
        self.body.clear()


def test_httptools_reads_a_pipeline_of_responses_one_by_one_and_as_we_meant_them(served: Rack) -> None:
    wanted = [(target, lines) for target in ("/small", "/large", "/nobody", "/empty") for lines in ASKED]
    collected = Collected()
    with served.client() as client, served.client() as ours:
        for target, lines in wanted:
            fields = "".join(f"{name}: {value}\r\n" for name, value in lines)
            client.send(f"GET {target} HTTP/1.1\r\nHost: r\r\n{fields}\r\n".encode())
        while len(collected.read) < len(wanted):
            collected.parser.feed_data(client.socket.recv(1 << 20))
        meant = [ours.get(target, *(f"{name}: {value}" for name, value in lines)) for target, lines in wanted]
    assert collected.read == [(response.status, response.body) for response in meant]


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_without_a_word() -> None:
    with rack(NAMES, idle_timeout_s=0.05) as served, served.client() as client, served.client() as silent:
        assert client.get("/small").body == SMALL
        assert client.end() == "closed"
        assert silent.end() == "closed"


def test_a_head_that_is_not_finished_in_time_gets_408() -> None:
    with rack(NAMES, head_timeout_s=0.05) as served, served.client() as client:
        assert client.get("/small", method="HEAD").status == 200
        response = client.send(b"GET /sma").response()
        assert response.status == 408
        assert response.headers["Connection"] == "close"
        assert client.end() == "closed"


def test_a_slow_head_is_not_given_more_time_for_every_byte() -> None:
    with rack(NAMES, head_timeout_s=0.1) as served, served.client() as client:
        client.socket.settimeout(0.005)
        sent = 0
        while True:
            try:
                client.more()
                break
            except TimeoutError:
                client.send(b"G" if sent == 0 else b"E")
                sent += 1
                assert sent < 60, "a token of 64 bytes would be refused for another reason"
        assert client.response().status == 408


def pipelined(served: Rack, seconds: float) -> bool:
    """Requests one after the other, each sent with the first bytes of the next: is each of them answered?"""
    request = b"GET /small" + HOST
    with served.client() as client:
        client.send(request[:5])
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if client.send(request[5:] + request[:5]).response().status != 200:
                return False
    return True


def test_a_head_has_its_own_time_though_it_began_before_the_answer_to_the_last() -> None:
    with rack(NAMES, head_timeout_s=0.4) as served:
        assert any(pipelined(served, 1) for _ in range(3)), "the deadline of the first head was that of all"


def test_a_reader_that_takes_nothing_is_reset() -> None:
    with rack(NAMES, send_timeout_s=0.05) as served, served.client(receive_buffer=4096) as client:
        client.send(b"GET /large" + HOST)
        served.wait_for("http_cut", 1)
        n, how = client.rest()
        assert how == "reset"
        assert n < len(LARGE)
