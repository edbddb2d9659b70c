"""The fill path against a bare hash: a cold file from a region's bulk port into the cache, verified.

Run: python -m pytest bench/test_fill.py -s. The source is a reactor in a process of its own on CPU 0; the filler is the
rack's own, with its shipped number of threads, on CPU 1; the cache is a new one in each round, on the file system of
the temporary folder. Counted is the CPU time of the fill threads: request, receive, hash, write, bookkeeping. The
baseline hashes the same bytes in pieces of 1 MiB and does nothing else. What the loop and the reactors do for a miss is
not in it, nor what the kernel writes to the disk later. bench/results/fill.json holds the figures.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.content import folder
from bench.meter import Server
from bench.ratio import Comparison, compare, interleave, table, thread_cpu_s, write
from bench.wire import LOAD_CPU, SERVER_CPU
from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.dataplane.fill import Filler

CHUNK = 1 << 20
SIZE = 404_000_000
PAIRS = 7
GOAL = 1.5  # docs/design.md, section 9
LINK_SIZE, LINK_BYTES_S, LINK_PAIRS = 64 * CHUNK, 250_000_000 // 8, 5
READY_S = 30.0
PATIENCE_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
Done = list[tuple[Comparison, str]]  # with a note each


@pytest.fixture(scope="module")
def done() -> Iterator[Done]:
    found: Done = []
    yield found
    if found:
        path = write("fill", [result for result, _ in found], notes=[note for _, note in found])
        print(f"\n\n{table([result for result, _ in found])}\n{path}")


def fill_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fill-")]


def cpu_s() -> float:
    """CPU seconds of the fill threads that run now."""
    return sum(time.clock_gettime(time.pthread_getcpuclockid(t.ident)) for t in fill_threads() if t.ident)


def split_s() -> tuple[float, float]:
    """(user, system) of the same, in clock ticks: good for sums over many rounds only."""
    stats = [Path(f"/proc/self/task/{thread.native_id}/stat").read_text() for thread in fill_threads()]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return sum(int(f[11]) for f in fields) * TICK_S, sum(int(f[12]) for f in fields) * TICK_S


class Rounds:
    """One file, its source, and the two contestants."""

    def __init__(self, root: Path, data: bytes, port: int) -> None:
        self.root, self.data, self.port = root, data, port
        self.sha256 = hashlib.sha256(data).hexdigest()
        view = memoryview(data)
        self.pieces = [view[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        self.chunks = b"".join(hashlib.sha256(piece).digest() for piece in self.pieces)
        self.user = self.system = 0.0

    def bare_hash(self) -> float:
        def hashed() -> str:
            digest = hashlib.sha256()
            for piece in self.pieces:
                digest.update(piece)
            return digest.hexdigest()

        return thread_cpu_s(hashed)

    def fill(self) -> float:
        """CPU seconds of the fill threads for the whole file, asked for as one reader asks: in order, as it misses."""
        directory = tempfile.mkdtemp(prefix="cache-", dir=self.root)
        cache = Cache(directory, len(self.data) + 64 * CHUNK)
        news = threading.Condition()

        def wake(blob: Blob, chunk: int, status: int) -> None:
            with news:
                news.notify_all()

        blob = cache.blob(self.sha256, len(self.data), self.chunks)
        filler = Filler(cache, wake)
        filler.set_sources([("127.0.0.1", self.port)])
        filler.start()
        try:
            before, (user, system) = cpu_s(), split_s()
            for chunk in range(len(self.pieces)):
                if blob.states(chunk, 1) != b"\2":
                    filler.miss(blob, chunk)
                    with news:
                        assert news.wait_for(lambda at=chunk: blob.states(at, 1) == b"\2", PATIENCE_S), chunk
            spent, (user_after, system_after) = cpu_s() - before, split_s()
            self.user, self.system = self.user + user_after - user, self.system + system_after - system
        finally:
            filler.stop()
            cache.close()
            shutil.rmtree(directory)
        assert (filler.stats.chunks, filler.stats.upstream_bytes) == (len(self.pieces), len(self.data))
        return spent


@contextlib.contextmanager
def source(size: int, *options: str) -> Iterator[Rounds]:
    """A file of *size* bytes behind a source; *options* are those of bench.serve."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("expected 2 CPUs, one for the source and one for the filler")
    before = os.sched_getaffinity(0)
    with (
        folder({"squashfs": size}) as root,
        tempfile.TemporaryDirectory(prefix="bootplane-bench-") as work,
        Server("fill", [sys.executable, "-m", "bench.serve", str(root), *options], cpu=SERVER_CPU) as server,
    ):
        out = server.process.stdout
        assert out is not None
        assert select.select([out], [], [], READY_S)[0], "the source did not come up"
        port = int(out.readline().split()[1])
        os.sched_setaffinity(0, {LOAD_CPU})
        try:
            yield Rounds(Path(work), (root / "squashfs").read_bytes(), port)
        finally:
            os.sched_setaffinity(0, before)


def run(benchmark: BenchmarkFixture, done: Done, what: str, rounds: Rounds, pairs: int, goal: float | None) -> None:
    samples = interleave(rounds.fill, rounds.bare_hash, rounds=pairs)
    result = compare(what, "hashlib, pieces of 1 MiB", samples, goal=goal)
    benchmark.extra_info.update(ratio=result.ratio, least=result.least, largest=result.largest)
    benchmark.pedantic(rounds.fill, rounds=1)  # type: ignore[no-untyped-call]
    whole, gb = rounds.user + rounds.system, len(rounds.data) / 1e9
    note = (
        f"{what}: {result.ours / gb:.3f} s/GB ({rounds.user / whole:.0%} user, {rounds.system / whole:.0%} system), "
        f"bare hash {result.theirs / gb:.3f} s/GB; cache on {tempfile.gettempdir()}"
    )
    done.append((result, note))
    print(f"\n{result}\n{note}")
    assert result.within(2.0), str(result)


def test_a_fill_as_fast_as_the_source_can(benchmark: BenchmarkFixture, done: Done) -> None:
    with source(SIZE) as rounds:
        run(benchmark, done, "fill, verified: CPU of the fill threads", rounds, PAIRS, GOAL)


def test_a_fill_over_a_link_of_250_mbit_s(benchmark: BenchmarkFixture, done: Done) -> None:
    """A few packets at a time: what waking up costs. No goal: a CPU that idles between packets is a slower one."""
    with source(LINK_SIZE, "--pace", str(LINK_BYTES_S)) as rounds:
        run(benchmark, done, "fill, verified, at 250 Mbit/s: CPU of the fill threads", rounds, LINK_PAIRS, None)
