"""The client of one source, against a peer that is played by the test over loopback."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator

import pytest

from bootplane.core.range_client import RangeClient, Reply
from bootplane.core.status import RemoteError, Timeout

MIB = 1 << 20
REQUEST = b"GET /blob/x HTTP/1.1\r\nHost: h\r\n\r\n"
BODY = random.Random(1).randbytes(3 * MIB + 17)


def head(length: int, *lines: str, status: str = "206 Partial Content") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {length}", *lines, "", ""]).encode()


class Peers:
    """A client and the other end of its connection. ``say`` sends from a thread: loopback holds less than a body."""

    def __init__(self, stall_s: float = 20.0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            self.far, _ = listener.accept()
        self.far.settimeout(20)
        self.client = RangeClient(near, stall_s)
        self.threads: list[threading.Thread] = []

    def say(self, *pieces: bytes, close: bool = False) -> None:
        def run() -> None:
            for piece in pieces:
                self.far.sendall(piece)
            if close:
                self.far.shutdown(socket.SHUT_WR)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def close(self) -> None:
        self.client.close()
        for thread in self.threads:
            thread.join(timeout=20)
        self.far.close()


@pytest.fixture
def peers() -> Iterator[Peers]:
    found = Peers()
    yield found
    found.close()


@pytest.fixture
def impatient() -> Iterator[Peers]:
    found = Peers(stall_s=0.05)
    yield found
    found.close()


def receive(client: RangeClient, length: int) -> bytes:
    out = bytearray(length)
    client.receive(out)
    return bytes(out)


def test_a_body_is_received_in_the_pieces_that_are_asked_for(peers: Peers) -> None:
    peers.say(head(len(BODY), f"Content-Range: bytes 5-{len(BODY) + 4}/9999999"), BODY)
    assert peers.client.ask(REQUEST) == Reply(206, len(BODY), 5, len(BODY) + 4, 9999999, True)
    assert peers.far.recv(4096) == REQUEST
    got = b"".join(receive(peers.client, n) for n in (1, MIB, 4096, MIB, len(BODY) - 1 - 2 * MIB - 4096))
    assert got == BODY
    assert peers.client.left == 0


def test_a_head_may_come_byte_by_byte_and_with_the_body(peers: Peers) -> None:
    answer = head(10) + b"0123456789"
    peers.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peers.say(*(answer[i : i + 1] for i in range(len(answer) - 5)), answer[-5:])
    assert peers.client.ask(REQUEST).length == 10
    assert receive(peers.client, 10) == b"0123456789"
    assert peers.client.is_fresh()


def test_the_connection_serves_the_next_request(peers: Peers) -> None:
    for body in (b"one", b"", b"three"):
        assert peers.client.is_fresh()
        peers.say(head(len(body)), body)
        peers.client.ask(REQUEST)
        assert receive(peers.client, len(body)) == body


@pytest.mark.parametrize("what", ["a byte more", "a byte more later", "the end"])
def test_a_connection_with_anything_more_to_say_is_not_used_again(peers: Peers, what: str) -> None:
    peers.say(head(3) + (b"abcX" if what == "a byte more" else b"abc"))
    peers.client.ask(REQUEST)
    assert receive(peers.client, 3) == b"abc"
    if what != "a byte more":
        assert peers.client.is_fresh()
        peers.say(b"X" if what == "a byte more later" else b"", close=True)
        peers.threads[-1].join(timeout=20)
    assert not peers.client.is_fresh()


def test_a_body_that_was_not_read_to_its_end_makes_the_connection_useless(peers: Peers) -> None:
    peers.say(head(10), b"0123456789")
    peers.client.ask(REQUEST)
    receive(peers.client, 9)
    assert (peers.client.left, peers.client.is_fresh()) == (1, False)


def test_what_a_source_sent_before_it_closed_is_counted(peers: Peers) -> None:
    peers.say(head(2 * MIB), BODY[:700_000], close=True)
    peers.client.ask(REQUEST)
    with pytest.raises(RemoteError):
        receive(peers.client, MIB)
    assert peers.client.left == 2 * MIB - 700_000


def test_less_than_the_kernel_gathers_is_taken_before_a_source_is_called_stalled(impatient: Peers) -> None:
    impatient.say(head(2 * MIB), BODY[:1000])
    impatient.client.ask(REQUEST)
    with pytest.raises(Timeout):
        receive(impatient.client, MIB)
    assert impatient.client.left == 2 * MIB - 1000


def test_a_source_that_is_never_silent_and_too_slow_times_out_and_what_came_is_counted(impatient: Peers) -> None:
    stopped = threading.Event()

    def drip() -> None:
        sent = 0
        while not stopped.wait(0.01) and sent < 1000:
            impatient.far.sendall(BODY[sent : sent + 100])
            sent += 100

    impatient.say(head(2 * MIB))
    impatient.client.ask(REQUEST)
    threading.Thread(target=drip, daemon=True).start()
    with pytest.raises(Timeout):
        impatient.client.receive(memoryview(bytearray(MIB)), 1e-6)
    stopped.set()
    assert 2 * MIB - 1000 <= impatient.client.left < 2 * MIB


def test_all_of_it_is_taken_however_late_it_is(impatient: Peers) -> None:
    impatient.say(head(1000), BODY[:1000])
    impatient.client.ask(REQUEST)
    view = memoryview(bytearray(1000))
    impatient.client.receive(view, 1e-6)
    assert view == BODY[:1000]


def test_the_end_of_an_answer_is_not_waited_for_with_the_next_ones_bytes(impatient: Peers) -> None:
    """A kernel that gathers 256 KiB must not keep the last 17 bytes of a range back."""
    impatient.say(head(len(BODY)), BODY[:-17])
    impatient.client.ask(REQUEST)
    assert receive(impatient.client, len(BODY) - 17) == BODY[:-17]
    impatient.say(BODY[-17:])
    assert receive(impatient.client, 17) == BODY[-17:]


def test_a_source_that_does_not_answer_times_out(impatient: Peers) -> None:
    with pytest.raises(Timeout):
        impatient.client.ask(REQUEST)
    assert not impatient.client.begun


def test_a_source_that_closes_instead_of_answering_has_not_begun(peers: Peers) -> None:
    peers.say(close=True)
    with pytest.raises(RemoteError, match="closed by the peer"):
        peers.client.ask(REQUEST)
    assert not peers.client.begun


def test_a_source_that_resets_is_an_os_error(peers: Peers) -> None:
    peers.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peers.far.close()
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        peers.client.ask(REQUEST)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"SSH-2.0-x\r\n\r\n", r"got the line 'SSH-2.0-x'"),
        (head(3, "Content-Length: 4"), r"got the line 'Content-Length: 4'"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", r"got the line 'HTTP/1.1 100 Continue'"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000, r"at most 8192 bytes, got more"),
    ],
)
def test_what_is_no_head_is_refused_with_the_line(peers: Peers, answer: bytes, text: str) -> None:
    peers.say(answer)
    with pytest.raises(RemoteError, match=text):
        peers.client.ask(REQUEST)
    assert peers.client.begun
    assert not peers.client.is_fresh()


def test_what_cannot_be_counted_has_no_length(peers: Peers) -> None:
    peers.say(head(3, "Transfer-Encoding: chunked", "Connection: close", status="200 OK"), b"abc")
    assert peers.client.ask(REQUEST) == Reply(200, -1, -1, 0, 0, False)
    with pytest.raises(ValueError, match="at most the -1 bytes"):
        receive(peers.client, 3)
    assert not peers.client.is_fresh()


def test_no_more_is_received_than_the_answer_holds(peers: Peers) -> None:
    peers.say(head(3), b"abc")
    peers.client.ask(REQUEST)
    with pytest.raises(ValueError, match="at most the 3 bytes that are left, got 4"):
        receive(peers.client, 4)
    assert receive(peers.client, 3) == b"abc"


def test_a_closed_client_says_so(peers: Peers) -> None:
    peers.client.close()
    peers.client.close()
    assert not peers.client.is_fresh()
    with pytest.raises(ValueError, match="has been closed"):
        peers.client.ask(REQUEST)


def test_a_read_only_buffer_is_refused(peers: Peers) -> None:
    peers.say(head(3), b"abc")
    peers.client.ask(REQUEST)
    with pytest.raises(BufferError):
        peers.client.receive(b"xyz")
    assert receive(peers.client, 3) == b"abc"
