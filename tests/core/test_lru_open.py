"""A cache that may have few files open: which are closed, what a closed one is worth, and how it is opened again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache, CacheFull
from bootplane.core.status import DigestMismatch

pytestmark = pytest.mark.usefixtures("nothing_leaks")

MIB = 1 << 20
SEGMENT = 4 * MIB
ABSENT, FILLING, PRESENT, UNCHECKED, CLOSED = range(5)
DATA = random.Random(9).randbytes(SEGMENT + MIB + 77)  # segment 0: chunks 0 to 3; segment 1: chunk 4, and 77 bytes in 5
TEXTS = [b"text %d" % i for i in range(100)]


def known(cache: Cache, data: bytes = DATA) -> Blob:
    chunks = b"".join(hashlib.sha256(data[i : i + MIB]).digest() for i in range(0, len(data), MIB))
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunks)


def fill(cache: Cache, blob: Blob, data: bytes, *chunks: int) -> None:
    for chunk in chunks or range((len(data) + MIB - 1) // MIB):
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])


def filled(cache: Cache, data: bytes = DATA, *chunks: int) -> Blob:
    blob = known(cache, data)
    fill(cache, blob, data, *chunks)
    return blob


def state(blob: Blob, chunk: int = 0) -> int:
    return blob.states(chunk, 1)[0]


def files_open(cache: Cache) -> int:
    """Descriptors of this process on segments, whether they still have a name or not."""
    found = 0
    for fd in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(fd.readlink())
            found += target.startswith(f"{cache.directory}/") and ".d/" in target
    return found


def path_of(cache: Cache, blob: Blob, index: int = 0) -> pathlib.Path:
    return pathlib.Path(cache.directory, f"{blob.sha256}.d", str(index))


def close_files_of(cache: Cache, *texts: bytes) -> None:
    """Opens other files until none but theirs is open."""
    for text in texts or [b"push %d" % i for i in range(20)]:
        filled(cache, text)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Cache]]:
    """Starts a cache on the directory, after the one before has ended."""
    caches: list[Cache] = []

    def one(open_limit: int = 2, limit: int = 64 * MIB) -> Cache:
        caches.append(Cache(str(tmp_path), limit, open_limit=open_limit))
        return caches[-1]

    yield one
    for cache in caches:
        cache.close()


@contextlib.contextmanager
def descriptors(spare: int) -> Iterator[None]:
    """This process can open *spare* more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(fd.name) for fd in pathlib.Path("/proc/self/fd").iterdir())
    holes = []
    while not holes or holes[-1] <= used:  # so that the limit on numbers is one on how many
        holes.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (holes[-1] + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)


