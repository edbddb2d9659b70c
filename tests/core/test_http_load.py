"""The HTTP load clients against Python's http.server and against a server that sends exactly what a test wrote."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.client import quantiles
from bootplane.core.http_load import Fetch, fetch, load
from bootplane.core.http_reply import parse_reply
from bootplane.core.status import RemoteError, Timeout

HOST = "127.0.0.1"
FILE = hashlib.shake_128(b"squashfs").digest(3 * 1048576 + 777)
SMALL = b"#!ipxe\nboot\n"
FILES = {"/squashfs": FILE, "/ipxe.cfg": SMALL, "/empty": b""}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str]]  # request line and headers, in order of arrival

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.seen.append((self.requestline, str(self.headers)))  # type: ignore[attr-defined]
        body = FILES.get(self.path)
        if body is None:
            self.send_error(404)
            return
        status, extra = 200, {}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
            if first >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status, extra = 206, {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
            body = body[first : last + 1]
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    seen: list[tuple[str, str]]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that cuts is part of these tests


@pytest.fixture
def server() -> Iterator[Server]:
    with Server((HOST, 0), Handler) as running:
        running.seen = []
        thread = threading.Thread(target=functools.partial(running.serve_forever, poll_interval=0.05))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@contextlib.contextmanager
def scripted(*replies: bytes | None, close: bool = True) -> Iterator[int]:
    """A server that answers each connection with the next of *replies* (None: a reset), whatever is asked."""
    done = threading.Event()
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            held = []
            for reply in replies:
                connection, _ = listener.accept()
                connection.recv(65536)
                if reply is None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                else:
                    with contextlib.suppress(OSError):
                        connection.sendall(reply)
                if close or reply is None:
                    connection.close()
                held.append(connection)
            done.wait()
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join(5)
            assert not thread.is_alive(), "the client made fewer connections than the script has"


def ok(body: bytes, *fields: str, length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", *fields, f"Content-Length: {len(body) if length is None else length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


# fetch: what is asked


def test_the_request_is_a_firmwares_with_host_and_user_agent(server: Server) -> None:
    fetch(HOST, server.server_port, "/ipxe.cfg")
    line, fields = server.seen[0]
    assert line == "GET /ipxe.cfg HTTP/1.1"
    assert fields.strip().splitlines() == [
        f"Host: {HOST}:{server.server_port}",
        "User-Agent: bootplane-load/0.1",
        "Accept: */*",
    ]


def test_a_range_is_asked_for_as_on_the_wire(server: Server) -> None:
    fetch(HOST, server.server_port, "/squashfs", start=10, end=19)
    fetch(HOST, server.server_port, "/squashfs", start=len(FILE) - 5)
    assert [re.search("Range: (.*)", fields)[1] for _, fields in server.seen] == [  # type: ignore[index]
        "bytes=10-19",
        f"bytes={len(FILE) - 5}-",
    ]


def test_extra_headers_are_sent(server: Server) -> None:
    fetch(HOST, server.server_port, "/ipxe.cfg", headers={"If-None-Match": '"x"'})
    assert 'If-None-Match: "x"' in server.seen[0][1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "no-slash"},
        {"path": "/a b"},
        {"path": "/a\r\nX: y"},
        {"headers": {"X": "a\nb"}},
        {"start": -1},
        {"start": 5, "end": 4},
        {"method": "POST"},
        {"timeout_s": 0},
        {"rate_bytes_s": -1},
        {"port": 65536},
        {"host": ""},
    ],
    ids=str,
)
def test_a_request_that_would_not_be_one_is_the_callers_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        fetch(**{"host": HOST, "port": 80, "path": "/", **wrong})  # type: ignore[arg-type]


# fetch: what is received


@pytest.mark.parametrize("path", FILES)
def test_a_body_is_hashed_as_it_arrives(server: Server, path: str) -> None:
    got = fetch(HOST, server.server_port, path)
    assert (got.status, got.size, got.sha256) == (200, len(FILES[path]), sha(FILES[path]))
    assert 0 < got.first_byte_s <= got.seconds
    assert got.headers.startswith("HTTP/1.1 200 OK\r\n")
    assert got.headers.endswith("\r\n\r\n")
    assert got.body == b""


def test_a_body_is_kept_when_asked(server: Server) -> None:
    assert fetch(HOST, server.server_port, "/squashfs", keep=True).body == FILE


def test_without_verify_nothing_is_hashed_and_every_byte_is_counted(server: Server) -> None:
    got = fetch(HOST, server.server_port, "/squashfs", verify=False)
    assert (got.size, got.sha256) == (len(FILE), "")


def test_a_sink_gets_the_body(server: Server) -> None:
    with tempfile.TemporaryFile() as sink:
        fetch(HOST, server.server_port, "/squashfs", sink_fd=sink.fileno())
        sink.seek(0)
        assert sink.read() == FILE


def test_a_sink_gets_no_error_page(server: Server) -> None:
    with tempfile.TemporaryFile() as sink:
        got = fetch(HOST, server.server_port, "/nobody", sink_fd=sink.fileno())
        assert got.status == 404
        assert os.fstat(sink.fileno()).st_size == 0


def test_a_sink_of_a_range_gets_nothing_when_the_server_ignores_the_range() -> None:
    with scripted(ok(b"whole file")) as port, tempfile.TemporaryFile() as sink:
        got = fetch(HOST, port, "/x", start=6, sink_fd=sink.fileno())
        assert (got.status, got.size) == (200, 10)
        assert os.fstat(sink.fileno()).st_size == 0


def test_a_sink_that_is_full_is_named_with_the_reason(server: Server) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match=rf"squashfs: writing the body to descriptor {full}: No space left"):
            fetch(HOST, server.server_port, "/squashfs", sink_fd=full)
    finally:
        os.close(full)


def test_a_range_brings_its_bytes_and_206(server: Server) -> None:
    got = fetch(HOST, server.server_port, "/squashfs", start=1048576, end=2097151)
    assert (got.status, got.size, got.sha256) == (206, 1048576, sha(FILE[1048576:2097152]))


def test_a_range_past_the_end_brings_416(server: Server) -> None:
    got = fetch(HOST, server.server_port, "/squashfs", start=len(FILE))
    assert (got.status, got.size) == (416, 0)


def test_a_head_request_has_no_body(server: Server) -> None:
    got = fetch(HOST, server.server_port, "/squashfs", method="HEAD")
    assert (got.status, got.size) == (200, 0)
    assert f"Content-Length: {len(FILE)}" in got.headers


@pytest.mark.parametrize("status", [204, 304])
def test_a_reply_that_has_no_body_by_definition_has_none(status: int) -> None:
    with scripted(f"HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n".encode(), close=False) as port:
        assert fetch(HOST, port, "/x")[:2] == (status, 0)


def test_a_reply_without_length_ends_with_the_connection() -> None:
    with scripted(b"HTTP/1.0 200 OK\r\n\r\nabc") as port:
        assert fetch(HOST, port, "/x", keep=True).body == b"abc"


def is_read(connection: socket.socket) -> bool:
    """Whether the other end, in this network namespace, has read all that *connection* sent (/proc/net/tcp)."""
    here = f":{connection.getsockname()[1]:04X}"
    there = f":{connection.getpeername()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(there) and remote.endswith(here):
            return queues.endswith(":00000000")
    return True  # it has closed


def test_a_reply_that_is_read_byte_by_byte_is_the_same_reply() -> None:
    reply = ok(b"kernel", "X-Field: v")
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                connection.recv(65536)
                for at in range(len(reply)):
                    connection.sendall(reply[at : at + 1])
                    while not is_read(connection):
                        os.sched_yield()

        thread = threading.Thread(target=serve)
        thread.start()
        got = fetch(HOST, listener.getsockname()[1], "/x", keep=True)
        thread.join()
    assert (got.body, got.headers.encode()) == (b"kernel", reply[:-6])


def test_a_slow_reader_keeps_to_its_rate(server: Server) -> None:
    got = fetch(HOST, server.server_port, "/squashfs", rate_bytes_s=12_000_000)
    assert got.sha256 == sha(FILE)
    assert got.seconds > len(FILE) / 12_000_000 - 0.05  # the 20 ms it may run ahead; never faster, whatever the load


def test_the_source_address_is_the_one_asked_for() -> None:
    with socket.create_server((HOST, 0)) as listener:
        peers: list[str] = []

        def serve() -> None:
            connection, peer = listener.accept()
            peers.append(peer[0])
            with connection:
                connection.recv(65536)
                connection.sendall(ok(b""))

        thread = threading.Thread(target=serve)
        thread.start()
        fetch(HOST, listener.getsockname()[1], "/x", source="127.0.0.7")
        thread.join()
    assert peers == ["127.0.0.7"]


def test_ipv6_is_spoken() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 loopback")
    with listener:
        heads: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heads.append(connection.recv(65536))
                connection.sendall(ok(b"six"))

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        assert fetch("::1", port, "/x", keep=True).body == b"six"
        thread.join()
    assert f"Host: [::1]:{port}\r\n".encode() in heads[0]


# fetch: what goes wrong, in one sentence each

PREFIX = r"GET http://127\.0\.0\.1:\d+/x: "


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"", "expected a reply, got 0 bytes of it and then the end of the connection"),
        (b"HTTP/1.1 200", "expected a reply, got 12 bytes of it and then the end of the connection"),
        (ok(b"abc", length=10), "body: expected 10 bytes, got 3 and then the end of the connection"),
        (ok(b"abcdef", length=3), "body: expected 3 bytes, got at least 6"),
        (ok(bytes(600_000), length=599_999), "body: expected 599999 bytes, got at least 600000"),
        (b"220 ftp ready\r\n\r\n", "expected the head of an HTTP/1 reply, got the line '220 ftp ready'"),
        (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "expected the head of an HTTP/1 reply, got the line 'nonsense'"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            "expected the head of an HTTP/1 reply, got the line 'HTTP/1.1 100 Continue'",
        ),
        (ok(b"", "Content-Length: 7"), "expected the head of an HTTP/1 reply, got the line 'Content-Length: 0'"),
        (ok(b"", "X: " + "y" * 9000), "reply head: expected at most 8192 bytes, got more"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "expected a body of Content-Length, got Transfer-Encoding: chunked",
        ),
        (
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/5\r\n\r\na",
            "Content-Range: expected no range, got bytes 0-0 with Content-Length 1",
        ),
        (None, "expected a reply, got 0 bytes of it and then Connection reset by peer"),
    ],
    ids=[
        "nothing",
        "cut head",
        "short",
        "long",
        "longer",
        "not HTTP",
        "no colon",
        "interim",
        "two lengths",
        "endless",
        "chunked",
        "unasked",
        "reset",
    ],
)
def test_a_bad_reply_is_one_sentence_with_expected_and_got(reply: bytes | None, sentence: str) -> None:
    with scripted(reply) as port, pytest.raises(RemoteError) as caught:
        fetch(HOST, port, "/x")
    assert re.fullmatch(PREFIX + re.escape(sentence), str(caught.value))


@pytest.mark.parametrize(
    ("content_range", "length", "got"),
    [
        ("bytes 0-4/20", 5, "bytes 0-4 with Content-Length 5"),
        ("bytes 5-8/20", 4, "bytes 5-8 with Content-Length 4"),
        ("bytes 5-9/20", 4, "bytes 5-9 with Content-Length 4"),
        (None, 5, "none"),
    ],
)
def test_a_206_that_is_not_the_range_asked_for_is_refused(content_range: str | None, length: int, got: str) -> None:
    field = f"Content-Range: {content_range}\r\n" if content_range else ""
    reply = f"HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n{field}\r\n".encode() + b"x" * length
    with scripted(reply) as port, pytest.raises(RemoteError) as caught:
        fetch(HOST, port, "/x", start=5, end=9)
    assert str(caught.value).endswith(f"Content-Range: expected bytes 5-9, got {got}")


def test_a_206_of_a_file_that_ends_within_the_range_is_right() -> None:
    reply = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nContent-Range: bytes 5-7/8\r\n\r\nabc"
    with scripted(reply) as port:
        assert fetch(HOST, port, "/x", start=5, end=99, keep=True).body == b"abc"


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RemoteError) as caught:
        fetch(HOST, port, "/x")
    assert str(caught.value) == f"GET http://127.0.0.1:{port}/x: connecting: Connection refused"


def test_a_name_that_cannot_be_found_is_named() -> None:
    with pytest.raises(OSError, match=r"^256\.256\.256\.256:80: the address cannot be found: "):
        fetch("256.256.256.256", 80, "/x")


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"", "after 0.05 s: timed out: expected a reply, got 0 bytes of it"),
        (b"HTTP/1.1 2", "after 0.05 s: timed out: expected a reply, got 10 bytes of it"),
        (ok(b"abc", length=10), "after 0.05 s: timed out: body: expected 10 bytes, got 3"),
    ],
)
def test_a_timeout_says_what_was_still_expected(reply: bytes, sentence: str) -> None:
    with scripted(reply, close=False) as port, pytest.raises(Timeout) as caught:
        fetch(HOST, port, "/x", timeout_s=0.05)
    assert re.fullmatch(PREFIX + re.escape(sentence), str(caught.value))


def test_a_signal_reaches_python_while_a_fetch_waits() -> None:
    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with scripted(b"", close=False) as port, pytest.raises(Rung):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            fetch(HOST, port, "/x", timeout_s=30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# load


@pytest.mark.parametrize("options", [{}, {"discard": False}, {"keep_alive": False}], ids=str)
def test_a_load_makes_exactly_the_requests_asked_for(server: Server, options: dict[str, bool]) -> None:
    got = load(HOST, server.server_port, "/ipxe.cfg", connections=3, requests=20, **options)  # type: ignore[arg-type]
    assert (got.requests, got.errors, got.bytes) == (20, 0, 20 * len(SMALL))
    assert len(server.seen) == 20
    assert 0 < got.p50_s <= got.p99_s <= got.seconds * 1.01
    assert 0 < got.first_p50_s <= got.p50_s * 1.02
    assert got.first_p50_s <= got.first_most_s <= got.seconds * 1.02
    assert got.cpu_s > 0


def test_a_load_without_a_limit_makes_one_request_for_each_connection(server: Server) -> None:
    assert load(HOST, server.server_port, "/empty", connections=7).requests == 7
    assert len(server.seen) == 7


def test_a_load_by_time_ends_and_counts_what_was_cut(server: Server) -> None:
    got = load(HOST, server.server_port, "/squashfs", connections=2, seconds=0.1)
    assert got.errors == 0
    assert got.bytes >= got.requests * len(FILE)
    assert got.seconds >= 0.1


@pytest.mark.parametrize("every", [1, 3])
def test_each_nth_body_is_verified(server: Server, every: int) -> None:
    got = load(
        HOST, server.server_port, "/squashfs", connections=2, requests=9, verify_every=every, sha256=sha(FILE).upper()
    )
    assert (got.requests, got.verified, got.errors) == (9, 9 // every, 0)
    assert got.bytes == 9 * len(FILE)


def test_a_wrong_body_is_an_error_with_both_digests(server: Server) -> None:
    port = server.server_port
    got = load(HOST, port, "/ipxe.cfg", connections=1, requests=4, verify_every=2, sha256=sha(b"other"))
    assert (got.requests, got.errors, got.verified) == (2, 2, 0)
    assert got.first_error == (
        f"GET http://127.0.0.1:{port}/ipxe.cfg: sha256 differs: expected {sha(b'other')}, got {sha(SMALL)}"
    )


def test_ranges_walk_through_the_file(server: Server) -> None:
    got = load(
        HOST,
        server.server_port,
        "/squashfs",
        connections=1,
        requests=5,
        range_bytes=1048576,
        range_span=len(FILE),
    )
    assert (got.requests, got.errors) == (5, 0)
    assert [re.search("Range: bytes=(.*)", fields)[1] for _, fields in server.seen] == [  # type: ignore[index]
        "0-1048575",
        "1048576-2097151",
        "2097152-3145727",
        f"3145728-{len(FILE) - 1}",
        "0-1048575",
    ]


def test_each_nth_range_is_verified_against_the_digest_of_that_range(server: Server) -> None:
    parts = [sha(FILE[at : at + 1048576]) for at in range(0, len(FILE), 1048576)]
    ask = {"connections": 1, "requests": 8, "range_bytes": 1048576, "range_span": len(FILE)}
    got = load(HOST, server.server_port, "/squashfs", verify_every=1, sha256="".join(parts), **ask)  # type: ignore[arg-type]
    assert (got.requests, got.verified, got.errors) == (8, 8, 0)

    wrong = [*parts[:3], sha(b"other")]
    got = load(HOST, server.server_port, "/squashfs", **ask, verify_every=2, sha256="".join(wrong))  # type: ignore[arg-type]
    assert (got.requests, got.verified, got.errors) == (6, 2, 2)
    assert got.first_error.endswith(f"sha256 differs: expected {sha(b'other')}, got {parts[3]}")


def test_a_wrong_status_is_an_error(server: Server) -> None:
    got = load(HOST, server.server_port, "/nobody", connections=1, requests=2)
    assert (got.requests, got.errors) == (0, 2)
    assert got.first_error == f"GET http://127.0.0.1:{server.server_port}/nobody: status: expected 200, got 404"


def test_a_dead_server_is_asked_three_times_by_each_connection_and_no_more() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    got = load(HOST, port, "/x", connections=2, requests=1000)
    assert (got.requests, got.errors) == (0, 6)
    assert got.first_error == f"GET http://127.0.0.1:{port}/x: connecting: Connection refused"


def test_a_connection_that_stands_still_is_an_error() -> None:
    with scripted(ok(b"abc", length=10), close=False) as port:
        got = load(HOST, port, "/x", connections=1, requests=1, timeout_s=0.05)
    assert (got.requests, got.errors, got.bytes) == (0, 1, 3)
    assert got.first_error.endswith("/x: timed out: body: expected 10 bytes, got 3")


def test_a_short_body_is_an_error_and_the_next_request_has_a_new_connection() -> None:
    with scripted(ok(b"abc", length=10), ok(b"0123456789")) as port:
        got = load(HOST, port, "/x", connections=1, requests=2)
    assert (got.requests, got.errors, got.bytes) == (1, 1, 13)


def test_a_kept_connection_that_the_server_closed_meanwhile_is_not_an_error() -> None:
    with scripted(ok(b"first"), ok(b"again")) as port:
        got = load(HOST, port, "/x", connections=1, requests=2)
    assert (got.requests, got.errors, got.bytes) == (2, 0, 10)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_descriptor_is_closed_however_a_request_ends() -> None:
    before = open_descriptors()
    with scripted(ok(b"abc", length=10), None, b"nonsense\r\n\r\n", ok(b"right"), close=False) as port:
        with pytest.raises(Timeout):
            fetch(HOST, port, "/x", timeout_s=0.05)
        with pytest.raises(RemoteError):
            fetch(HOST, port, "/x")
        with pytest.raises(RemoteError):
            fetch(HOST, port, "/x")
        fetch(HOST, port, "/x")
    with scripted(ok(b"abc", length=10), ok(b"right"), ok(b"right"), close=False) as port:
        load(HOST, port, "/x", connections=3, requests=3, timeout_s=0.05)
    assert open_descriptors() <= before


def test_a_reply_that_says_close_is_followed_by_a_new_connection() -> None:
    with scripted(ok(b"first", "Connection: close"), ok(b"again", "Connection: close"), close=False) as port:
        got = load(HOST, port, "/x", connections=1, requests=2)
    assert (got.requests, got.errors) == (2, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"requests": -1},
        {"verify_every": 1},
        {"sha256": sha(b"")},
        {"verify_every": 1, "sha256": "abcd"},
        {"range_bytes": 5},
        {"range_bytes": 5, "range_span": 10, "verify_every": 1, "sha256": sha(b"")},
        {"timeout_s": 0},
    ],
    ids=str,
)
def test_a_load_that_makes_no_sense_is_the_callers_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        load(HOST, 80, "/x", **{"connections": 1, **wrong})  # type: ignore[arg-type]


# the reply head alone


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("HTTP/1.1 200 OK", {"status": 200, "length": -1, "close": 0}),
        ("HTTP/1.0 200 OK", {"close": 1}),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", {"close": 0}),
        ("HTTP/1.1 200 OK\r\nconnection: Upgrade, Close", {"close": 1}),
        ("HTTP/1.1 200 OK\r\nConnection: closed", {"close": 0}),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive", {"close": 1}),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nConnection: close", {"close": 1}),
        ("HTTP/1.1 404", {"status": 404}),
        ("HTTP/1.1 200 OK\r\nCONTENT-LENGTH:\t 12", {"length": 12}),
        ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Length: 12", {"length": 12}),
        ("HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/9", {"range_first": 2, "range_last": 5, "range_total": 9}),
        ("HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/*", {"range_first": 2, "range_last": 5, "range_total": -1}),
        ("HTTP/1.1 416 R\r\nContent-Range: bytes */9", {"range_first": -1, "range_total": 9}),
        ("HTTP/1.1 200 OK\r\nContent-Lengthy: 12", {"length": -1}),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip", {"coded": 1}),
    ],
)
def test_a_reply_head_is_read(head: str, expected: dict[str, int]) -> None:
    got = parse_reply(head.encode() + b"\r\n\r\n")
    assert {name: got[name] for name in expected} == expected


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/2 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20x OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 200 OK\nContent-Length: 1",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded",
        "HTTP/1.1 200 OK\r\n: nameless",
        "HTTP/1.1 200 OK\r\nA: b\0c",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1",
        "HTTP/1.1 200 OK\r\nContent-Length: -1",
        "HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999",
        "HTTP/1.1 200 OK\r\nContent-Length:",
        "HTTP/1.1 200 OK\r\nContent-Length : 5",
        "HTTP/1.1 206 P\r\nContent-Range: bytes 2-9/9",
        "HTTP/1.1 206 P\r\nContent-Range: bytes 5-2/9",
        "HTTP/1.1 206 P\r\nContent-Range: octets 2-5/9",
        "HTTP/1.1 206 P\r\nContent-Range: bytes */*",
        "",
    ],
)
def test_a_reply_head_that_a_loader_might_misread_is_refused(head: str) -> None:
    with pytest.raises(RemoteError, match="expected the head of an HTTP/1 reply, got the line"):
        parse_reply(head.encode() + b"\r\n\r\n")


def test_quantiles_are_nearest_ranks_to_one_per_cent() -> None:
    samples = [i / 1000 for i in range(1, 1001)]  # 1 ms .. 1 s
    p0, p50, p99, p100 = quantiles(samples, [0, 0.5, 0.99, 1])
    assert p0 == pytest.approx(0.001, rel=0.01)
    assert p50 == pytest.approx(0.5, rel=0.01)
    assert p99 == pytest.approx(0.99, rel=0.01)
    assert p100 == pytest.approx(1.0, rel=0.01)
    assert quantiles([], [0.5]) == [0.0]
    assert quantiles([2e-8], [0.5]) == [2e-8]


def test_the_result_is_a_tuple_of_the_contract() -> None:
    assert Fetch._fields[:6] == ("status", "size", "sha256", "seconds", "first_byte_s", "headers")
