"""A running rack under random and mutated datagrams and requests, while machines boot from it: alive, right, no leak.

Twenty thousand of each in the integration tests, a million in the soak; from a seed either way. That every packet to a
wrong TID is answered by ERROR 5 is in storm_tftp. What one reactor keeps of it all is tests/core/test_hostile.py's.

What a rack grows by is pages of tables that are touched for the first time, and then no more (smaps after each of seven
storms, by mapping, one reactor):

    datagrams, each 150,000   +570, +490, +340, +10, +20, +0 kB          a ring of 32,768 TIDs that have ended, 1.8 MB
    heads, each 50,000        +340, +1240, +130, +110, +20, +10, +10 kB  the ring of records, 1.5 MB; 1 MiB of the scrub
    heads that name a MAC     +0.3 kB for each address, for a quarter of an hour, of 65,536 at most
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bootplane.core import http_load, tftp_load
from bootplane.core.client import LoadResult
from bootplane.dataplane.dynamic import WORKERS
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.hostile import storm_http, storm_tftp
from tests.fakes.region import FakeRegion

MIB = 1 << 20
KERNEL = random.Random(5).randbytes(3 * MIB + 5)
LOADER = KERNEL[:40_000]
SHA = hashlib.sha256(KERNEL).hexdigest()
CONFIG = "grub/grub.cfg-52:54:00:77:00:01"
NAMES = ("bootx64.efi", "images/x/kernel", "nobody", "bootx64.efi", "nobody/either", "command.lst")
HTTP_NAMES = (*NAMES, *NAMES, CONFIG, "MAAS/metadata", "metrics")  # these three are Python's to answer
#: what the rack may have grown by after a storm, beyond what it held after a tenth of one: of each reactor the rings,
#: and Python's part with what the allocators keep
RINGS_BYTES = 32768 * 56 + 4096 * 368
GROWN_BYTES = 8 * MIB

FEW = [pytest.mark.integration, pytest.mark.timeout(300)]
COUNTS = [
    pytest.param(20_000, 1, marks=FEW, id="20000"),
    pytest.param(20_000, 2, marks=FEW, id="20000, two reactors"),
    pytest.param(1_000_000, 1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)], id="million"),
]


class Footprint(NamedTuple):
    descriptors: int
    threads: int
    resident_bytes: int


def footprint(rack: RackProcess) -> Footprint:
    assert rack.process is not None
    of = Path(f"/proc/{rack.process.pid}")
    pages = int((of / "statm").read_text().split()[1])
    descriptors, threads = (len(list((of / name).iterdir())) for name in ("fd", "task"))
    return Footprint(descriptors, threads, pages * os.sysconf("SC_PAGE_SIZE"))


@contextmanager
def machines(load: Callable[[], LoadResult]) -> Iterator[list[LoadResult]]:
    """Machines that fetch again and again, verifying all, until the block ends; then the list holds what they got."""
    results: list[LoadResult] = []
    going_on = threading.Event()

    def fetch() -> None:
        while not results or not going_on.is_set():
            results.append(load())

    with ThreadPoolExecutor(1) as pool:
        done: Future[None] = pool.submit(fetch)
        try:
            yield results
        finally:
            going_on.set()
        done.result()


def ask_at_once(rack: RackProcess) -> None:
    """More questions than the rack has threads for: these, and their connections to the region, are kept from then."""
    request = f"GET /{CONFIG} HTTP/1.1\r\nHost: rack\r\nConnection: close\r\n\r\n".encode()
    address = (rack.http.host, rack.http.port)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(4 * WORKERS)]
        for client in clients:
            client.sendall(request)
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def idle(rack: RackProcess, before: Footprint | None = None) -> Footprint:
    """Its footprint once every connection is closed and every transfer over; not more than *before*."""
    deadline = time.monotonic() + 60
    while True:
        n, now = rack.metrics(), footprint(rack)
        over = sum(n[f"bootplane_tftp_{name}_total"] for name in ("completed", "aborted", "timed_out"))
        transfers = n["bootplane_tftp_requests_total"] - over
        gone = n["bootplane_http_closed_total"] + n["bootplane_http_handed_over_total"]
        connections = n["bootplane_http_connections_total"] + n["bootplane_http_adopted_total"] - gone
        is_small = before is None or (now.descriptors <= before.descriptors and now.threads <= before.threads)
        # the connection that reads the metrics is handed over, and not counted
        if connections == 0 and transfers <= 0 and is_small:
            return now
        assert time.monotonic() < deadline, (
            f"{connections} connections are open, {transfers} transfers go on, expected at most {before}, got {now}"
        )
        threading.Event().wait(0.05)


def heads_read(rack: RackProcess) -> int:
    """Those that were not answered with a whole file, as the machines' own are."""
    numbers = rack.metrics()
    return int(numbers["bootplane_http_requests_total"] - numbers["bootplane_http_ok_total"])


