"""A cache on real file systems: what is queued for a stalled reader stays right while its segments go; a full disk.

A byte in a socket's buffer is a page of the segment's file. The reader below does not read; its file is evicted, the
space is filled with another blob, and then it goes on: each byte must be its own file's. On a cache of one sparse file
with punched holes this fails (zeros, or the other blob's bytes), on some file systems and for some sizes of write only,
which is why the page cache is put in three states and the file systems are four.
"""

from __future__ import annotations

import array
import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import os
import random
import select
import socket
import stat
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core import tftp_fetch
from bootplane.core.blob import Blob
from bootplane.core.lru import Cache, CacheFull
from bootplane.core.reactor import Reactor, Record
from bootplane.core.status import CoreError
from bootplane.dataplane.fill import Filler
from tests.fakes import tftp_client
from tests.fakes.filesystems import KINDS, MIB, bytes_on_disk, files_in, leave_room, mounted, or_skip
from tests.fakes.filling import eventually
from tests.fakes.http_client import CHUNK, PATIENCE_S, Client, chunk_list, cold, nothing_left, rack
from tests.fakes.region import FakeRegion

READERS = 8
QUEUED = 1 * MIB
SO_RCVBUFFORCE = 33
ABSENT, PRESENT = 0, 2
SLACK = 4096  # of each file on a disk
NOISE = random.Random(44).randbytes(40 * MIB)
OLD, NEW = NOISE[: 24 * MIB], NOISE[-24 * MIB :]
BITS = NOISE[-3 * MIB - 5 :]


@pytest.fixture(params=["tmp", *KINDS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on each file system; under the marker `soak` none may be missing."""
    with contextlib.ExitStack() as undo:
        where = tmp_path
        if request.param != "tmp":
            making = mounted(request.param, tmp_path)
            where = undo.enter_context(making if request.node.get_closest_marker("soak") else or_skip(making))
        with nothing_left():
            yield where


@pytest.fixture
def cache(place: Path) -> Iterator[Cache]:
    cache = Cache(str(place / "cache"), 32 * MIB)
    yield cache
    cache.close()


class Pump:
    """Answers a reactor's misses from *contents*, one chunk at a time, as a filler without read-ahead would."""

    def __init__(self, cache: Cache, reactor: Reactor, contents: dict[Blob, bytes]) -> None:
        self.cache, self.reactor = cache, reactor
        self.contents = {blob.id: (blob, data) for blob, data in contents.items()}
        self.answered = 0
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self) -> Pump:
        self._done = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._done.result()

    def _run(self) -> None:
        while not self._stop.is_set():
            select.select([self.reactor], [], [], 0.05)
            for mail in self.reactor.take():
                assert mail[0] == "miss", mail
                blob, data = self.contents[mail[1]]
                put(self.cache, blob, data, mail[2])
                self.reactor.chunk(blob, mail[2])
                self.answered += 1


def put(cache: Cache, blob: Blob, data: bytes, chunk: int) -> None:
    """Fills a chunk unless it is there, waiting for room: senders let go of segments within a moment."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if cache.begin(blob, chunk):
                cache.store(blob, chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK])
            return
        except CacheFull:
            assert time.monotonic() < deadline, "no segment was let go of"
            cache.reap()
            select.select([], [], [], 0.001)


def put_all(cache: Cache, blob: Blob, data: bytes) -> None:
    for chunk in range(-(-len(data) // CHUNK)):
        put(cache, blob, data, chunk)


def evict_all(cache: Cache) -> None:
    """Until nothing is charged, and nothing condemned, at one moment."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := cache.stats())["charged_bytes"] + now["condemned_bytes"]:
        assert time.monotonic() < deadline, f"segments do not go: {now}"
        cache.evict(now["limit_bytes"] + now["charged_bytes"])
        cache.reap()


def settle_pages(cache: Cache, how: str) -> None:
    """Brings the cached pages into a state: dirty (as written), synced, or read back from the disk."""
    for path, _ in files_in(Path(cache.directory)) if how != "dirty" else ():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        if how == "reread":
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def stalled(port: int) -> Client:
    """A client with room for 8 MiB that it will not read."""
    client = Client(port)
    with contextlib.suppress(PermissionError):
        client.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 * MIB)
    return client


