"""A herd of machines on one file that no cache holds: all right, over one copy from the region, chunk for chunk.

The readers hash what they get. With the real region its own counter of body bytes is compared with the file: the rack
stores each chunk at least once, so a sum of exactly one file is each chunk exactly once. The fake region counts chunks.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from bootplane.control.mirror_publish import PublishProduct, image
from bootplane.core import http_fetch, http_load, tftp_fetch, tftp_load
from bootplane.core.client import LoadResult
from bootplane.dataplane.addresses import parse
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.http_client import PATIENCE_S
from tests.fakes.mirror import make_file, small_loaders
from tests.fakes.region import CHUNK, PIECE, FakeRegion
from tests.fakes.up import Site, up

HTTP_CLIENTS, TFTP_CLIENTS = 48, 16
ENDS = ("hits", "misses", "coalesced")


def numbers(place: str) -> dict[str, int]:
    """Every series of /metrics at *place* that has no labels, without its prefix and suffix."""
    with urlopen(f"http://{place}/metrics", timeout=60) as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if "{" not in line]
    found = {name.removeprefix("bootplane_").removesuffix("_total"): value for name, value in lines if name[0] != "#"}
    return {name: int(float(value)) for name, value in found.items()}


def numbers_with(place: str, least: dict[str, int]) -> dict[str, int]:
    """numbers(), once these have come to so much: a byte or a hang-up is counted a moment after it can be seen. After
    PATIENCE_S as they are."""
    deadline = time.monotonic() + PATIENCE_S
    while any((found := numbers(place)).get(key, 0) < n for key, n in least.items()) and time.monotonic() < deadline:
        time.sleep(0.05)  # nobody is told of a count
    return found


def herd(site: Site, name: str, sha256: str, timeout_s: float) -> tuple[LoadResult, LoadResult]:
    """All at once, each on a connection or port of its own, every body hashed."""
    http, tftp = parse(site.http), parse(site.ready["tftp"])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        over_tftp = pool.submit(
            tftp_load.load, tftp.host, tftp.port, name, clients=TFTP_CLIENTS, transfers=TFTP_CLIENTS, blksize=1428,
            windowsize=16, verify_every=1, sha256=sha256, timeout_s=timeout_s,
        )  # fmt: skip
        over_http = pool.submit(
            http_load.load, http.host, http.port, f"/{name}", connections=HTTP_CLIENTS, requests=HTTP_CLIENTS,
            verify_every=1, sha256=sha256, timeout_s=timeout_s,
        )  # fmt: skip
        return over_http.result(), over_tftp.result()


def cold_herd_of(folder: Path, size: int, timeout_s: float) -> None:
    def products(inputs: Path) -> list[PublishProduct]:
        files = {ftype: make_file(inputs, ftype, length) for ftype, length in (("kernel", 30_000), ("initrd", 70_000))}
        files["squashfs"] = make_file(inputs, "squashfs", size)
        return [image(serial="20250709", **files), *small_loaders(inputs)]

    with up(folder, "--no-share", products=products) as site:
        shown = site.json("image", "show", "ubuntu/noble/amd64/ga-24.04")
        file = next(file for file in shown["files"] if file["ftype"] == "squashfs")
        assert file["size"] == size
        before, region = numbers(site.http), numbers(site.ready["region"])
        over_http, over_tftp = herd(site, file["names"][0], file["sha256"], timeout_s)
        chunks = -(-size // CHUNK)
        after = numbers_with(site.http, {"fill_chunks": before["fill_chunks"] + chunks})
        region_after = numbers_with(site.ready["region"], {"http_body_bytes": region["http_body_bytes"] + size})
    assert (over_http.errors, over_tftp.errors) == (0, 0), over_http.first_error or over_tftp.first_error
    assert (over_http.verified, over_tftp.verified) == (HTTP_CLIENTS, TFTP_CLIENTS)
    assert (over_http.bytes, over_tftp.bytes) == (HTTP_CLIENTS * size, TFTP_CLIENTS * size)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert region_after["http_body_bytes"] - region["http_body_bytes"] == size
    assert (grown["fill_upstream_bytes"], grown["cache_filled_bytes"]) == (size, size)
    assert grown["fill_chunks"] == chunks
    print(
        f"\n{size} bytes to {HTTP_CLIENTS} by HTTP in {over_http.seconds:.1f} s and to {TFTP_CLIENTS} by TFTP in"
        f" {over_tftp.seconds:.1f} s, all hashed; the region sent {size} bytes in"
        f" {region_after['http_requests'] - region['http_requests']} ranges;"
        f" {', '.join(f'{grown[key]} {key}' for key in ENDS)}"
    )


@pytest.mark.integration
def test_a_cold_herd_by_http_and_tftp_costs_one_copy_and_all_are_right(tmp_path: Path) -> None:
    cold_herd_of(tmp_path / "site", 60_000_001, timeout_s=110)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_cold_herd_on_404_mb_costs_one_copy_and_all_are_right(tmp_path: Path) -> None:
    cold_herd_of(tmp_path / "site", 404_000_000, timeout_s=600)


class Gated(bytes):
    """A file whose pieces from *closed_at* on are held until it is opened. Now and then one goes all the same: a rack
    gives a source up that says nothing for 5 s, and then it would rightly ask again."""

    closed_at = 1 << 62
    opened: threading.Event

    def __getitem__(self, key: Any) -> Any:
        is_piece = isinstance(key, slice) and key.start is not None and key.stop - key.start <= PIECE
        if is_piece and key.start >= self.closed_at:
            self.opened.wait(1)
        return super().__getitem__(key)


def begin(rack: RackProcess, name: str, read: int) -> tuple[socket.socket, bytes]:
    """A machine that has read so many bytes of the body."""
    sock = socket.create_connection((rack.http.host, rack.http.port), timeout=60)
    sock.sendall(f"GET /{name} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
    got = bytearray()
    while (at := got.find(b"\r\n\r\n")) < 0 or len(got) < at + 4 + read:
        data = sock.recv(64 * 1024)
        assert data, "cut"
        got += data
    assert got.startswith(b"HTTP/1.1 200 ")
    return sock, bytes(got[at + 4 :])


def rest(sock: socket.socket, first: bytes) -> str:
    digest = hashlib.sha256(first)
    with sock:
        while data := sock.recv(256 * 1024):
            digest.update(data)
    return digest.hexdigest()


@pytest.mark.integration
def test_who_hangs_up_in_the_middle_and_who_comes_late_disturb_nothing(tmp_path: Path) -> None:
    """The first of all, for whom the fetch was begun, is among those who go."""
    name, size, middle = "images/x/squashfs", 24 * CHUNK + 77, 6 * CHUNK
    data = Gated(random.Random(4).randbytes(size))
    data.closed_at, data.opened = middle, threading.Event()
    sha256 = hashlib.sha256(data).hexdigest()
    with (
        FakeRegion({name: data}) as region,
        RackProcess(tmp_path / "rack", region) as rack,
        concurrent.futures.ThreadPoolExecutor(48) as pool,
        contextlib.ExitStack() as undo,
    ):
        undo.callback(data.opened.set)  # or a failure would wait for every piece
        gone = [pool.submit(begin, rack, name, middle)]
        gone[0].result()
        stay = [pool.submit(begin, rack, name, middle) for _ in range(8)]
        gone += [pool.submit(begin, rack, name, middle) for _ in range(7)]
        over_tftp = [
            pool.submit(tftp_fetch.fetch, rack.tftp.host, rack.tftp.port, name, windowsize=16) for _ in range(8)
        ]
        for each in gone:
            each.result()[0].close()
        waiting = [each.result() for each in stay]
        late = [pool.submit(http_fetch.fetch, rack.http.host, rack.http.port, f"/{name}") for _ in range(8)]
        late += [pool.submit(tftp_fetch.fetch, rack.tftp.host, rack.tftp.port, name, windowsize=16) for _ in range(4)]
        data.opened.set()
        rests = [pool.submit(rest, sock, first) for sock, first in waiting]
        assert {each.result() for each in rests} == {sha256}
        assert {each.result().sha256 for each in (*over_tftp, *late)} == {sha256}
        told = numbers_with(str(rack.http), {"http_aborted": len(gone)})
    assert region.sent == {(sha256, chunk): 1 for chunk in range(25)}
    assert region.bulk_bytes == told["fill_upstream_bytes"] == told["cache_filled_bytes"] == size
    assert told["http_aborted"] == len(gone)
