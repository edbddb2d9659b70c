"""Pages of a file to a socket through a pipe: every byte in its place, and nothing left in it for anybody else."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.pipe import Pipe
from bootplane.core.sender import send_once
from tests.fakes.http_client import nothing_left, rack

ST_OK, ST_AGAIN, ST_CLOSED, ST_TRUNCATED = 0, 1, 4, 6
MIB = 1 << 20
TURN = 2 * MIB
ROOM = 4 * MIB  # asked for; the kernel gives less, and doubles that

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


def connected() -> Pair:
    """(sender, receiver): TCP over loopback, the sender non-blocking and with room for more than is worth a pipe."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = socket.create_connection(listener.getsockname())
        sender, _ = listener.accept()
    sender.setblocking(False)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
    return sender, receiver


@pytest.fixture
def pair() -> Iterator[Pair]:
    sender, receiver = connected()
    with sender, receiver:
        yield sender, receiver


@pytest.fixture
def pipe() -> Pipe:
    pipe = Pipe()
    assert pipe.is_there
    return pipe


def stored(path: pathlib.Path, data: bytes) -> Blob:
    path.write_bytes(data)
    return Blob.open_file(str(path), hashlib.sha256(data).hexdigest(), len(data))


def taken(sock: socket.socket) -> bytes:
    """What is there now."""
    found = bytearray()
    sock.setblocking(False)
    try:
        while more := sock.recv(MIB):
            found += more
    except BlockingIOError:
        pass
    return bytes(found)


def test_bodies_that_take_turns_in_one_pipe_are_not_mixed_however_they_are_read(
    pipe: Pipe, tmp_path: pathlib.Path
) -> None:
    data = [os.urandom(9 * MIB + 4097 * i) for i in range(3)]
    blobs = [stored(tmp_path / str(i), each) for i, each in enumerate(data)]
    pairs = [connected() for _ in data]
    at, got = [0] * len(data), [bytearray() for _ in data]
    chance = random.Random(5)
    while any(len(found) < len(whole) for found, whole in zip(got, data, strict=True)):
        i = chance.randrange(len(data))
        status, sent = send_once(pairs[i][0].fileno(), blobs[i], at[i], len(data[i]), TURN, pipe)
        assert status in (ST_OK, ST_AGAIN)
        assert pipe.waiting() == 0
        at[i] += sent
        if chance.random() < 0.5:
            got[i] += taken(pairs[i][1])
    assert [bytes(found) for found in got] == data
    for sender, receiver in pairs:
        sender.close()
        receiver.close()


def test_what_a_socket_does_not_take_comes_again_in_its_next_turn(
    pair: Pair, pipe: Pipe, tmp_path: pathlib.Path
) -> None:
    sender, receiver = pair
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16384)  # takes less than it has room for
    data = os.urandom(16 * MIB)
    blob = stored(tmp_path / "blob", data)
    at, got, short = 0, bytearray(), 0
    while len(got) < len(data):
        status, sent = send_once(sender.fileno(), blob, at, len(data), TURN, pipe)
        assert pipe.waiting() == 0
        short += status == ST_AGAIN
        at += sent
        got += taken(receiver)
    assert bytes(got) == data
    assert short > 0


def test_a_cut_file_is_found_out_at_once_and_what_it_still_has_is_sent(
    pair: Pair, pipe: Pipe, tmp_path: pathlib.Path
) -> None:
    data = os.urandom(4 * MIB)
    blob = stored(tmp_path / "blob", data)
    os.truncate(tmp_path / "blob", 300_000)
    at, got, status = 0, b"", ST_AGAIN
    while status == ST_AGAIN:
        status, sent = send_once(pair[0].fileno(), blob, at, len(data), TURN, pipe)
        at += sent
        got += taken(pair[1])
        assert pipe.waiting() == 0
    assert (status, at) == (ST_TRUNCATED, 300_000)
    while len(got) < at:
        got += taken(pair[1])
    assert got == data[:300_000]


def test_a_peer_that_has_gone_leaves_nothing_in_the_pipe(pair: Pair, pipe: Pipe, tmp_path: pathlib.Path) -> None:
    sender, receiver = pair
    blob = stored(tmp_path / "blob", os.urandom(4 * MIB))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    receiver.close()
    statuses = []
    while ST_CLOSED not in statuses:
        statuses.append(send_once(sender.fileno(), blob, 0, blob.size, TURN, pipe)[0])
        assert pipe.waiting() == 0
        assert len(statuses) < 3


def test_without_a_descriptor_left_there_is_no_pipe_and_bodies_go_by_sendfile(
    pair: Pair, tmp_path: pathlib.Path
) -> None:
    data = os.urandom(MIB)
    blob = stored(tmp_path / "blob", data)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        pipe = Pipe()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not pipe.is_there
    got, at = b"", 0
    while len(got) < len(data):
        at += send_once(pair[0].fileno(), blob, at, len(data), TURN, pipe)[1]
        got += taken(pair[1])
    assert got == data


def test_large_bodies_side_by_side_are_right_for_fast_readers_and_for_halting_ones(tmp_path: pathlib.Path) -> None:
    data = {f"large{i}": os.urandom((24 << 20) + 4097 * i) for i in range(3)}
    wrong = []

    def read(port: int, name: str, pause: int) -> None:
        digest, size = hashlib.sha256(), 0
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: rack\r\nConnection: close\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(1)
            while more := sock.recv(MIB):
                digest.update(more)
                size += len(more)
                if pause and size // (4 * MIB) != (size - len(more)) // (4 * MIB):
                    other.wait(0.02)
        if digest.digest() != hashlib.sha256(data[name]).digest():
            wrong.append(name)

    other = threading.Event()  # never set: a reader that looks away
    with rack({name: stored(tmp_path / name, each) for name, each in data.items()}) as it:
        readers = [threading.Thread(target=read, args=(it.port, name, pause)) for name in data for pause in (0, 1)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert wrong == []