def ends_of(clients: list[Client]) -> dict[tuple[str, int], socket.socket]:
    """The server's ends of these connections, which are in this process, by the client's address."""
    wanted = {client.socket.getsockname() for client in clients}
    found: dict[tuple[str, int], socket.socket] = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(path.stat().st_mode):
                end = socket.socket(fileno=os.dup(int(path.name)))
                try:
                    known = end.getpeername() in wanted
                except OSError:
                    known = False
                if known:
                    found[end.getpeername()] = end
                else:
                    end.close()
    return found


def in_buffer(sock: socket.socket, request: int) -> int:
    number = array.array("i", [0])
    fcntl.ioctl(sock, request, number)
    return number[0]


def wait_until_queued(clients: list[Client]) -> int:
    """Until at least QUEUED bytes of each are sent or about to be, and unread; returns the least."""
    for client in clients:
        assert select.select([client.socket], [], [], PATIENCE_S)[0], "the response has not begun"
    ends = ends_of(clients)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            queued = [
                in_buffer(client.socket, termios.FIONREAD)
                + in_buffer(ends[client.socket.getsockname()], termios.TIOCOUTQ)
                for client in clients
            ]
            if min(queued) >= QUEUED:
                return min(queued)
            assert time.monotonic() < deadline, f"bytes queued: {queued}"
            select.select([], [], [], 0.002)
    finally:
        for end in ends.values():
            end.close()


def wrong_pages(client: Client, data: bytes) -> int:
    """Reads a whole response, compares all of its body, and returns how many pieces of up to 4 KiB are wrong."""
    head = client.head()
    assert head.status == 200
    view, at, wrong = memoryview(data), 0, 0
    piece = bytes(client.buffer)
    while at < len(data):
        right = view[at : at + len(piece)]
        if piece != right:
            wrong += sum(piece[n : n + 4096] != right[n : n + 4096] for n in range(0, len(piece), 4096))
        at += len(piece)
        piece = client.socket.recv(min(MIB, len(data) - at)) if at < len(data) else b""
        assert piece or at == len(data), f"the connection ended after {at} of {len(data)} bytes"
    return wrong


def stall_evict_refill(cache: Cache, pages: str) -> int:
    """One round; returns the least number of bytes that were queued for a reader."""
    old, new = cold(cache, OLD), cold(cache, NEW)
    evict_all(cache)
    put_all(cache, old, OLD)
    settle_pages(cache, pages)
    with rack({"old": old, "new": new}) as it:
        clients = [stalled(it.port).send(b"GET /old HTTP/1.1\r\nHost: r\r\n\r\n") for _ in range(READERS)]
        queued = wait_until_queued(clients)
        limit = cache.limit_bytes
        cache.limit_bytes = 0
        evict_all(cache)
        assert files_in(Path(cache.directory)) == {}
        assert old.present_bytes() == 0
        cache.limit_bytes = len(NEW)
        put_all(cache, new, NEW)
        settle_pages(cache, pages)
        assert new.present_bytes() == len(NEW), "the space is the other blob's"
        with (
            Pump(cache, it.reactor, {old: OLD, new: NEW}) as pump,
            concurrent.futures.ThreadPoolExecutor(READERS) as pool,
        ):
            readers = [pool.submit(wrong_pages, client, OLD) for client in clients]
            for mib in (12, 32, 8, 20):
                cache.limit_bytes = mib * MIB
                put_all(cache, new, NEW)
            cache.limit_bytes = limit
            assert [reader.result() for reader in readers] == [0] * READERS
        assert pump.answered > 0, "the readers met what was evicted"
        for client in clients:
            client.socket.close()
    return queued


@pytest.mark.integration
@pytest.mark.parametrize("pages", ["dirty", "synced", "reread"])
def test_a_stalled_reader_gets_its_own_bytes_after_its_file_was_evicted_and_overwritten(
    place: Path, cache: Cache, pages: str
) -> None:
    if place.name in KINDS:
        leave_room(place, 48 * MIB)  # the new blob must take the blocks of the old one
    assert stall_evict_refill(cache, pages) >= QUEUED


