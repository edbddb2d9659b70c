"""kill -9: a cache that is killed at any instruction leaves a directory on which the next one is right.

At any instruction means at any system call, since between two of them nothing changes but the dead process's memory.
One scripted life of a cache (start, claim, check, fill, evict, drop, discard, end) is killed before and after each of
its system calls; busy ones with threads are killed at moments of a seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from bootplane.core.lru import Cache
from bootplane.core.status import DigestMismatch
from tests.adversity.test_power_cut import LIMIT, Work, contents_of
from tests.fakes import ptraced
from tests.fakes.filesystems import charge_of
from tests.fakes.http_client import CHUNK, chunk_list, cold, nothing_left

MIB = 1 << 20
ABSENT, FILLING, PRESENT, UNCHECKED = range(4)
NOISE = random.Random(12).randbytes(2 * MIB)
OLD = {name: NOISE[at : at + 3000] for at, name in enumerate(("kept", "dropped", "unclaimed", "damaged"))}
TWO = NOISE[: MIB + 77]  # two chunks
NEW = [NOISE[at : at + 5000] for at in range(100, 106)]
EVERY = [*OLD.values(), TWO, *NEW]
SMALL_LIMIT = 2 * MIB
INSTANTS = 6
MEMORY = Path("/dev/shm")
FILLERS = 3  # threads that may be making a file at one moment
STEPS = 5  # between two pieces of news
MOST_NEWS = 80  # of one that is killed
NEWS_S = 60  # it imports for a while


def fill(cache: Cache, data: bytes, *chunks: int) -> None:
    blob = cold(cache, data)
    for chunk in chunks or range(len(chunk_list(data)) // 32):
        if cache.begin(blob, chunk):
            cache.store(blob, chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK])


def earlier_run(directory: Path) -> None:
    cache = Cache(str(directory), SMALL_LIMIT)
    for data in OLD.values():
        fill(cache, data)
    assert cache.close() == ""


def a_life(directory: Path) -> None:
    """Everything that changes the directory, once."""
    cache = Cache(str(directory), SMALL_LIMIT)
    kept, dropped, damaged = (cold(cache, OLD[name]) for name in ("kept", "dropped", "damaged"))
    two = cold(cache, TWO)
    cache.begin(two, 1)
    with contextlib.suppress(DigestMismatch):
        cache.store(two, 1, b"no" * 50)  # its file goes
    fill(cache, TWO)
    cache.drop(dropped)
    cache.discard(damaged, 0)
    cache.settle([])
    for data in NEW[:3]:
        fill(cache, data)
    cache.limit_bytes = 4 * 4096  # evicts
    cache.limit_bytes = SMALL_LIMIT
    fill(cache, TWO, 0)  # the other chunk stays away
    for data in NEW[3:]:
        fill(cache, data)
    assert kept.references
    assert cache.close() == ""


def is_right(directory: Path, texts: list[bytes], limit: int) -> bool:
    """Starts on what is there; every byte it would serve is compared, and the account with the disk. Was it clean?"""
    cache = Cache(str(directory), limit)
    try:
        made = [name for name in cache.found.removed_names if name.endswith("got 0")]  # and had no length yet
        assert cache.found.removed == len(made) <= FILLERS
        assert cache.stats()["charged_bytes"] == charge_of(directory)
        for data in texts:
            blob = cold(cache, data)
            for chunk in range(len(chunk_list(data)) // 32):
                state, right = blob.states(chunk, 1)[0], data[chunk * CHUNK : (chunk + 1) * CHUNK]
                assert cache.found.clean or state in (ABSENT, UNCHECKED)
                if state != ABSENT:
                    with contextlib.suppress(DigestMismatch):
                        cache.recheck(blob, chunk)
                if blob.states(chunk, 1)[0] == PRESENT:
                    assert blob.read(chunk * CHUNK, len(right)) == right
                else:
                    fill(cache, data, chunk)
                    assert blob.read(chunk * CHUNK, len(right)) == right
        cache.reap()
        assert cache.stats()["charged_bytes"] == charge_of(directory) <= limit
        return cache.found.clean
    finally:
        why = cache.close()
        assert why == ""


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: an fsync is a system call there, too, and waits for nothing."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.mark.integration
def test_killed_before_and_after_each_system_call_of_a_life(quick: Path) -> None:
    before, directory = quick / "before", quick / "cache"
    earlier_run(before)
    stop, clean = 1, []
    while True:
        shutil.copytree(before, directory, copy_function=shutil.copy2)
        renew(directory)
        try:
            _, ended = ptraced.run(lambda: a_life(directory), stop)
        except ptraced.CannotTraceError as error:  # refused by the kernel: everything else has failed
            pytest.skip(str(error))
        if is_right(directory, EVERY, SMALL_LIMIT):
            clean.append(stop)
        shutil.rmtree(directory)
        if ended:
            break
        stop += 1
    assert stop > 200, "every system call is two stops"
    # until the old state is unlinked, and from the new one's rename on; nowhere between
    print(f"\nkilled at {stop - 1} stops; the state was clean at {len(clean)} of them")
    last_of_old = max(at for at in clean if at < stop / 2)
    first_of_new = min(at for at in clean if at > stop / 2)
    assert clean == [*range(1, last_of_old + 1), *range(first_of_new, stop + 1)]


def renew(directory: Path) -> None:
    """Copied files have another ctime: writes it into the state, so that the copy is as clean as the original."""
    path = directory / "state"
    head = path.read_bytes()[: path.read_bytes().rindex(b"sha256 ")]
    lines = []
    for line in head.decode().splitlines():
        words = line.split(" ")
        if len(words) >= 7:
            words[6] = str((directory / f"{words[0]}.d" / words[1]).stat().st_ctime_ns)
        lines.append(" ".join(words))
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(text + f"sha256 {hashlib.sha256(text).hexdigest()}\n".encode())


def busy(directory: str, seed: int, news: Connection) -> None:
    """Until it is killed; now and then it ends cleanly by itself and starts again. Of every few steps it sends news."""
    chance = random.Random(seed)
    while True:
        cache = Cache(directory, LIMIT)
        with Work(cache, contents_of(1), seed) as work:
            for _ in range(chance.randrange(2, 40)):
                work.wait_for(work.done + STEPS)
                news.send("at work")
        news.send("ending")
        cache.close()
        news.send("ended")
        seed += 1


@contextlib.contextmanager
def child_at_work(directory: Path, seed: int) -> Iterator[tuple[SpawnProcess, Connection]]:
    """A process that is busy(), and its news; killed on leaving."""
    context = multiprocessing.get_context("spawn")
    news, its_end = context.Pipe(duplex=False)
    child = context.Process(target=busy, args=(str(directory), seed, its_end))
    child.start()
    try:
        its_end.close()  # of ours: the news end with the child
        yield child, news
    finally:
        child.kill()
        child.join()
        news.close()


def killed_at_moments(directory: Path, seed: int, instants: int) -> int:
    """How often the state was clean. Each is killed when it has sent so many pieces of news."""
    chance = random.Random(seed)
    texts = list(contents_of(1).values())
    clean = 0
    for instant in range(instants):
        with child_at_work(directory, seed * 1000 + instant) as (child, news):
            for _ in range(chance.randrange(1, MOST_NEWS)):
                assert news.poll(NEWS_S), f"nothing was heard of it for {NEWS_S} s"
                news.recv()  # EOFError: it has failed by itself
        assert child.exitcode == -signal.SIGKILL
        clean += is_right(directory, texts, LIMIT)
    return clean


@pytest.mark.integration
def test_a_busy_cache_is_killed_again_and_again(tmp_path: Path) -> None:
    clean = killed_at_moments(tmp_path / "cache", 5, INSTANTS)
    print(f"\n{INSTANTS} kills, {clean} of them where the state was clean")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_busy_cache_is_killed_for_long(tmp_path: Path) -> None:
    clean = killed_at_moments(tmp_path / "cache", 6, 100)
    print(f"\n100 kills, {clean} of them where the state was clean")
