"""The Verifier and sha256 against hashlib: the same bytes, in turns, CPU time of the thread.

Run: python -m pytest bench/test_digest.py -s. A build fails only when a ratio misses its goal by a factor of two;
bench/results/digest.json holds the figures. A second SHA-256 over the same bytes is what a chunk list costs, so twice
the bare hash is the floor of a Verifier, and 2.3 times (docs/design.md, section 9) is its goal. A goal of 1.1 stands
for "the same as hashlib".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.ratio import Comparison, compare, interleave, table, thread_cpu_s, write
from bootplane.core.digest import Verifier, sha256_hex
from bootplane.core.sha256 import backend

CHUNK = 1 << 20
DATA = os.urandom(16 * CHUNK)
PAIRS = 9
PIECES = {"64 KiB": 65536, "1 MiB": CHUNK}


@pytest.fixture(scope="module")
def done() -> Iterator[list[Comparison]]:
    comparisons: list[Comparison] = []
    yield comparisons
    path = write("digest", comparisons, notes=[f"SHA-256 by {backend()}"])
    print(f"\n\n{table(comparisons)}\n{path}")


def run(
    benchmark: BenchmarkFixture,
    done: list[Comparison],
    what: str,
    baseline: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    goal: float,
) -> None:
    assert ours() == theirs()  # the same answer, and the warm-up
    pairs = interleave(lambda: thread_cpu_s(ours), lambda: thread_cpu_s(theirs), rounds=PAIRS)
    result = compare(what, baseline, pairs, goal=goal)
    benchmark.extra_info.update(ratio=result.ratio, least=result.least, largest=result.largest, baseline=baseline)
    benchmark.pedantic(ours, rounds=3)  # type: ignore[no-untyped-call]
    print(f"\n{result}")
    done.append(result)
    assert result.within(2.0), str(result)


def pieces(size: int) -> list[memoryview]:
    return [memoryview(DATA)[at : at + size] for at in range(0, len(DATA), size)]


@pytest.mark.parametrize("size", PIECES.values(), ids=PIECES)
def test_verifier_against_a_bare_hash_of_the_same_bytes(
    benchmark: BenchmarkFixture, done: list[Comparison], size: int
) -> None:
    parts = pieces(size)

    def verifier() -> str:
        stream = Verifier(expected_size=len(DATA))
        for part in parts:
            stream.update(part)
        return stream.finish().sha256

    def bare() -> str:
        stream = hashlib.sha256()
        for part in parts:
            stream.update(part)
        return stream.hexdigest()

    run(benchmark, done, f"Verifier, pieces of {size // 1024} KiB: CPU", "hashlib, one digest", verifier, bare, 2.3)


def test_verifier_against_hashlib_doing_the_same_work(benchmark: BenchmarkFixture, done: list[Comparison]) -> None:
    parts = pieces(CHUNK)

    def verifier() -> tuple[str, bytes]:
        stream = Verifier(expected_size=len(DATA))
        for part in parts:
            stream.update(part)
        got = stream.finish()
        return got.sha256, got.chunks

    def both() -> tuple[str, bytes]:
        whole, chunks = hashlib.sha256(), []
        for part in parts:
            whole.update(part)
            chunks.append(hashlib.sha256(part).digest())
        return whole.hexdigest(), b"".join(chunks)

    run(benchmark, done, "Verifier, pieces of 1024 KiB: CPU", "hashlib, both digests", verifier, both, 1.1)


@pytest.mark.parametrize(
    ("size", "count"), [(512, 20000), (16384, 1000), (CHUNK, 16)], ids=["512 B", "16 KiB", "1 MiB"]
)
def test_sha256_against_hashlib(benchmark: BenchmarkFixture, done: list[Comparison], size: int, count: int) -> None:
    part = memoryview(DATA)[:size]

    def ours() -> str:
        for _ in range(count):
            digest = sha256_hex(part)
        return digest

    def theirs() -> str:
        for _ in range(count):
            digest = hashlib.sha256(part).hexdigest()
        return digest

    run(benchmark, done, f"sha256 of {size} bytes: CPU", "hashlib", ours, theirs, 1.1)
