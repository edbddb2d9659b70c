"""``make bench-restart``: a rack that starts on a full cache of 4 GiB: how soon a machine gets its first byte.

Each round ends the rack and starts the real process on the same directory, its region there but without a single byte
to give. Measured from before the exec to the first byte of a body over HTTP, which is asked for until it comes:

    after a clean end   the file used last, and the one used longest ago
    after kill -9       a chunk that is hashed before it is sent

and beside it: bytes fetched (0), the order of eviction afterwards (the old one), and how long a clean end takes while
the whole cache is dirty, against the patience of the supervisor (control/supervisor.py).

The exit status is 1 when the goal is missed by a factor of two or a byte was fetched: these machines are shared.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.racks import command
from bench.ratio import Goal, figure, write
from bootplane.control.supervisor import STOP_S
from bootplane.core.lru import Cache
from bootplane.dataplane import catalogue, kept
from bootplane.dataplane.catalogue import CHUNK_BYTES, BlobEntry, chunk_count, chunk_length
from tests.fakes.region import FakeRegion

MIB = 1 << 20
CACHE_BYTES = 4096 * MIB
FILE_BYTES = 400 * MIB
ROUNDS = 5
GOAL_S, STRETCH_S = 0.5, 0.3
PATIENCE_S = 60.0
NOISE = 8 * MIB
EVICTED = 16


@dataclass(frozen=True)
class File:
    """One whose bytes are cut out of noise, so that 4 GiB need not be kept anywhere else."""

    number: int
    size: int

    @property
    def name(self) -> str:
        return f"images/restart/{self.number}"

    @property
    def sha256(self) -> str:  # a rack takes the catalogue's word for it: what it checks are chunks
        return hashlib.sha256(self.name.encode()).hexdigest()

    def chunk(self, index: int, noise: bytes) -> bytes:
        at = (self.number * 7919 + index * 104_729) % (len(noise) - CHUNK_BYTES)
        return noise[at : at + chunk_length(self.size, index)]


def files_of(total: int, each: int) -> list[File]:
    """Files that fill *total* bytes, the last one what is left."""
    sizes = [each] * (total // each) + ([total % each] if total % each else [])
    return [File(number, size) for number, size in enumerate(sizes)]


class Disk:
    """A rack's directory with a full cache, its catalogue and chunk lists, and the region that has signed it."""

    def __init__(self, directory: Path, files: Sequence[File], limit: int) -> None:
        self.data, self.files, self.limit = directory / "data", files, limit
        self.noise = random.Random(4).randbytes(NOISE + CHUNK_BYTES)
        self.token = directory / "token"
        self.region = FakeRegion({})

    def fill(self) -> tuple[float, int]:
        """Every chunk of every file, in order. Returns (seconds of the clean end, bytes dirty before it)."""
        self.data.mkdir()
        (self.data / "chunks").mkdir()
        cache = Cache(str(self.data / "cache"), self.limit)
        entries, names = {}, {}
        for file in self.files:
            count = chunk_count(file.size)
            digests = [hashlib.sha256(file.chunk(i, self.noise)).digest() for i in range(count)]
            blob = cache.blob(file.sha256, file.size, b"".join(digests))
            (self.data / "chunks" / file.sha256).write_bytes(b"".join(digests))
            entries[file.sha256] = BlobEntry(file.size, hashlib.sha256(b"".join(digests)).hexdigest())
            names[file.name] = file.sha256
            for i in range(count):
                cache.begin(blob, i)
                cache.store(blob, i, file.chunk(i, self.noise))
        body = catalogue.encode(catalogue.build("bench", 1, entries, names))
        self.region.version, self.region.body = 1, body
        self.region.signature = self.region.key.sign_catalogue(body)
        kept.save(self.data / "catalogue", body, self.region.signature)
        self.token.write_text(self.region.token.line() + "\n")
        dirty, began = dirty_bytes(), time.monotonic()
        if why := cache.close():
            raise SystemExit(f"bench: {why}")
        return time.monotonic() - began, dirty

    def first_byte(self, rack: Rack, file: File) -> bytes:
        """The first byte of a file's body, as soon as it comes."""
        deadline = time.monotonic() + PATIENCE_S
        request = f"GET /{file.name} HTTP/1.1\r\nHost: r\r\nRange: bytes=0-0\r\nConnection: close\r\n\r\n".encode()
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(rack.place, 10) as sock:
                sock.sendall(request)
                answer = b""
                while piece := sock.recv(65536):
                    answer += piece
                    head, end, body = answer.partition(b"\r\n\r\n")
                    if end and head.startswith(b"HTTP/1.1 206 ") and body:
                        return body
            time.sleep(0.001)  # it is not there yet, or has no catalogue yet
        raise SystemExit(f"bench: {file.name}: no byte within {PATIENCE_S:.0f} s\n{rack.log.read_text()}")

    def order(self, most: int) -> list[tuple[str, int]]:
        """(sha256, index) of segments in the order in which they are evicted, up to *most* of them. Spends them."""
        cache = Cache(str(self.data / "cache"), self.limit)
        try:
            gone: list[tuple[str, int]] = []
            for file in self.files:
                cache.blob(file.sha256, file.size, (self.data / "chunks" / file.sha256).read_bytes())
            left = {(sha256, index) for sha256, index, _, _ in cache.segments()}
            while left and len(gone) < most:
                cache.evict(1)
                now = {(sha256, index) for sha256, index, _, _ in cache.segments()}
                gone += sorted(left - now)
                left = now
            return gone
        finally:
            cache.close()