class TestBound:
    @pytest.mark.parametrize("open_limit", [1, 2, 8, 64, 99])
    def test_no_more_files_are_open_than_allowed_and_every_byte_is_still_there(
        self, start: Callable[..., Cache], open_limit: int
    ) -> None:
        cache = start(open_limit)
        blobs = []
        for text in TEXTS:
            blobs.append(filled(cache, text))
            assert files_open(cache) == cache.stats()["open_segments"] <= open_limit
        assert cache.stats()["segments"] == len(TEXTS)
        for blob, text in zip(blobs, TEXTS, strict=True):
            assert blob.complete and blob.present_bytes() == len(text)
            assert cache.recheck(blob, 0) == (state(blob) == CLOSED) or state(blob) == PRESENT
            assert files_open(cache) <= open_limit
            assert blob.read(0, len(text)) == text
        assert cache.stats()["rechecked_chunks"] == 0, "nothing is hashed again"
        assert cache.stats()["reopened_segments"] >= len(TEXTS) - open_limit
        assert cache.stats()["filled_bytes"] == sum(map(len, TEXTS))

    def test_without_a_limit_nothing_is_closed(self, start: Callable[..., Cache]) -> None:
        cache = start(0)
        blobs = [filled(cache, text) for text in TEXTS]
        assert {state(blob) for blob in blobs} == {PRESENT}
        assert files_open(cache) == cache.stats()["open_segments"] == len(TEXTS)
        assert cache.stats()["reopened_segments"] == 0

    def test_a_limit_below_zero_is_refused(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="cache open_limit: expected 0 files or more, got -1"):
            Cache(str(tmp_path), MIB, open_limit=-1)

    def test_the_one_used_longest_ago_is_closed_first(self, start: Callable[..., Cache]) -> None:
        cache = start(3)
        a, b, c = (filled(cache, text) for text in TEXTS[:3])
        assert a.span(0) and c.span(0)
        d = filled(cache, TEXTS[3])
        assert [state(blob) for blob in (a, b, c, d)] == [PRESENT, CLOSED, PRESENT, PRESENT]

    def test_when_all_were_used_since_one_is_closed_all_the_same(self, start: Callable[..., Cache]) -> None:
        cache = start(3)
        blobs = [filled(cache, text) for text in TEXTS[:3]]
        assert all(blob.span(0) for blob in blobs)
        filled(cache, TEXTS[3])
        assert sorted(map(state, blobs)) == [PRESENT, PRESENT, CLOSED]

    def test_what_cannot_be_closed_is_open_beyond_the_limit(self, start: Callable[..., Cache]) -> None:
        """Fills must go on, and senders too: both are few, and both end."""
        cache = start(1)
        sent, begun, third = filled(cache, b"sent"), known(cache, b"begun"), known(cache, b"third")
        with sent.pin(0) as pin:
            assert cache.begin(begun, 0)
            assert cache.begin(third, 0)
            assert (state(sent), files_open(cache)) == (PRESENT, 3)
            assert os.pread(pin.fd, 4, 0) == b"sent"
            cache.store(begun, 0, b"begun")
            cache.store(third, 0, b"third")
        close_files_of(cache, b"another")
        assert [state(blob) for blob in (sent, begun, third)] == [CLOSED] * 3
        assert files_open(cache) == 1

    def test_what_was_open_beyond_the_limit_is_closed_though_nothing_else_is_opened(
        self, start: Callable[..., Cache]
    ) -> None:
        cache = start(1)
        sent = filled(cache, b"sent")
        with sent.pin(0):
            begun = known(cache, b"begun")
            assert cache.begin(begun, 0)
            cache.reap()
            assert (state(sent), files_open(cache)) == (PRESENT, 2), "both are in use"
            cache.store(begun, 0, b"begun")
        cache.reap()
        assert sorted([state(sent), state(begun)]) == [PRESENT, CLOSED]
        assert files_open(cache) == cache.stats()["open_segments"] == 1

    def test_a_sender_keeps_its_file_while_another_is_closed_for_it(self, start: Callable[..., Cache]) -> None:
        cache = start(2)
        held, other = filled(cache, b"held"), filled(cache, b"other")
        with held.pin(0) as pin:
            assert other.span(0)  # the older use is held's
            filled(cache, b"new")
            assert (state(held), state(other)) == (PRESENT, CLOSED)
            assert os.pread(pin.fd, 9, pin.offset) == b"held"


