"""A crowd of connections against servers that do exactly what a test wrote: idle ones, slow readers, and lost ones."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core.http_crowd import Crowd

HOST = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
LONG = 1 << 30
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG


class Server:
    """Answers each connection's first request with *reply* and keeps it; ``then`` has it afterwards."""

    def __init__(self, reply: bytes, then: Callable[[socket.socket], None] = lambda connection: None) -> None:
        self.listener = socket.create_server((HOST, 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.reply, self.then = reply, then
        self.connections: list[socket.socket] = []
        self.peers: list[str] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, (host, _) = self.listener.accept()
            except OSError:
                return
            connection.recv(65536)
            self.connections.append(connection)
            self.peers.append(host)
            connection.sendall(self.reply)
            self.then(connection)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        for connection in self.connections:
            connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(OK) as running:
        yield running


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_idle_connections_are_answered_once_and_stay(server: Server) -> None:
    with Crowd(HOST, server.port, "/x", connections=300) as crowd:  # more than one batch
        assert crowd.connect() == 300
        assert crowd.hold(0.05) == 300
        assert (crowd.errors, crowd.first_error, crowd.bytes) == (0, "", 0)
        assert len(server.connections) == 300


def test_they_come_from_the_sources_in_turns(server: Server) -> None:
    with Crowd(HOST, server.port, "/x", connections=5, sources=["127.0.0.2", "127.0.0.3"]) as crowd:
        crowd.connect()
        assert sorted(server.peers) == ["127.0.0.2"] * 3 + ["127.0.0.3"] * 2


def test_an_idle_connection_that_the_server_ends_is_an_error(server: Server) -> None:
    with Crowd(HOST, server.port, "/x", connections=3) as crowd:
        crowd.connect()
        server.connections[1].close()
        assert crowd.hold(0.05) == 2
        assert crowd.errors == 1
        assert crowd.first_error == (
            f"GET http://{HOST}:{server.port}/x: expected the connection to stay open, got the end of the connection"
        )
        assert crowd.hold(0.05) == 2
        assert crowd.errors == 1


def test_a_slow_reader_takes_what_its_rate_allows_and_no_more() -> None:
    with (
        Server(ENDLESS, lambda connection: connection.sendall(bytes(60_000))) as server,
        Crowd(HOST, server.port, "/x", connections=4, rate_bytes_s=5000) as crowd,
    ):
        assert crowd.connect() == 4
        assert crowd.hold(1.5) == 4
        assert 15_000 <= crowd.bytes <= 40_000  # one turn or two of each reader; the first may have come too early


def test_a_slow_reader_whose_body_ends_short_is_an_error() -> None:
    with (
        Server(ENDLESS + b"begin", lambda connection: connection.close()) as server,
        Crowd(HOST, server.port, "/x", connections=2, rate_bytes_s=1000) as crowd,
    ):
        crowd.connect()
        assert crowd.hold(2.2) == 0
        assert crowd.errors == 2
        assert crowd.first_error.endswith(f"body: expected {LONG} bytes, got 5 and then the end of the connection")


def test_a_slow_reader_that_has_everything_is_gone_and_no_error() -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + bytes(3000)
    with Server(body) as server, Crowd(HOST, server.port, "/x", connections=1, rate_bytes_s=10_000) as crowd:
        assert crowd.connect() == 1
        assert crowd.hold(1.2) == 0
        assert crowd.errors == 0


@pytest.mark.parametrize("rate", [0, 1000], ids=["idle", "slow"])
def test_another_status_is_an_error(rate: int) -> None:
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 2000000\r\n\r\n" + bytes(2000)
    reply = refusal if rate else b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    with Server(reply) as server, Crowd(HOST, server.port, "/x", connections=2, rate_bytes_s=rate) as crowd:
        assert crowd.connect() == 0
        assert crowd.errors == 2
        assert crowd.first_error == f"GET http://{HOST}:{server.port}/x: status: expected 200, got 503"


def test_nobody_there_and_nobody_who_answers_are_errors_and_no_exceptions() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with Crowd(HOST, port, "/x", connections=2) as silent:
            assert silent.connect(timeout_s=0.2) == 0
            assert "timed out: expected a reply" in silent.first_error
    with Crowd(HOST, port, "/x", connections=2) as refused:
        assert refused.connect() == 0
        assert refused.errors == 2
        assert refused.first_error.endswith("connecting: Connection refused")


def test_every_descriptor_is_given_back(server: Server) -> None:
    before = open_descriptors()
    crowd = Crowd(HOST, server.port, "/x", connections=20)
    crowd.connect()
    assert open_descriptors() >= before + 20
    crowd.close()
    crowd.close()
    assert crowd.there == 0
    server.__exit__()
    server.listener = socket.create_server((HOST, 0))  # the fixture closes one, too
    assert open_descriptors() <= before + 1


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"connections": 1, "rate_bytes_s": -1}], ids=str)
def test_what_makes_no_sense_is_the_callers_error(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected connections >= 1"):
        Crowd(HOST, 80, "/x", **wrong)  # type: ignore[arg-type]
