"""A file larger than the rack's cache, read by many who start one after the other: all right, and fetched about once.

The readers hash what they get. The disk is measured while they read, by what the file system counts. The quick test
paces the region by the readers (it sends nothing that is further ahead of the last of them than they may be apart), so
that what is fetched does not depend on how busy the machine is. The long one paces it by the clock, as a link does.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import mmap
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bootplane.core import http_fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.filesystems import MIB, Meter
from tests.fakes.region import PIECE, FakeRegion, Link

READERS = 8
NAME = "images/x/squashfs"
GATE_PATIENCE_S = 5.0  # a gate that nobody opens must not hang a test: what is fetched twice then shows in the ratio


class Progress:
    """How far each reader is. The gate of the region: a piece is sent once it is near enough to the last of them."""

    def __init__(self, readers: int, apart: int) -> None:
        self.at = [0] * readers
        self.started = [False] * readers
        self.apart = apart
        self.changed = threading.Condition()

    def move(self, reader: int, at: int) -> None:
        with self.changed:
            self.at[reader], self.started[reader] = at, True
            self.changed.notify_all()

    def wait_for(self, reader: int, at: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.at[reader] >= at, 60), f"reader {reader} is at {self.at[reader]}"

    def pass_gate(self, at: int) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: (
                    at <= min((a for a, on in zip(self.at, self.started, strict=True) if on), default=0) + self.apart
                ),
                GATE_PATIENCE_S,
            )


class GatedBytes(bytes):
    """A file whose pieces wait for the readers when the region cuts them out to send them."""

    progress: Progress | None = None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and self.progress is not None and key.stop - key.start <= PIECE:
            self.progress.pass_gate(key.start)
        return super().__getitem__(key)


class PacedMap(mmap.mmap):
    """A file in a mapping whose pieces come over a link."""

    link: Link | None = None

    def __getitem__(self, key: Any) -> Any:
        piece = super().__getitem__(key)
        if self.link is not None and isinstance(key, slice) and len(piece) <= PIECE:
            self.link.take(len(piece))
        return piece


def connect(rack: RackProcess, receive_buffer: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(60)
    sock.connect((rack.http.host, rack.http.port))
    sock.sendall(f"GET /{NAME} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
    return sock


def read_and_hash(sock: socket.socket, move: Any = lambda at: None) -> tuple[int, str]:
    """The body to its end: (bytes, SHA-256)."""
    start = bytearray()
    while b"\r\n\r\n" not in start:
        data = sock.recv(4096)
        assert data, "the connection ended inside the head"
        start += data
    head, _, body = start.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    digest, at = hashlib.sha256(body), len(body)
    while data := sock.recv(256 * 1024):
        digest.update(data)
        at += len(data)
        move(at)
    sock.close()
    return at, digest.hexdigest()


@pytest.mark.integration
@pytest.mark.parametrize("upstream_limit", ["none", "100MB/s"])
def test_readers_who_start_one_after_the_other_share_one_fetch_of_a_file_that_the_cache_cannot_hold(
    tmp_path: Path, upstream_limit: str
) -> None:
    limit, size, step = 32 * MIB, 112 * MIB, 1 * MIB
    data = GatedBytes(
        random.Random(2).randbytes(8 * MIB) * (size // (8 * MIB) - 1) + random.Random(3).randbytes(8 * MIB)
    )
    whole = (size, hashlib.sha256(data).hexdigest())
    progress = Progress(READERS, apart=6 * MIB)
    with FakeRegion({NAME: data}) as region:
        data.progress = progress
        options = ("--cache-size", "32MiB", "--upstream-limit", upstream_limit)
        with RackProcess(tmp_path / "rack", region, *options) as rack:
            directory = rack.directory / "data" / "cache"
            with Meter(directory) as meter, concurrent.futures.ThreadPoolExecutor(READERS + 1) as pool:
                behind = connect(rack, 64 * 1024)  # reads nothing until the others are through

                def reader(number: int) -> tuple[int, str]:
                    if number:
                        progress.wait_for(number - 1, step)
                    progress.move(number, 0)
                    return read_and_hash(connect(rack, 256 * 1024), lambda at: progress.move(number, at))

                close = [pool.submit(reader, number) for number in range(READERS)]
                assert [one.result() for one in close] == [whole] * READERS
                together = region.bulk_bytes
                data.progress = None
                assert read_and_hash(behind) == whole
            numbers = rack.metrics()
    print(
        f"\n{size / MIB:.0f} MiB through {limit / MIB:.0f} MiB: {together / size:.3f} x fetched for {READERS} readers,"
        f" {(region.bulk_bytes - together) / size:.3f} x for one far behind; at most {meter.most / MIB:.2f} MiB"
        f" on the disk in {meter.samples} samples"
    )
    # a fragmented ext4 takes a block of 4 KiB for the extents of a file: this one runs on whatever disk there is
    assert 0 < meter.most <= limit + 4096 * (limit // (4 * MIB))
    assert numbers["bootplane_cache_charged_bytes"] <= limit
    assert together <= 1.5 * size
    assert region.bulk_bytes <= 2.5 * size + 32 * MIB


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_gib_through_128_mib_by_eight_readers_a_quarter_of_a_second_apart(tmp_path: Path) -> None:
    limit, size, rate = 128 * MIB, 2048 * MIB, 50_000_000
    noise = random.Random(5).randbytes(MIB)
    digest = hashlib.sha256()
    path = tmp_path / "file"
    with path.open("w+b") as file:
        for chunk in range(size // MIB):
            at = chunk * 509 % MIB
            piece = noise[at:] + noise[:at]
            digest.update(piece)
            file.write(piece)
        file.flush()
        data = PacedMap(file.fileno(), size, prot=mmap.PROT_READ)
    with FakeRegion({NAME: data}) as region:  # type: ignore[dict-item]
        data.link = Link(rate)
        with RackProcess(tmp_path / "rack", region, "--cache-size", "128MiB") as rack:
            directory = rack.directory / "data" / "cache"
            with Meter(directory) as meter, concurrent.futures.ThreadPoolExecutor(READERS + 1) as pool:
                behind = connect(rack, 64 * 1024)
                began = time.monotonic()

                def reader(number: int) -> str:
                    time.sleep(0.25 * number)  # paces the load: a quarter of a second apart
                    return http_fetch.fetch(rack.http.host, rack.http.port, f"/{NAME}", timeout_s=600).sha256

                close = [pool.submit(reader, number) for number in range(READERS)]
                assert [one.result() for one in close] == [digest.hexdigest()] * READERS
                together, seconds = region.bulk_bytes, time.monotonic() - began
                data.link = None
                assert read_and_hash(behind) == (size, digest.hexdigest())
            numbers = rack.metrics()
    path.unlink()
    print(
        f"\n{size / MIB:.0f} MiB through {limit / MIB:.0f} MiB: {together / size:.3f} x fetched for {READERS} readers"
        f" in {seconds:.1f} s ({size / rate:.1f} s is one copy), {(region.bulk_bytes - together) / size:.3f} x for one"
        f" far behind; at most {meter.most / MIB:.2f} MiB on the disk in {meter.samples} samples"
    )
    assert 0 < meter.most <= limit
    assert numbers["bootplane_cache_charged_bytes"] <= limit
    assert together <= 1.5 * size