class Rack:
    """The real process on a port of its own."""

    def __init__(self, disk: Disk, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.place: tuple[str, int] = probe.getsockname()
        self.log = disk.data.parent / "log"
        place = f"{self.place[0]}:{self.place[1]}"
        options = ("--cache-size", str(disk.limit), *options)
        self.command = command(disk.data, disk.region.url, disk.token, *options, http=place, tftp="")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """The time just before the exec."""
        with self.log.open("ab") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log)
        return began

    def wait_until_ready(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        if not self.process.stdout.readline().startswith(b"ready "):
            raise SystemExit(f"bench: the rack did not become ready\n{self.log.read_text()}")

    def fetched(self) -> int:
        with socket.create_connection(self.place, 10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        (line,) = [x for x in text.splitlines() if x.startswith("bootplane_fill_upstream_bytes_total ")]
        return int(float(line.split()[1]))

    def end(self, number: int) -> float:
        assert self.process is not None and self.process.stdout is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()
        return time.monotonic() - began


def forget_pages(disk: Disk) -> None:
    """What the page cache still has of the files is not to be had after a real restart of a machine."""
    for path in (disk.data / "cache").glob("*.d/*"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def dirty_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Dirty:", "Writeback:")))


def cpu_s(pid: int) -> float:
    """CPU seconds of a process with all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Sample(NamedTuple):
    first_byte_s: float  # from before the exec
    cpu_s: float  # of the rack until then: what a busy machine does not change
    end_s: float


def one(disk: Disk, file: File, end: int) -> Sample:
    """Starts the rack, gets the first byte of *file*, and ends it."""
    rack = Rack(disk)
    forget_pages(disk)
    began = rack.start()
    try:
        body = disk.first_byte(rack, file)
        took = time.monotonic() - began
        assert rack.process is not None
        cpu = cpu_s(rack.process.pid)
        rack.wait_until_ready()
        assert body == file.chunk(0, disk.noise)[:1]
        if fetched := rack.fetched():
            raise SystemExit(f"bench: {fetched} bytes were fetched, expected 0")
    finally:
        ending = rack.end(end)
    return Sample(took, cpu, ending)


@contextlib.contextmanager
def room(wanted: int) -> Iterator[Path]:
    base = Path(tempfile.gettempdir())
    free = shutil.disk_usage(base).free
    if free < wanted + (1 << 30):
        raise SystemExit(f"bench: {base}: expected {wanted + (1 << 30)} free bytes, got {free}")
    with tempfile.TemporaryDirectory(prefix="bootplane-bench-", dir=base) as name:
        yield Path(name)


def spread(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples):.3f} s [{min(samples):.3f}-{max(samples):.3f}], {len(samples)} rounds"


def both(samples: Sequence[Sample]) -> str:
    return f"{spread([sample.first_byte_s for sample in samples])}; CPU {spread([sample.cpu_s for sample in samples])}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--mib", type=int, default=CACHE_BYTES // MIB, help="size of the cache")
    options = parser.parse_args(argv)
    total = options.mib * MIB
    files = files_of(total, min(FILE_BYTES, total))
    with room(total) as directory:
        disk = Disk(directory, files, total)
        end_s, dirty = disk.fill()
        print(f"restart: {total / MIB:.0f} MiB in {len(files)} files", flush=True)
        last, longest_ago = files[-1], files[0]
        newest: list[Sample] = []
        oldest: list[Sample] = []
        killed: list[Sample] = []
        with disk.region:
            for _ in range(options.rounds):
                for file, into in ((last, newest), (longest_ago, oldest)):
                    into.append(one(disk, file, signal.SIGTERM))
            order = disk.order(EVICTED)
            expected = [(longest_ago.sha256, index) for index in range(1, EVICTED + 1)]  # its segment 0 was just read
            if order != expected:
                raise SystemExit(f"bench: expected the old order of eviction, {expected}, got {order}")
            one(disk, last, signal.SIGKILL)
            for i in range(options.rounds):
                killed.append(one(disk, files[1 + i % max(1, len(files) - 1)], signal.SIGKILL))
    clean = statistics.median(sample.first_byte_s for sample in newest + oldest)
    goal = "reached" if clean <= GOAL_S else "MISSED"
    firsts = [sample.first_byte_s for sample in newest + oldest]
    results = [
        figure("restart on a full cache: exec to the first byte", firsts, "s", goal=Goal(GOAL_S, STRETCH_S)),
        figure("restart on a full cache: bytes fetched", [0] * len(firsts), "bytes", goal=0),  # or one() has ended it
        figure("restart after kill -9: exec to the first byte", [sample.first_byte_s for sample in killed], "s"),
        figure("restart on a full cache: CPU until then", [sample.cpu_s for sample in newest + oldest], "s"),
    ]
    print(f"exec to the first byte of the file used last:         {both(newest)}")
    print(f"exec to the first byte of the file used longest ago:  {both(oldest)}")
    print(f"median of these two: {clean:.3f} s, goal {GOAL_S} s {goal} (stretch {STRETCH_S} s)")
    print(f"exec to the first byte of a chunk checked after -9:   {both(killed)}")
    print(f"clean end: {spread([sample.end_s for sample in newest + oldest])}")
    print(
        f"clean end with {dirty / MIB:.0f} MiB still to be written: {end_s:.2f} s; the supervisor waits {STOP_S:.0f} s"
    )
    print(f"bytes fetched: 0; the order of eviction is the old one ({len(order)} segments looked at)")
    print(f"written to {write('restart' if total == CACHE_BYTES else 'restart-short', results)}")
    return int(clean > 2 * GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