@pytest.mark.integration
def test_the_comparison_sees_a_slot_that_is_written_again(cache: Cache) -> None:
    old = cold(cache, OLD)
    put_all(cache, old, OLD)
    with rack({"old": old}) as it, stalled(it.port) as client:
        client.send(b"GET /old HTTP/1.1\r\nHost: r\r\n\r\n")
        wait_until_queued([client])
        for path, _ in files_in(Path(cache.directory)):
            with Path(path).open("r+b") as file:
                file.write(NEW[: 4 * MIB])
        assert wrong_pages(client, OLD) >= QUEUED // 4096


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_stalled_readers_get_their_own_bytes_again_and_again(place: Path, cache: Cache) -> None:
    if place.name in KINDS:
        leave_room(place, 48 * MIB)
    least = min(stall_evict_refill(cache, pages) for _ in range(10) for pages in ("dirty", "synced", "reread"))
    where = place.name if place.name in KINDS else "tmp"
    print(f"\n{where}: 30 rounds of {READERS} readers, at least {least} bytes queued for each")
    assert least >= QUEUED


# -- TFTP: windows are sent from the mapping of a segment -------------------------------------------------------------


@pytest.mark.integration
def test_windows_are_right_when_their_segment_goes_while_they_lie_unread_and_half_of_each_is_sent_again(
    cache: Cache,
) -> None:
    bits, new = cold(cache, BITS), cold(cache, NEW)
    put_all(cache, bits, BITS)
    evictions = 0
    with (
        tftp_client.serving({"bits": bits}) as it,
        it.client() as client,
        Pump(cache, it.reactor, {bits: BITS}) as pump,
    ):
        client.rrq("bits", blksize=8192, windowsize=64)
        granted = client.receive().options
        block, window = int(granted["blksize"]), int(granted["windowsize"])
        last = len(BITS) // block + 1
        acked = 0
        while acked < last:
            client.ack(acked)
            assert select.select([client.socket], [], [], PATIENCE_S)[0]
            evict_all(cache)  # the mapping this window was sent from
            put_all(cache, new, NEW[: 8 * MIB])
            evictions += 1
            top = min(acked + window, last)
            seen: set[int] = set()
            while top not in seen:
                packet = client.receive()
                assert packet.kind == "DATA", packet
                assert packet.data == BITS[(packet.number - 1) * block : packet.number * block], packet.number
                seen.add(packet.number)
            acked = last if top == last and acked + 1 >= last - window // 2 else acked + max(1, (top - acked) // 2)
        client.ack(last)
        records: list[Record] = []  # written when the last ACK has come
        eventually(lambda: not records.extend(it.reactor.records()) and "bits" in [r.name for r in records])
        (record,) = [record for record in records if record.name == "bits"]
        it.until("tftp_completed", 1)
    assert record.retransmits >= last // 2, "the other half of each window was sent again"
    assert pump.answered >= evictions // 2, "from a file that had to be filled again"


