"""The rack as operators run it, for whoever measures one: the real process, a region that signs its catalogue, a source
that gives bytes at C speed, and a cache that is full.

    region (threads of this process) ──catalogue, beats, transfer reports──▶ rack ◀──fills── source (bench.serve)

Records are polled and reported, metrics can be scraped, and whatever else a rack does besides serving it does here.
A full cache: the measured files and fillers, whose charges add up to the limit exactly; the fillers are holes at the
source, so that they cost disk space once.
"""

from __future__ import annotations

import hashlib
import http.client
import mmap
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.meter import SERVER_CPU, Server
from bootplane.core import http_load
from bootplane.dataplane import catalogue
from bootplane.dataplane.catalogue import CHUNK_BYTES, BlobEntry, chunk_count, chunk_length
from tests.fakes.region import FakeRegion

ANY = "127.0.0.1:0"
FILL_S = 600.0
READY_S = 60.0
REPORTED_S = 60.0
FILLER_BYTES = 400 << 20
FILLERS = "images/bench/filler"
PAGE_BYTES = 4096  # a segment is charged by whole ones


@dataclass(frozen=True)
class File:
    """One that racks serve. *chunks*: its chunk list, the SHA-256 of each MiB."""

    name: str
    size: int
    sha256: str
    chunks: bytes

    @property
    def charge(self) -> int:
        """Bytes of a cache that it takes up: all its segments but the last are whole pages."""
        return -(-self.size // PAGE_BYTES) * PAGE_BYTES


class Region(FakeRegion):
    """One that has no bytes itself: racks are sent to *bulk_at* (H:P) for them."""

    bulk_at = ""

    def __init__(self) -> None:
        super().__init__({})
        self.lists: dict[str, bytes] = {}

    @property
    def bulk(self) -> str:
        return self.bulk_at

    def chunk_list(self, sha256: str) -> bytes | None:
        return self.lists.get(sha256)

    def sign(self, files: Iterable[File]) -> None:
        """A catalogue of *files* and of nothing else."""
        files = list(files)
        self.lists = {file.sha256: file.chunks for file in files}
        entries = {file.sha256: BlobEntry(file.size, hashlib.sha256(file.chunks).hexdigest()) for file in files}
        body = catalogue.encode(catalogue.build("bench", 1, entries, {file.name: file.sha256 for file in files}))
        self.version, self.body, self.signature = 1, body, self.key.sign_catalogue(body)


@dataclass(frozen=True)
class Rack:
    """A running one. *http* and *tftp*: its ports."""

    server: Server
    http: int
    tftp: int

    def numbers(self) -> dict[str, float]:
        """What /metrics says, by name; of series with labels the sum."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        found: dict[str, float] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def wait_until_reported(self) -> None:
        """Until it has told its region of every transfer it has recorded. It tells 400 a second and keeps 4096: a rack
        that goes on serving never has. Raises SystemExit after REPORTED_S."""
        deadline = time.monotonic() + REPORTED_S
        while time.monotonic() < deadline:
            told = self.numbers()
            ended, recorded = (told[f"bootplane_{what}_total"] for what in ("transfers", "records"))
            if told["bootplane_reports_waiting"] == 0 and ended >= recorded:
                return
            time.sleep(0.2)
        raise SystemExit(f"bench: a rack that has not told of its transfers within {REPORTED_S:.0f} s")


def command(data: Path, url: str, token: Path, *options: str, http: str = ANY, tftp: str = ANY) -> list[str]:
    """What starts a rack on directory *data*; *options* are its own."""
    argv = [sys.executable, "-m", "bootplane.dataplane.rack", "--data", str(data), "--region", url]
    return [*argv, "--token-file", str(token), "--http", http, "--tftp", tftp, *options]


def words_of(server: Server) -> list[str]:
    """The words of its first line, which says that it is ready. Raises SystemExit when there is none."""
    out = server.process.stdout
    if out is None or not select.select([out], [], [], READY_S)[0]:
        raise SystemExit(f"bench: {server.name} did not come up")
    words: list[str] = out.readline().decode().split()
    if not words or words[0] != "ready":
        raise SystemExit(f"bench: {server.name} did not come up")
    return words[1:]


@contextmanager
def rack(region: FakeRegion, work: Path, *options: str, cpu: int = SERVER_CPU) -> Iterator[Rack]:
    """One on *work*/data, with what that holds already."""
    token = work / "token"
    token.write_text(region.token.line() + "\n")
    with Server("bootplane", command(work / "data", region.url, token, *options), cpu=cpu) as server:
        ready = dict(word.split("=", 1) for word in words_of(server))
        http, tftp = (int(ready[what].rpartition(":")[2]) for what in ("http", "tftp"))
        yield Rack(server, http, tftp)


def digest_of(root: Path, name: str) -> File:
    """The file *name* under *root*, read once."""
    whole, chunks = hashlib.sha256(), []
    size = (root / name).stat().st_size
    with (root / name).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        view = memoryview(data)
        for chunk in range(chunk_count(size)):
            part = view[chunk * CHUNK_BYTES :][: chunk_length(size, chunk)]
            whole.update(part)
            chunks.append(hashlib.sha256(part).digest())
            part.release()
        view.release()
    return File(name, size, whole.hexdigest(), b"".join(chunks))


def fillers(folder: Path, total: int) -> list[File]:
    """Files of *total* bytes together in *folder*, each with one byte of its own and else a hole. They are named by
    digests that are not theirs: a rack verifies chunks, and takes the signed catalogue's word for the whole."""
    folder.mkdir(parents=True)
    found = []
    empty: dict[int, bytes] = {}
    while total:
        size, number = min(total, FILLER_BYTES), len(found)
        total -= size
        sha256 = hashlib.sha256(b"filler %d" % number).hexdigest()
        with (folder / sha256).open("wb") as out:
            out.write(bytes([1 + number % 255]))
            out.truncate(size)
        lengths = [chunk_length(size, chunk) for chunk in range(chunk_count(size))]
        for length in set(lengths) - set(empty):
            empty[length] = hashlib.sha256(bytes(length)).digest()
        first = hashlib.sha256(bytes([1 + number % 255]) + bytes(lengths[0] - 1)).digest()
        chunks = first + b"".join(empty[length] for length in lengths[1:])
        found.append(File(f"{FILLERS}-{number}", size, sha256, chunks))
    return found


@contextmanager
def source(root: Path, *, cpu: int, run: Sequence[str] = (), host: str = "127.0.0.1") -> Iterator[tuple[Server, int]]:
    """bench.serve over *root*, and its HTTP port. *run* stands before its command."""
    with Server("source", [*run, sys.executable, "-m", "bench.serve", str(root), "--host", host], cpu=cpu) as server:
        yield server, int(words_of(server)[0])


@contextmanager
def full_rack(files: Sequence[File], source_port: int, work: Path, *options: str) -> Iterator[Rack]:
    """A rack whose cache is full of *files*, which it has filled from the source at *source_port*, in this order.
    Raises SystemExit when something else is in its cache."""
    size = sum(file.charge for file in files)
    region = Region()
    region.bulk_at = f"127.0.0.1:{source_port}"
    region.sign(files)
    with region, rack(region, work, "--cache-size", str(size), *options) as running:
        for file in files:
            got = http_load.load("127.0.0.1", running.http, f"/{file.name}", connections=1, timeout_s=FILL_S)
            if got.errors or got.bytes != file.size:
                raise SystemExit(f"bench: filling: {file.name}: {got.first_error or got.bytes}")
        held = running.numbers()["bootplane_cache_charged_bytes"]
        if held != size:
            raise SystemExit(f"bench: expected a cache with {size} bytes, got {held:.0f}")
        yield running


def cpus() -> None:
    """Raises SystemExit when there are not two CPUs, one for the server and one for the load."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench: expected 2 CPUs, one for the server and one for the load")
