"""Bytes of a blob to a socket: what the kernel takes, what it refuses, and what a cut file looks like."""

from __future__ import annotations

import hashlib
import os
import pathlib
import socket
import struct
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.sender import reset, send_message, send_once
from tests.fakes.http_client import nothing_left

ST_OK, ST_AGAIN, ST_ABSENT, ST_CLOSED, ST_TRUNCATED = 0, 1, 2, 4, 6
CHUNK = 1 << 20


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """(sender, receiver): TCP over loopback, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = socket.create_connection(listener.getsockname())
        sender, _ = listener.accept()
    sender.setblocking(False)
    with sender, receiver:
        yield sender, receiver


def read_exactly(sock: socket.socket, n: int) -> bytes:
    data = bytearray()
    while len(data) < n:
        more = sock.recv(min(n - len(data), 1 << 20))
        assert more, f"the connection ended after {len(data)} of {n} bytes"
        data += more
    return bytes(data)


def stored(path: pathlib.Path, data: bytes) -> Blob:
    path.write_bytes(data)
    return Blob.open_file(str(path), hashlib.sha256(data).hexdigest(), len(data))


def test_head_and_body_leave_in_one_message(pair: Pair) -> None:
    sender, receiver = pair
    assert send_message(sender.fileno(), b"head", b"body") == (ST_OK, 8)
    assert receiver.recv(100) == b"headbody"
    assert send_message(sender.fileno(), b"", b"body") == (ST_OK, 4)
    assert send_message(sender.fileno(), b"head", b"") == (ST_OK, 4)
    assert read_exactly(receiver, 8) == b"bodyhead"


def test_a_head_that_is_followed_by_more_waits_for_it(pair: Pair) -> None:
    sender, receiver = pair
    receiver.setblocking(False)
    assert send_message(sender.fileno(), b"head", b"", more=True) == (ST_OK, 4)
    with pytest.raises(BlockingIOError):
        receiver.recv(100)
    assert send_message(sender.fileno(), b"", b"body") == (ST_OK, 4)
    receiver.setblocking(True)
    assert read_exactly(receiver, 8) == b"headbody"


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_full_socket_takes_a_part_and_then_nothing(pair: Pair, tmp_path: pathlib.Path, kind: str) -> None:
    sender, receiver = pair
    data = os.urandom(24 << 20)
    blob = stored(tmp_path / "blob", data) if kind == "file" else Blob.memory(data)
    at = 0
    status = ST_OK
    while status == ST_OK:
        status, sent = send_once(sender.fileno(), blob, at, len(data), 2 << 20)
        at += sent
    assert status == ST_AGAIN
    assert 0 < at < len(data)
    status, sent = send_once(sender.fileno(), blob, at, len(data), 2 << 20)
    while sent:  # the peer's kernel may just have moved a few bytes
        at += sent
        status, sent = send_once(sender.fileno(), blob, at, len(data), 2 << 20)
    assert (status, sent) == (ST_AGAIN, 0)
    assert read_exactly(receiver, at) == data[:at]
    assert blob.references == 1


@pytest.mark.parametrize(("offset", "end"), [(0, 5), (3, 4), (CHUNK - 1, CHUNK + 1), (0, 3 * CHUNK), (7, 3 * CHUNK)])
def test_exactly_the_part_that_was_asked_for_is_sent(pair: Pair, tmp_path: pathlib.Path, offset: int, end: int) -> None:
    sender, receiver = pair
    data = os.urandom(3 * CHUNK)
    blob = stored(tmp_path / "blob", data)
    got = bytearray()
    at = offset
    while at < end:
        _, sent = send_once(sender.fileno(), blob, at, end, CHUNK)
        at += sent
        got += read_exactly(receiver, sent)
    assert bytes(got) == data[offset:end]
    assert at == end


def test_a_turn_sends_no_more_than_its_budget(pair: Pair, tmp_path: pathlib.Path) -> None:
    blob = stored(tmp_path / "blob", os.urandom(CHUNK))
    assert send_once(pair[0].fileno(), blob, 0, CHUNK, 1000) == (ST_OK, 1000)
    assert send_once(pair[0].fileno(), blob, 1000, 1001, 1000) == (ST_OK, 1)
    assert send_once(pair[0].fileno(), blob, 1001, 1001, 1000) == (ST_OK, 0)


def test_sending_stops_before_a_chunk_that_is_not_here_and_passes_segments(pair: Pair, tmp_path: pathlib.Path) -> None:
    sender, receiver = pair
    data = os.urandom(6 * CHUNK + 5)
    chunks = b"".join(hashlib.sha256(data[i : i + CHUNK]).digest() for i in range(0, len(data), CHUNK))
    cache = Cache(str(tmp_path / "cache"), 64 << 20)
    blob = cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunks)
    assert send_once(sender.fileno(), blob, 0, len(data), len(data)) == (ST_ABSENT, 0)
    for chunk in (2, 3, 4):
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK])
    at = 2 * CHUNK + 100
    status = ST_AGAIN
    got = bytearray()
    while status == ST_AGAIN:
        status, sent = send_once(sender.fileno(), blob, at, len(data), len(data))
        at += sent
        got += read_exactly(receiver, sent)
    assert (status, at) == (ST_ABSENT, 5 * CHUNK)
    assert bytes(got) == data[2 * CHUNK + 100 : 5 * CHUNK]
    cache.close()


def test_a_file_that_was_cut_is_found_out(pair: Pair, tmp_path: pathlib.Path) -> None:
    data = os.urandom(CHUNK)
    blob = stored(tmp_path / "blob", data)
    os.truncate(tmp_path / "blob", 1000)
    status, sent = send_once(pair[0].fileno(), blob, 0, CHUNK, CHUNK)
    assert (status, sent) == (ST_AGAIN, 1000)  # looks like a full socket: only the next call can tell
    assert send_once(pair[0].fileno(), blob, 1000, CHUNK, CHUNK) == (ST_TRUNCATED, 0)


def test_a_peer_that_has_gone_is_closed_and_no_signal_is_raised(pair: Pair) -> None:
    sender, receiver = pair
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    receiver.close()
    statuses = [send_message(sender.fileno(), b"x", b"")[0] for _ in range(2)]
    assert statuses[-1] == ST_CLOSED


def test_a_wrong_descriptor_is_its_errno(tmp_path: pathlib.Path) -> None:
    blob = stored(tmp_path / "blob", b"abc")
    read_end, write_end = os.pipe()
    assert send_message(read_end, b"x", b"") == (-88, 0)  # ENOTSOCK
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(ValueError, match="blob of 3 bytes"):
        send_once(0, blob, 2, 4, 1)


def test_a_reset_is_an_error_for_the_peer_and_not_an_end(pair: Pair) -> None:
    sender, receiver = pair
    sender.send(b"half")
    assert receiver.recv(100) == b"half"
    reset(sender.detach())
    with pytest.raises(ConnectionResetError):
        receiver.recv(100)