@pytest.mark.integration
def test_tftp_readers_get_every_byte_while_their_file_is_evicted_all_the_time(cache: Cache) -> None:
    bits, new = cold(cache, BITS), cold(cache, NEW)
    digest = hashlib.sha256(BITS).hexdigest()
    evictions = 0
    with (
        tftp_client.serving({"bits": bits}) as it,
        Pump(cache, it.reactor, {bits: BITS}),
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        readers = [pool.submit(tftp_fetch.fetch, *it.address, "bits", windowsize=16) for _ in range(4)]
        while not all(reader.done() for reader in readers):
            evict_all(cache)
            put_all(cache, new, NEW[: 8 * MIB])
            evictions += 1
        assert [reader.result().sha256 for reader in readers] == [digest] * 4
    assert evictions > 0


# -- a disk that is full before the cache is --------------------------------------------------------------------------

ROOM = 40 * MIB
HUGE = 1 << 30


class Endless:
    """A file of *size* bytes that nobody has to keep: each chunk is a slice of NOISE at another place."""

    def __init__(self, size: int) -> None:
        self.size = size

    def chunk(self, number: int) -> memoryview:
        at = number * 4099 % (len(NOISE) - CHUNK)
        return memoryview(NOISE)[at : at + CHUNK]

    def in_cache(self, cache: Cache) -> Blob:
        digests = b"".join(hashlib.sha256(self.chunk(n)).digest() for n in range(self.size // CHUNK))
        return cache.blob(hashlib.sha256(digests).hexdigest(), self.size, digests)

    def is_right(self, blob: Blob) -> bool:
        """Every chunk that is said to be present."""
        states = blob.states(0, self.size // CHUNK)
        return all(blob.read(n * CHUNK, CHUNK) == self.chunk(n) for n, state in enumerate(states) if state == PRESENT)


@pytest.mark.integration
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_full_disk_is_an_error_that_leaves_right_bytes_and_a_right_account(place: Path) -> None:
    leave_room(place, ROOM)
    cache = Cache(str(place / "cache"), HUGE)
    file = Endless(128 * MIB)
    blob = file.in_cache(cache)
    directory = Path(cache.directory)
    try:
        for _ in range(3):
            chunk = blob.states(0, file.size // CHUNK).index(ABSENT)
            with pytest.raises(OSError) as caught:
                while chunk < file.size // CHUNK:
                    if cache.begin(blob, chunk):
                        cache.store(blob, chunk, file.chunk(chunk))
                    chunk += 1
            assert caught.value.errno == errno.ENOSPC
            assert blob.states(chunk, 1) == bytes([ABSENT]), "what was not written whole is not there"
            assert file.is_right(blob)
            now, held = cache.stats(), files_in(directory)
            assert len(held) == now["segments"]
            assert sum(held.values()) <= now["charged_bytes"] + SLACK * len(held), (
                "the limit is kept by what is charged"
            )
            over = sum(held.values()) - blob.present_bytes()
            assert -SLACK <= over <= CHUNK + SLACK * len(held), "beside a part of the chunk that failed"
            before = bytes_on_disk(directory)
            freed = cache.evict(16 * MIB)
            assert freed >= 16 * MIB
            assert cache.stats()["charged_bytes"] == now["charged_bytes"] - freed
            cache.reap()
            assert bytes_on_disk(directory) <= before - freed + CHUNK + SLACK * len(held)
            assert cache.begin(blob, chunk)
            cache.store(blob, chunk, file.chunk(chunk))
            assert file.is_right(blob)
    finally:
        cache.close()


@pytest.mark.integration
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_file_larger_than_the_disk_streams_through_a_cache_whose_limit_is_a_lie(place: Path) -> None:
    leave_room(place, ROOM)
    data = NOISE + NOISE[:MIB] + NOISE[::-1]
    cache = Cache(str(place / "cache"), HUGE)
    with FakeRegion({"file": data}) as region:
        blob = cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunk_list(data))
        woken = threading.Condition()
        told: dict[int, int] = {}

        def wake(_: Blob, chunk: int, status: int) -> None:
            with woken:
                told[chunk] = status
                woken.notify_all()

        def read(chunk: int, length: int) -> bytes:
            """As a reader does; read-ahead may evict a chunk between the news of it and the read of it."""
            deadline = time.monotonic() + PATIENCE_S
            while True:
                with contextlib.suppress(CoreError):
                    return blob.read(chunk * CHUNK, length)
                assert time.monotonic() < deadline, f"chunk {chunk} never was there"
                with woken:
                    told.pop(chunk, None)
                filler.miss(blob, chunk)
                with woken:
                    assert woken.wait_for(lambda: chunk in told, PATIENCE_S)
                    assert told[chunk] == 0

        filler = Filler(cache, wake)
        filler.set_sources([("127.0.0.1", region.bulk_port)])
        filler.start()
        try:
            for chunk in range(-(-len(data) // CHUNK)):
                right = data[chunk * CHUNK : (chunk + 1) * CHUNK]
                assert read(chunk, len(right)) == right
            now = cache.stats()
        finally:
            filler.stop()
            cache.close()
    print(
        f"\n{place.name}: {len(data)} bytes through {ROOM}, {region.bulk_bytes} fetched, {filler.stats.errors}, {now}"
    )
    assert now["evicted_bytes"] >= len(data) - ROOM - 4 * MIB, "the disk was full, and eviction gave room"
    assert filler.stats.given_up == 0
    assert region.bulk_bytes <= 1.1 * len(data), "what had come when the disk was full is written once there is room"
