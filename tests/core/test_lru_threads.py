"""The cache under several threads: no wrong byte, no leak, never above its limit."""

from __future__ import annotations

import contextlib
import gc
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bootplane.core.blob import Blob, reap
from bootplane.core.lru import Cache, CacheFull, alive
from bootplane.core.status import CoreError, DigestMismatch
from tests.core.caches import CLOSED, MIB, SEGMENT, filled, known

pytestmark = pytest.mark.usefixtures("nothing_leaks")


@pytest.fixture(autouse=True)
def every_cache_is_freed() -> Iterator[None]:
    before = alive()
    yield
    gc.collect()
    reap()
    assert alive() == before


PATIENCE_S = 30.0  # for enough of everything on a busy machine, or under a sanitizer: then it is as it is


def run(*jobs: Callable[[], None]) -> None:
    """All at once; the first exception of any of them is raised here."""
    start, errors = threading.Barrier(len(jobs)), []

    def body(job: Callable[[], None]) -> None:
        try:
            start.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def within_limit(cache: Cache) -> None:
    stats = cache.stats()
    assert stats["charged_bytes"] + stats["condemned_bytes"] <= stats["limit_bytes"], stats


def settled(cache: Cache, blobs: list[Blob]) -> None:
    """What must hold once everybody has let go."""
    cache.reap()
    stats = cache.stats()
    assert stats["condemned_bytes"] == 0
    lengths = [
        min(SEGMENT, blob.size - at)
        for blob in blobs
        for at in range(0, blob.size, SEGMENT)
        if any(blob.states(at // MIB, 4))
    ]
    assert stats["segments"] == len(lengths)
    assert stats["charged_bytes"] == sum((length + 4095) // 4096 * 4096 for length in lengths)
    files = [path for path in pathlib.Path(cache.directory).rglob("*") if path.is_file() and path.name != "lock"]
    assert sorted(path.stat().st_size for path in files) == sorted(lengths)


def open_one(cache: Cache, blobs: list[Blob], rng: random.Random) -> None:
    """What a fill thread does for a sender that met a file that is not open."""
    blob = rng.choice(blobs)
    chunk = rng.randrange((blob.size + MIB - 1) // MIB)
    if blob.states(chunk, 1) == bytes([CLOSED]):
        cache.recheck(blob, chunk)


@pytest.mark.parametrize("open_limit", [0, 1, 3])
def test_filling_evicting_dropping_and_sending_at_once_never_shows_a_wrong_byte(
    tmp_path: pathlib.Path, open_limit: int
) -> None:
    rng = random.Random(5)
    data = [rng.randbytes(2 * SEGMENT + MIB + 11) for _ in range(3)]  # nine segments
    cache = Cache(str(tmp_path), 4 * SEGMENT, open_limit=open_limit)
    blobs = [known(cache, each) for each in data]
    done = threading.Event()
    outcomes = {"stored": 0, "refused": 0, "abandoned": 0, "full": 0}
    looks = {"found": 0}
    guard = threading.Lock()

    def fill(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            which = rng.randrange(3)
            chunk = rng.randrange(10)
            piece = data[which][chunk * MIB : (chunk + 1) * MIB]
            try:
                if not cache.begin(blobs[which], chunk):
                    continue
            except CacheFull:
                outcome = "full"
            else:
                within_limit(cache)
                outcome = rng.choice(["stored"] * 8 + ["refused", "abandoned"])
                if outcome == "stored":
                    cache.store(blobs[which], chunk, piece)
                elif outcome == "refused":
                    with pytest.raises(DigestMismatch):
                        cache.store(blobs[which], chunk, piece[::-1])
                else:
                    cache.abandon(blobs[which], chunk)
            within_limit(cache)
            with guard:
                outcomes[outcome] += 1

    def send(seed: int) -> None:
        rng = random.Random(seed)
        while not done.is_set():
            which = rng.randrange(3)
            found, wrong = blobs[which].compare(data[which], 200, rng.getrandbits(60))
            assert wrong == 0
            with guard:
                looks["found"] += found
            if open_limit:
                open_one(cache, blobs, rng)

    def drop() -> None:
        rng = random.Random(0)
        while not done.wait(0.02):
            cache.drop(rng.choice(blobs))
            reap()

    def is_enough() -> bool:
        reopened = cache.stats()["reopened_segments"]
        return outcomes["stored"] > 100 and looks["found"] > 1000 and (reopened > 20 or not open_limit)

    def fill_all() -> None:
        ends = time.monotonic() + PATIENCE_S
        turn = 0
        try:
            while not turn or (not is_enough() and time.monotonic() < ends):
                run(*(lambda seed=turn + seed: fill(seed) for seed in range(3)))
                turn += 3
        finally:
            done.set()

    run(fill_all, lambda: send(10), lambda: send(11), drop)
    assert is_enough() and outcomes["refused"] and outcomes["abandoned"]
    assert cache.stats()["evicted_segments"] > 10
    assert cache.stats()["refused_chunks"] == outcomes["refused"]
    assert cache.stats()["rechecked_chunks"] == cache.stats()["rotten_chunks"] == 0
    assert (cache.stats()["reopened_segments"] > 20) == (open_limit > 0)
    settled(cache, blobs)
    cache.close()


@pytest.mark.parametrize("open_limit", [0, 1])
def test_names_that_come_and_go_under_many_threads_stay_one_file_each(tmp_path: pathlib.Path, open_limit: int) -> None:
    """Room for three blobs of one block, nine wanted: each begin meets an eviction of its own name or directory."""
    texts = [bytes([i]) * (i + 1) for i in range(9)]
    cache = Cache(str(tmp_path), 3 * 4096, open_limit=open_limit)
    blobs = [known(cache, text) for text in texts]
    filled = [0] * 4

    def work(me: int) -> None:
        rng = random.Random(me)
        for _ in range(400):
            i = rng.randrange(9)
            try:
                if cache.begin(blobs[i], 0):
                    cache.store(blobs[i], 0, texts[i])
                    filled[me] += 1
            except CacheFull:
                cache.reap()
            within_limit(cache)
            if rng.random() < 0.5:
                open_one(cache, blobs, rng)
            assert blobs[i].compare(texts[i], 3, rng.getrandbits(60))[1] == 0
            if rng.random() < 0.05:
                cache.drop(blobs[i])

    run(*(lambda me=me: work(me) for me in range(4)))
    assert sum(filled) > 500
    assert cache.stats()["filled_bytes"] >= sum(filled)
    settled(cache, blobs)
    cache.close()


def test_a_chunk_is_given_to_exactly_one_of_many_fillers(tmp_path: pathlib.Path) -> None:
    cache = Cache(str(tmp_path), 4 * SEGMENT)
    data = random.Random(6).randbytes(4 * MIB)
    blob = known(cache, data)
    for _ in range(25):
        mine: list[int] = []

        def begin_all(mine: list[int] = mine) -> None:
            mine.extend(chunk for chunk in range(4) if cache.begin(blob, chunk))

        run(*([begin_all] * 4))
        assert sorted(mine) == [0, 1, 2, 3]
        assert cache.stats()["segments"] == 1
        for chunk in mine:
            cache.abandon(blob, chunk)
        assert cache.stats()["charged_bytes"] == 0
    cache.close()


def test_room_that_somebody_else_is_making_is_waited_for(tmp_path: pathlib.Path) -> None:
    """Of three blocks one is being filled and two are one old segment: its eviction is room for both who want one."""
    cache = Cache(str(tmp_path), 3 * 4096)
    held, old, *wanted = [known(cache, text) for text in (b"held", bytes(8192), b"x", b"y")]
    assert cache.begin(held, 0)
    for _ in range(200):
        assert cache.begin(old, 0)
        cache.store(old, 0, bytes(8192))
        run(*(lambda blob=blob: cache.begin(blob, 0) for blob in wanted))
        for blob in wanted:
            cache.abandon(blob, 0)
    cache.abandon(held, 0)
    assert cache.stats()["evicted_segments"] == 200
    cache.close()


def test_references_taken_while_a_slot_changes_hands_are_all_given_back(tmp_path: pathlib.Path) -> None:
    """Two blobs of one block, room for one: segment_t memory goes back and forth between their slots under readers."""
    cache = Cache(str(tmp_path), 4096)
    texts = [b"a", b"b"]  # short, so that readers are often interrupted between finding a segment and holding it
    blobs = [known(cache, text) for text in texts]
    done = threading.Event()

    def swap() -> None:
        try:
            for i in range(6000):
                try:
                    if cache.begin(blobs[i % 2], 0):
                        cache.store(blobs[i % 2], 0, texts[i % 2])
                except CacheFull:  # a reader holds it right now
                    cache.drop(blobs[(i + 1) % 2])
        finally:
            done.set()

    def look(which: int) -> None:
        seed = which + 1
        while not done.is_set():
            seed = seed * 6364136223846793005 + 1 & (1 << 63) - 1
            assert blobs[which].compare(texts[which], 2000, seed)[1] == 0

    run(swap, lambda: look(0), lambda: look(1), lambda: look(0))
    settled(cache, blobs)
    assert all(blob.references == 1 for blob in blobs)
    cache.close()


def test_references_taken_while_files_are_closed_and_opened_are_all_given_back(tmp_path: pathlib.Path) -> None:
    """A slot goes from one segment_t to the next while readers look at it.

    One of eight files may be open. Five are at most: that one, one for each reader, which holds it, and one for each
    thread that opens. So some are always closed, and there is always something to do.
    """
    cache = Cache(str(tmp_path), 64 * 4096, open_limit=1)
    texts = [bytes([i]) for i in range(8)]
    blobs = [known(cache, text) for text in texts]
    for blob, text in zip(blobs, texts, strict=True):
        assert cache.begin(blob, 0)
        cache.store(blob, 0, text)
    found = [0, 0]

    def goes_on() -> bool:
        return min(found) < 2000 or cache.stats()["reopened_segments"] < 1000

    def swap(seed: int) -> None:
        rng = random.Random(seed)
        while goes_on():
            cache.recheck(blobs[rng.randrange(8)], 0)
            assert cache.stats()["open_segments"] <= 5 and cache.stats()["segments"] == 8

    def look(which: int) -> None:
        seed = which + 1
        while goes_on():
            seed = seed * 6364136223846793005 + 1 & (1 << 63) - 1
            seen, wrong = blobs[which].compare(texts[which], 500, seed)
            assert wrong == 0
            found[which] += seen

    run(lambda: swap(1), lambda: swap(2), lambda: look(0), lambda: look(1))
    assert (cache.stats()["rechecked_chunks"], cache.stats()["rotten_chunks"]) == (0, 0)
    assert all(blob.complete for blob in blobs)
    settled(cache, blobs)
    cache.close()


def test_evicting_and_dropping_while_files_are_opened_again_leaves_nothing_uncharged(tmp_path: pathlib.Path) -> None:
    cache = Cache(str(tmp_path), 6 * 4096, open_limit=2)
    texts = [bytes([i]) * (i + 1) for i in range(12)]
    blobs = [known(cache, text) for text in texts]

    def work(me: int) -> None:
        rng = random.Random(me)
        for _ in range(600):
            i = rng.randrange(12)
            roll = rng.random()
            if roll < 0.4:
                with contextlib.suppress(CacheFull):
                    if cache.begin(blobs[i], 0):
                        cache.store(blobs[i], 0, texts[i])
            elif roll < 0.8:
                open_one(cache, blobs, rng)
            elif roll < 0.87:
                cache.discard(blobs[i], 0)
            elif roll < 0.94:
                cache.drop(blobs[i])
            else:
                cache.evict(4096)
            within_limit(cache)
            assert blobs[i].compare(texts[i], 3, rng.getrandbits(60))[1] == 0

    run(*(lambda me=me: work(me) for me in range(4)))
    assert cache.stats()["reopened_segments"] > 50 and cache.stats()["rechecked_chunks"] == 0
    settled(cache, blobs)
    cache.close()


def fill_until_closed(cache: Cache, blob: Blob, data: bytes, seed: int) -> str:
    rng = random.Random(seed)
    while True:
        chunk = rng.randrange(6)
        try:
            if cache.begin(blob, chunk):
                cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])
            elif rng.random() < 0.5:
                cache.drop(blob)
            else:
                open_one(cache, [blob], rng)
        except CacheFull:
            cache.reap()
        except ValueError as error:
            return str(error)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("open_limit", [0, 1])
def test_closing_under_work_stops_it_plainly_and_leaves_nothing_behind(
    tmp_path: pathlib.Path, seed: int, open_limit: int
) -> None:
    data = random.Random(7).randbytes(6 * MIB)
    cache = Cache(str(tmp_path), 2 * SEGMENT, open_limit=open_limit)
    blob = known(cache, data)
    last_words: list[str] = []

    def close() -> None:
        for look in range(20):
            assert blob.compare(data, 20, look)[1] == 0
        cache.close()

    jobs = [lambda me=me: last_words.append(fill_until_closed(cache, blob, data, me)) for me in (seed, seed + 10)]
    run(*jobs, close)
    assert len(last_words) == 2
    assert blob.present_bytes() == 0 and cache.stats()["segments"] == 0


def test_a_file_that_is_taken_while_it_is_being_closed_stays_open(tmp_path: pathlib.Path) -> None:
    """Whoever holds it keeps its bytes on the disk: they must stay charged, and it is in its slot for that.

    One of eight files may be open, and five are at most: there is always one to open, and one to close for it.
    """
    cache = Cache(str(tmp_path), 64 * 4096, open_limit=1)
    blobs = [filled(cache, bytes([i])) for i in range(8)]
    held, lost = [0, 0], []

    def is_closed(blob: Blob) -> bool:
        return blob.states(0, 1) == bytes([CLOSED])

    def hold(which: int) -> None:
        rng = random.Random(which)
        for _ in range(40_000):
            at = rng.randrange(8)
            try:
                with blobs[at].pin(0):
                    if is_closed(blobs[at]):  # while whoever was at it already has the lock, and sees that it is held
                        cache.stats()  # takes the lock
                        lost.extend([at] if is_closed(blobs[at]) else [])
                    held[which] += 1
            except CoreError:
                cache.recheck(blobs[at], 0)

    run(lambda: hold(0), lambda: hold(1))
    assert not lost
    assert min(held) > 0 and cache.stats()["reopened_segments"] > 0
    settled(cache, blobs)
    cache.close()