def storm(rack: RackProcess, count: int, seed: int) -> None:
    tftp, http = (rack.tftp.host, rack.tftp.port), (rack.http.host, rack.http.port)

    def by_tftp() -> LoadResult:
        return tftp_load.load(
            *tftp, "images/x/kernel", clients=4, transfers=8, windowsize=8, verify_every=1, sha256=SHA
        )

    def by_http() -> LoadResult:
        return http_load.load(*http, "/images/x/kernel", connections=4, requests=40, verify_every=1, sha256=SHA)

    began = time.monotonic()
    with machines(by_tftp) as fetched:
        datagrams = storm_tftp(tftp, NAMES, count, seed)
    assert {(got.errors, got.verified, got.first_error) for got in fetched} == {(0, 8, "")}
    between = time.monotonic()
    with machines(by_http) as got_by_http:
        requests = storm_http(http, HTTP_NAMES, count, seed, lambda: heads_read(rack))
    assert {(got.errors, got.verified, got.first_error) for got in got_by_http} == {(0, 40, "")}
    took = between - began, time.monotonic() - between
    print(
        f"{datagrams.sent} datagrams in {took[0]:.1f} s, {datagrams.wrong} to wrong ones of {datagrams.tids} "
        f"TIDs, beside {8 * len(fetched)} transfers; {requests.read} requests of {requests.sent} on "
        f"{requests.connections} connections in {took[1]:.1f} s, beside {40 * len(got_by_http)} downloads"
    )


@pytest.mark.parametrize(("count", "reactors"), COUNTS)
def test_a_rack_under_hostile_packets_serves_right_bytes_and_keeps_nothing_of_them(
    tmp_path: Path, count: int, reactors: int
) -> None:
    with FakeRegion({"images/x/kernel": KERNEL, "bootx64.efi": LOADER}) as region:
        region.texts[CONFIG] = b"set timeout=5\n"
        with RackProcess(tmp_path / "rack", region, "--reactors", str(reactors)) as rack:
            ask_at_once(rack)
            storm(rack, count // 10, seed=1)
            before = idle(rack)
            storm(rack, count, seed=2)
            after = idle(rack, before)
            numbers = rack.metrics()
            assert rack.process is not None and rack.process.poll() is None
        print(f"before {before}, after {after}")
        kinds = ("found", "dynamic", "unknown")
        looked_up = sum(numbers[f"bootplane_names_{kind}_total"] for kind in kinds)
        assert numbers["bootplane_lookups_total"] == looked_up
        if "BOOTPLANE_SANITIZED_PYTHON" not in os.environ:  # there, what was freed is kept for a while
            grown = after.resident_bytes - before.resident_bytes
            assert grown < reactors * RINGS_BYTES + GROWN_BYTES, (before, after)
        wrong = [line for line in rack.log().splitlines() if "Traceback" in line or " ERROR " in line]
        assert wrong == []