class TestClosed:
    def test_senders_take_it_for_absent_and_fillers_for_present(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA)
        assert blob.states(0, 6) == bytes([CLOSED] * 4 + [PRESENT] * 2)
        assert [blob.span(offset) for offset in (0, 5, SEGMENT - 1, SEGMENT)] == [0, 0, 0, MIB + 77]
        assert not cache.begin(blob, 0), "it must not be fetched"
        assert (blob.complete, blob.present_bytes()) == (True, len(DATA))
        assert [(index, states) for _, index, states, _ in cache.segments()] == [
            (0, bytes([CLOSED] * 4)),
            (1, bytes([PRESENT] * 2)),
        ]

    def test_one_opening_brings_back_every_chunk_of_the_file(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA)
        assert cache.recheck(blob, 2)
        assert blob.states(0, 4) == bytes([PRESENT] * 4)
        assert not cache.recheck(blob, 2), "it is PRESENT already"
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]
        assert cache.stats()["reopened_segments"] == 1 and cache.stats()["rechecked_chunks"] == 0

    def test_an_absent_chunk_of_a_closed_file_can_be_filled(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA, 0, 2)
        close_files_of(cache, b"another")
        assert blob.states(0, 4) == bytes([CLOSED, ABSENT, CLOSED, ABSENT])
        assert not cache.recheck(blob, 1)
        fill(cache, blob, DATA, 1)
        assert blob.states(0, 4) == bytes([PRESENT, PRESENT, PRESENT, ABSENT])
        assert blob.read(0, 3 * MIB) == DATA[: 3 * MIB]
        close_files_of(cache, b"yet another")
        assert cache.recheck(blob, 1)
        assert blob.read(0, 3 * MIB) == DATA[: 3 * MIB]
        assert cache.stats()["rechecked_chunks"] == 0

    def test_closing_and_opening_charges_nothing(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blobs = [filled(cache, text) for text in TEXTS[:9]]
        for blob in blobs:
            cache.recheck(blob, 0)
        cache.reap()
        stats = cache.stats()
        assert (stats["charged_bytes"], stats["condemned_bytes"], stats["segments"]) == (9 * 4096, 0, 9)
        assert stats["evicted_segments"] == 0

    def test_it_is_evicted_in_its_turn(self, start: Callable[..., Cache]) -> None:
        cache = start(1, limit=3 * 4096)
        a, b, c = (filled(cache, text) for text in TEXTS[:3])
        assert cache.recheck(a, 0)
        assert a.span(0)
        d = filled(cache, TEXTS[3])
        assert [blob.complete for blob in (a, b, c, d)] == [True, False, True, True]
        assert not path_of(cache, b).exists() and path_of(cache, c).exists()
        cache.reap()
        assert cache.stats()["charged_bytes"] + cache.stats()["condemned_bytes"] == 3 * 4096

    def test_eviction_goes_by_use_and_not_by_what_is_open(self, start: Callable[..., Cache]) -> None:
        cache = start(2, limit=4 * 4096)
        blobs = [filled(cache, text) for text in TEXTS[:4]]
        for which in (1, 0, 3, 2):
            cache.recheck(blobs[which], 0)
            assert blobs[which].span(0)
        gone = []
        for i in range(4, 8):
            filled(cache, TEXTS[i])
            gone += [n for n in range(4) if not blobs[n].complete and n not in gone]
        assert gone == [1, 0, 3, 2]

    def test_it_is_dropped_with_its_blob(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache)
        assert cache.drop(blob) == SEGMENT + MIB + 4096
        assert blob.present_bytes() == 0 and not path_of(cache, blob).parent.exists()
        assert cache.stats()["charged_bytes"] == 0

    def test_it_is_discarded_without_being_opened(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache)
        assert cache.discard(blob, 1)
        assert not cache.discard(blob, 1)
        assert blob.states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)
        assert not path_of(cache, blob).exists()
        assert (cache.stats()["rotten_chunks"], cache.stats()["reopened_segments"]) == (1, 0)
        fill(cache, blob, DATA, 1)

    def test_a_claim_that_is_given_back_leaves_the_other_chunks(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA, 0)
        close_files_of(cache, b"another")
        assert cache.begin(blob, 1)
        with pytest.raises(DigestMismatch):
            cache.store(blob, 1, bytes(MIB))
        assert blob.states(0, 4) == bytes([PRESENT, ABSENT, ABSENT, ABSENT])

    def test_a_file_being_filled_is_not_closed(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA, 0)
        assert cache.begin(blob, 1)
        close_files_of(cache, b"another")
        assert blob.states(0, 2) == bytes([PRESENT, FILLING])
        cache.store(blob, 1, DATA[MIB : 2 * MIB])
        close_files_of(cache, b"yet another")
        assert blob.states(0, 2) == bytes([CLOSED, CLOSED])

    def test_a_full_cache_says_so_with_closed_files_too(self, start: Callable[..., Cache]) -> None:
        cache = start(1, limit=2 * 4096)
        a, b, c = filled(cache, b"a"), filled(cache, b"b"), known(cache, b"c")
        cache.recheck(a, 0)
        with a.pin(0):
            assert cache.begin(c, 0)
            assert not b.complete
            with pytest.raises(CacheFull):
                cache.begin(b, 0)
            cache.abandon(c, 0)


class TestTouched:
    """What somebody else did to a file while nobody had it open."""

    def closed(self, cache: Cache) -> tuple[Blob, pathlib.Path]:
        blob = filled(cache)
        assert state(blob) == CLOSED
        return blob, path_of(cache, blob)

    def test_a_changed_byte_is_found_before_it_is_sent(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob, path = self.closed(cache)
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(MIB + 5)
            byte = file.read(1)[0]
            file.seek(MIB + 5)
            file.write(bytes([byte ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.recheck(blob, 0), "hashed, and right"
        assert blob.states(0, 4) == bytes([PRESENT, UNCHECKED, UNCHECKED, UNCHECKED])
        assert blob.span(0) == MIB
        with pytest.raises(DigestMismatch, match=f"blob {blob.sha256} chunk 1"):
            cache.recheck(blob, 1)
        assert blob.states(0, 4) == bytes(4) and not path.exists()
        assert (cache.stats()["rechecked_chunks"], cache.stats()["rotten_chunks"]) == (1, 1)
        fill(cache, blob, DATA, 0, 1)

    def test_filling_another_chunk_of_it_does_not_make_it_right(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA, 0)
        close_files_of(cache, b"another")
        path_of(cache, blob).touch()
        fill(cache, blob, DATA, 1)
        assert blob.states(0, 2) == bytes([UNCHECKED, PRESENT])
        close_files_of(cache, b"yet another")
        assert blob.states(0, 2) == bytes([UNCHECKED, CLOSED])
        assert cache.recheck(blob, 0)
        assert blob.states(0, 2) == bytes([PRESENT, PRESENT])

    @pytest.mark.parametrize(
        ("how", "why"),
        [
            (lambda path: path.unlink(), errno.ENOENT),
            (lambda path: os.truncate(path, SEGMENT - 1), errno.ESTALE),
            (lambda path: os.truncate(path, SEGMENT + 1), errno.ESTALE),
            (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), errno.ELOOP),
            (lambda path: (path.unlink(), os.mkfifo(path)), errno.ESTALE),
            (lambda path: (path.rename(path.with_name("1000")), path.parent.joinpath("1").rename(path)), errno.ESTALE),
            (lambda path: (path.parent.rename(path.parent.with_name("x")), path.parent.symlink_to("x")), errno.ENOTDIR),
        ],
        ids=["gone", "shorter", "longer", "a link", "a pipe", "another's", "its folder is a link"],
    )
    def test_another_file_in_its_place_is_not_opened_but_filled_again(
        self, start: Callable[..., Cache], how: Callable[[pathlib.Path], object], why: int
    ) -> None:
        cache = start(1)
        blob, path = self.closed(cache)
        how(path)
        is_other = "is not the one that was left here" if why == errno.ESTALE else "cannot be opened"
        with pytest.raises(OSError, match=f"/0: file {is_other}: {os.strerror(why)}$") as raised:
            cache.recheck(blob, 0)
        assert raised.value.errno == why
        assert blob.states(0, 4) == bytes(4)
        assert cache.stats()["rotten_chunks"] == 4
        if path.parent.is_symlink():
            path.parent.unlink()
        fill(cache, blob, DATA, 0, 1, 2, 3)
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]

    def test_a_fill_finds_it_gone_too(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache, DATA, 0)
        close_files_of(cache, b"another")
        path_of(cache, blob).unlink()
        fill(cache, blob, DATA, 1)
        assert blob.states(0, 2) == bytes([ABSENT, PRESENT])
        assert cache.stats()["charged_bytes"] == SEGMENT + 4096

    def test_what_cannot_be_removed_is_given_to_nobody(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob, path = self.closed(cache)
        path.unlink()
        path.mkdir()
        with pytest.raises(OSError, match="/0: file cannot be opened: Is a directory"):
            cache.recheck(blob, 0)
        assert blob.states(0, 4) == bytes(4)
        with pytest.raises(OSError, match="file cannot be unlinked"):
            cache.begin(blob, 0)
        path.rmdir()
        fill(cache, blob, DATA, 0)


class TestShortage:
    def test_a_process_without_descriptors_closes_some_and_fills_on(self, start: Callable[..., Cache]) -> None:
        cache = start(0)
        with descriptors(spare=12):
            blobs = [filled(cache, text) for text in TEXTS[:40]]
            assert files_open(cache) <= 12
        assert all(blob.complete for blob in blobs)
        assert CLOSED in map(state, blobs)

    def test_it_closes_some_to_open_one_again(self, start: Callable[..., Cache]) -> None:
        cache = start(0)
        with descriptors(spare=12):
            blobs = [filled(cache, text) for text in TEXTS[:40]]
            for _ in range(2):
                for blob, text in zip(blobs, TEXTS[:40], strict=True):
                    cache.recheck(blob, 0)
                    assert blob.read(0, len(text)) == text

    def test_with_nothing_to_close_it_says_so_and_forgets_nothing(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache)
        with blob.pin(SEGMENT), descriptors(spare=0):
            with pytest.raises(OSError, match=r"/0: file cannot be opened: Too many open files"):
                cache.recheck(blob, 0)
            with pytest.raises(OSError, match=r"directory cannot be made \(7 bytes needed\): Too many open files"):
                cache.begin(known(cache, b"another"), 0)
            assert blob.states(0, 4) == bytes([CLOSED] * 4)
            assert cache.stats()["open_segments"] == 1
        assert cache.recheck(blob, 0)
        assert blob.read(0, SEGMENT) == DATA[:SEGMENT]
        assert cache.stats()["charged_bytes"] == SEGMENT + MIB + 4096

    def test_a_start_without_descriptors_keeps_every_file(self, start: Callable[..., Cache]) -> None:
        cache = start(0)
        for text in TEXTS[:40]:
            filled(cache, text)
        cache.close()
        with descriptors(spare=12):
            cache = start(0)
            assert cache.found.segments == 40
            blobs = [known(cache, text) for text in TEXTS[:40]]
            for blob, text in zip(blobs, TEXTS[:40], strict=True):
                cache.recheck(blob, 0)
                assert blob.read(0, len(text)) == text
        assert cache.stats()["rechecked_chunks"] == 0

    @pytest.mark.skipif(
        "BOOTPLANE_SANITIZED_PYTHON" in os.environ, reason="a sanitizer hangs where its own memory is refused"
    )
    def test_a_process_that_may_map_no_more_closes_some_too(self, tmp_path: pathlib.Path) -> None:
        program = f"""
import hashlib, resource
from bootplane.core.lru import Cache
data = bytes({MIB})
chunks = hashlib.sha256(data).digest() * 4
cache = Cache({str(tmp_path)!r}, 1 << 30)
blobs = [cache.blob(f"{{i:064x}}", {SEGMENT}, chunks) for i in range(24)]
cache.begin(blobs[0], 0)
cache.store(blobs[0], 0, data)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 5 * {SEGMENT}, resource.RLIM_INFINITY))
for _ in range(2):
    for blob in blobs:
        if cache.begin(blob, 0):
            cache.store(blob, 0, data)
        cache.recheck(blob, 0)
        assert blob.read(0, {MIB}) == data
stats = cache.stats()
print(stats["segments"], stats["open_segments"] < 8, stats["reopened_segments"] > 8, stats["rechecked_chunks"])
cache.close()
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("24 True True 0\n", "")


class TestRestart:
    def test_what_was_closed_is_kept_and_needs_no_check(self, start: Callable[..., Cache]) -> None:
        cache = start(2)
        for text in TEXTS:
            filled(cache, text)
        assert cache.close() == ""
        cache = start(2)
        assert cache.found == (len(TEXTS), sum(map(len, TEXTS)), True, 0, (), 0)
        blobs = [known(cache, text) for text in TEXTS]
        assert [state(blob) for blob in blobs] == [CLOSED] * 98 + [PRESENT] * 2, "the newest are open"
        for blob, text in zip(blobs, TEXTS, strict=True):
            cache.recheck(blob, 0)
            assert files_open(cache) <= 2
            assert blob.read(0, len(text)) == text
        assert (cache.stats()["rechecked_chunks"], cache.stats()["filled_bytes"]) == (0, 0)

    def test_recency_is_kept_over_a_start_with_closed_files(self, start: Callable[..., Cache]) -> None:
        cache = start(1, limit=4 * 4096)
        blobs = [filled(cache, text) for text in TEXTS[:4]]
        for which in (1, 0, 3, 2):
            cache.recheck(blobs[which], 0)
            assert blobs[which].span(0)
        cache.close()
        start(1, limit=4 * 4096).close()  # nobody used it
        cache = start(1, limit=4 * 4096)
        blobs = [known(cache, text) for text in TEXTS[:4]]
        gone: list[int] = []
        for i in range(4, 8):
            filled(cache, TEXTS[i])
            gone += [n for n in range(4) if not blobs[n].complete and n not in gone]
        assert gone == [1, 0, 3, 2]

    def test_after_a_kill_every_closed_file_is_checked(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start(1)
        filled(cache, DATA, 0, 4, 5)
        cache.close()
        (tmp_path / "state").unlink()
        cache = start(1)
        blob = known(cache)
        assert blob.states(0, 6) == bytes([UNCHECKED] * 4 + [UNCHECKED] * 2)
        assert files_open(cache) == 1
        for chunk in (4, 5, 0):
            assert cache.recheck(blob, chunk)
        assert not cache.recheck(blob, 1), "a hole: it was never written"
        assert blob.states(0, 4) == bytes([PRESENT, ABSENT, ABSENT, ABSENT])
        assert cache.stats()["rechecked_chunks"] == 3
        fill(cache, blob, DATA, 1)
        assert blob.read(0, 2 * MIB) == DATA[: 2 * MIB]

    def test_a_file_with_nothing_in_it_is_found_when_it_is_opened(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        (tmp_path / "state").unlink()
        os.truncate(path, 0)
        os.truncate(path, SEGMENT)
        os.utime(path, (0, 0))  # the oldest: it is the other one that is open
        cache = start(1)
        blob = known(cache)
        assert not cache.recheck(blob, 0)
        assert blob.states(0, 4) == bytes(4)
        assert cache.stats()["rotten_chunks"] == 0
        fill(cache, blob, DATA, 0)

    def test_a_rotten_chunk_of_a_closed_file_is_found(
        self, start: Callable[..., Cache], tmp_path: pathlib.Path
    ) -> None:
        cache = start(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        with path.open("r+b") as file:
            file.write(b"another byte")
        cache = start(1)
        blob = known(cache)
        assert blob.states(0, 6) == bytes([UNCHECKED] * 4 + [PRESENT] * 2)
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)
        assert blob.states(0, 4) == bytes(4)

    def test_a_file_that_was_changed_between_the_look_and_the_opening_is_checked(
        self, start: Callable[..., Cache]
    ) -> None:
        cache = start(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start(1)
        with path.open("r+b") as file:
            file.write(b"another byte")
        blob = known(cache)
        assert state(blob) == CLOSED
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)

    def test_a_file_changed_while_it_was_closed_is_not_vouched_for_at_the_end(
        self, start: Callable[..., Cache]
    ) -> None:
        cache = start(1)
        path = path_of(cache, filled(cache), 0)
        with path.open("r+b") as file:
            file.write(b"another byte")
        assert cache.close() == ""
        assert known(start(1)).states(0, 4) == bytes([UNCHECKED] * 4)

    def test_a_kept_file_changed_while_it_was_open_is_not_vouched_for_at_the_end(
        self, start: Callable[..., Cache]
    ) -> None:
        cache = start(0)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start(0)
        assert known(cache).complete
        with path.open("r+b") as file:
            file.write(b"another byte")
        cache.close()
        assert known(start(0)).states(0, 4) == bytes([UNCHECKED] * 4)

    def test_a_kept_file_changed_while_it_was_open_is_checked_once_it_has_been_closed(
        self, start: Callable[..., Cache]
    ) -> None:
        cache = start(2)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start(2)
        blob = known(cache)
        assert blob.states(0, 4) == bytes([PRESENT] * 4)
        with path.open("r+b") as file:
            file.write(b"another byte")
        close_files_of(cache)
        assert blob.states(0, 4) == bytes([CLOSED] * 4)
        with pytest.raises(DigestMismatch):
            cache.recheck(blob, 0)

    def test_what_was_checked_again_is_vouched_for_again(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        path = path_of(cache, filled(cache), 0)
        cache.close()
        cache = start(1)
        path.touch()
        for chunk in range(4):
            assert cache.recheck(known(cache), chunk)
        assert cache.stats()["rechecked_chunks"] == 4
        cache.close()
        cache = start(2)
        assert known(cache).states(0, 4) == bytes([PRESENT] * 4)

    @pytest.mark.parametrize("open_limit", [0, 1])
    def test_a_chunk_that_was_added_to_a_kept_file_is_kept_too(
        self, start: Callable[..., Cache], open_limit: int
    ) -> None:
        cache = start(open_limit)
        filled(cache, DATA, 0)
        cache.close()
        cache = start(open_limit)
        fill(cache, known(cache), DATA, 1)
        cache.close()
        cache = start(0)
        assert known(cache).states(0, 4) == bytes([PRESENT, PRESENT, ABSENT, ABSENT])

    def test_a_closed_file_that_is_gone_at_the_end_costs_nothing_else(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        path_of(cache, filled(cache), 0).unlink()
        assert cache.close() == ""
        assert known(start(1)).states(0, 6) == bytes([ABSENT] * 4 + [PRESENT] * 2)

    def test_a_closed_file_is_synced_before_it_is_vouched_for(
        self, start: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            synced.append(str(pathlib.Path(f"/proc/self/fd/{fd}").readlink()))
            real(fd)

        cache = start(1)
        paths = [path_of(cache, filled(cache, text)) for text in TEXTS[:5]]
        monkeypatch.setattr(os, "fsync", fsync)
        cache.close()
        assert {str(path) for path in paths} <= set(synced)
        cache = start(1)
        synced.clear()
        cache.recheck(known(cache, TEXTS[0]), 0)
        filled(cache, b"new")
        cache.close()
        assert [name for name in synced if name.endswith(".d/0")] == [str(path_of(cache, Blob.memory(b"new")))]

    def test_another_chunk_list_of_the_same_digest_is_not_what_was_checked(self, start: Callable[..., Cache]) -> None:
        cache = start(1)
        blob = filled(cache)
        other = bytes(32) + (blob.chunks or b"")[32:]
        cache.close()
        again = start(1).blob(blob.sha256, len(DATA), other)
        assert again.states(0, 6) == bytes([UNCHECKED] * 6)
