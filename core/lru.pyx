"""The cache: blobs that are filled chunk by chunk into a directory bounded in bytes, least recently used segments out.

Idea: this is the Python edge of lru_steps. It says which blob is which (one blob_t per digest, however often it is asked
for, since two would share files), checks arguments with the GIL held, and turns a status into one sentence.

Left to others: what a segment goes through and the locks (lru_steps), which one is evicted (lru_policy), what is told of it
(lru_views), files (segment_file), fetching and trying again (dataplane.fill), calling reap() now and then.
"""

import hashlib
import os
import pathlib
import threading

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from bootplane.core.blob cimport Blob, blob_wrap, digest_of
from bootplane.core.linux cimport bp_load_u8, close, monotonic_ns, off_t
from bootplane.core.lru_kept cimport cache_adopt, cache_claim, cache_list, kept_t
from bootplane.core.lru_open cimport open_trim
from bootplane.core.lru_recheck cimport cache_discard, cache_recheck
from bootplane.core.lru_settle cimport cache_settle, lost_t
from bootplane.core.lru_steps cimport (
    cache_begin, cache_claimed, cache_close, cache_drop, cache_end, cache_fill, cache_is_idle, cache_new, cache_protect,
    cache_put, cache_shrink, cache_stop, caches_alive, fault_t,
)
from bootplane.core.lru_views cimport evictions_of, leavers_of, segments_of, stats_of
from bootplane.core.segments cimport (
    CHUNK_BYTES, CHUNK_PRESENT, SEGMENT_BYTES, SEGMENT_CHUNKS, blob_new, blob_reap, blob_retain, blob_t, segment_t,
)
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_FULL, ST_GONE, ST_MISMATCH, ST_NOMEM, ST_OK, check

from bootplane.core import kept_segments
from bootplane.core.lru_views import Eviction
from bootplane.core.segment_file import CacheInUse, lock_directory
from bootplane.core.status import CoreError, DigestMismatch

cdef enum: LOST = 16                 # segments that settle_writes() names

__all__ = ["Cache", "CacheFull", "CacheInUse", "Eviction", "alive"]


def alive() -> int:
    """Caches whose memory is still there: open ones, and closed ones of which somebody still holds a segment."""
    return caches_alive()


class CacheFull(CoreError):
    """Nothing can be evicted: every segment is being filled or sent, or the limit is smaller than one segment."""


@cython.no_gc_clear                  # __dealloc__ needs `known`: it keeps the blobs of the segments in the list
cdef class Cache:
    """The cache in *directory* (made when missing), of *limit_bytes*. Segment files of an earlier run are kept (`found`): they
    count against the limit from the start, and belong to a blob once blob() is asked for its digest. What is used *reuse_s*
    after it was fetched outlives what is not (lru_policy). At most *open_limit* segments have their file open and mapped (0:
    any number); the others are opened by recheck() when they are missed.

    Raises CacheInUse when another Cache has the directory, OSError when it cannot be used. Thread-safe."""

    def __cinit__(self):
        self.c = NULL
        self.lock_fd = -1

    def __init__(self, directory: str, limit_bytes: int, *, reuse_s: float = 60.0, open_limit: int = 0) -> None:
        if self.c != NULL:
            raise ValueError(f"cache {self.directory}: is open already")
        limit = checked_limit(limit_bytes)
        if not 0 <= reuse_s <= 1e9:
            raise ValueError(f"cache reuse_s: expected 0 to 1e9 seconds, got {reuse_s}")
        if open_limit < 0:
            raise ValueError(f"cache open_limit: expected 0 files or more, got {open_limit}")
        self.directory = os.fspath(directory)
        self.known = {}
        self.known_lock = threading.Lock()
        self.unclaimed = {}
        self.claiming = threading.Lock()
        dirfd = -1
        try:
            pathlib.Path(self.directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            dirfd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.lock_fd = lock_directory(dirfd, self.directory)
            segments, self.foreign, self.found = kept_segments.find(dirfd, limit)
            self.c = cache_new(dirfd, limit, <uint64_t>(reuse_s * 1e9))
            if self.c == NULL:
                check(ST_NOMEM, f"cache {self.directory}")
            dirfd = -1               # the cache's now
            self.c.open_limit = open_limit
            self.adopt(self.c.dirfd, segments)
        except OSError as error:
            raise OSError(error.errno, f"cache directory {self.directory}: cannot be used: {error.strerror}") from error
        finally:
            if dirfd >= 0:
                os.close(dirfd)

    def __dealloc__(self):
        if self.c != NULL:
            with nogil:
                cache_close(self.c)
                cache_put(self.c)
            self.c = NULL
        if self.lock_fd >= 0:
            close(self.lock_fd)
            self.lock_fd = -1

    cdef object adopt(self, int dirfd, list segments):
        cdef Blob own
        cdef bytes digest, states
        cdef blob_t* b
        cdef bint is_to_open
        cdef int status
        cdef uint64_t stamp = <uint64_t>monotonic_ns() - <uint64_t>len(segments)
        last = {}
        for segment in segments:
            last[segment.sha256] = max(segment.index, last.get(segment.sha256, 0))
        count = total = 0
        for position, segment in enumerate(segments):
            if segment.sha256 not in self.unclaimed:
                size = (last[segment.sha256] + 1) * SEGMENT_BYTES        # whatever the record says: a slot for each file
                digest = digest_of(segment.sha256)
                b = blob_new(size, SEGMENT_BYTES, <const uint8_t*>PyBytes_AS_STRING(digest))
                if b == NULL:
                    check(ST_NOMEM, f"blob {segment.sha256}")
                b.registered = 1
                own = blob_wrap(b, segment.sha256, None)
                self.unclaimed[segment.sha256] = own, segment.size, segment.root
            own, size, root = self.unclaimed[segment.sha256]
            if (size, root) != (segment.size, segment.root):             # not of one record: none of it is trusted
                self.unclaimed[segment.sha256] = own, -1, "-"
            stamp += 1               # newer than the one before, older than every use in this run
            states = segment.states
            is_to_open = self.c.open_limit == 0 or len(segments) - position <= self.c.open_limit     # the newest ones
            status = cache_adopt(self.c, own.b, <uint32_t>segment.index, segment.length,
                                 <const uint8_t*>PyBytes_AS_STRING(states), segment.ctime_ns, stamp, segment.reused,
                                 is_to_open)
            if status != ST_OK:      # empty, or somebody is at work in here
                kept_segments.remove(dirfd, segment)
                continue
            count += 1
            total += segment.length
        self.found = self.found._replace(segments=count, bytes=total)

    def close(self) -> str:
        """Lets go of every segment and of the directory; files stay, with a record of what they are worth, for the next run.
        Senders that hold a segment finish with it. Returns why there is no record, or "". Call it when nobody fills."""
        why = ""
        with nogil:
            cache_stop(self.c)
        with self.claiming:
            if self.c.dirfd >= 0:
                try:
                    why = self.keep()
                except OSError as error:
                    why = f"cache directory {self.directory}: its state cannot be kept: {error.strerror or error}"
            with nogil:
                cache_close(self.c)
            self.unclaimed.clear()
            if self.lock_fd >= 0:
                os.close(self.lock_fd)
                self.lock_fd = -1
        with self.known_lock:
            self.known.clear()
        return why

    cdef str keep(self):
        cdef uint64_t count = 0, i
        cdef kept_t* kept
        cdef segment_t* seg
        cdef Blob own
        with nogil:
            kept = cache_list(self.c, &count)
        if kept == NULL:
            return f"cache directory {self.directory}: its state cannot be kept: no memory"
        entries, written = [], []
        roots = {}
        try:
            for i in range(count):
                seg = kept[i].seg
                sha256 = seg.blob.digest[:32].hex()
                if sha256 in self.unclaimed and (<Blob>self.unclaimed[sha256][0]).b == seg.blob:
                    _, size, root = self.unclaimed[sha256]
                else:
                    own = self.known[sha256]
                    size = own.b.size
                    if sha256 not in roots:
                        roots[sha256] = hashlib.sha256(own.chunks).hexdigest()
                    root = roots[sha256]
                states = kept[i].state[:SEGMENT_CHUNKS]
                record = kept_segments.Record(sha256, seg.index, size, root, states, seg.length, 0, bool(kept[i].reused))
                if not any(states):  # only claims that nobody ended, or rotten
                    kept_segments.remove(self.c.dirfd, record)
                    continue
                record = record._replace(ctime_ns=seg.ctime_ns)
                if seg.synced or (seg.fd < 0 and CHUNK_PRESENT not in states):       # or: all of it will be checked
                    entries.append((kept[i].stamp, record))
                else:
                    written.append((kept[i].stamp, record, seg.fd))
        finally:
            free(kept)
        entries += kept_segments.sync(self.c.dirfd, written)
        entries.sort(key=lambda entry: entry[0])
        kept_segments.put_state(self.c.dirfd, [record for _, record in entries])
        return ""

    def blob(self, str sha256 not None, off_t size, bytes chunks not None, *, bint protected=False):
        """The Blob of this digest, to be filled by begin() and store(). The same blob_t for as long as anybody has it or
        a segment of it is cached. ValueError when *chunks* is not 32 bytes for each chunk of *size*, or when the blob is
        known with another size or list. What is *protected* (for good), or smaller than a segment, goes last while all that
        is takes up no more than a quarter of the limit."""
        cdef bytes digest = digest_of(sha256)
        cdef Blob own, found
        cdef blob_t* b
        cdef bint trusted
        count = (size + CHUNK_BYTES - 1) // CHUNK_BYTES
        if size < 0 or len(chunks) != 32 * count:
            raise ValueError(f"blob {sha256}: expected {count} digests of 32 bytes for {size} bytes, got {len(chunks)} bytes")
        with self.claiming:
            self.check_open()
            with self.known_lock:
                own = self.known.get(sha256)
                if own is not None and (own.b.size != size or own.chunks != chunks):
                    if not self.is_idle(own):
                        raise ValueError(f"blob {sha256}: known as {own.b.size} bytes, got {size} bytes or another chunk list")
                    own = None
                if own is not None:
                    if protected and not own.b.protected:
                        with nogil:
                            cache_protect(self.c, own.b)
                    blob_retain(own.b)               # before reap() may find it idle
                    return blob_wrap(own.b, sha256, own.chunks)
            b = blob_new(size, SEGMENT_BYTES, <const uint8_t*>PyBytes_AS_STRING(digest))
            if b == NULL:
                check(ST_NOMEM, f"blob {sha256}")
            b.registered = 1
            b.protected = protected or size < SEGMENT_BYTES
            own = blob_wrap(b, sha256, chunks)
            if sha256 in self.unclaimed:
                found, found_size, root = self.unclaimed[sha256]
                trusted = found_size == size and root == hashlib.sha256(chunks).hexdigest()
                with nogil:          # not under known_lock: what does not fit is unlinked
                    cache_claim(self.c, found.b, b, trusted)
                if found.b.cached == 0:      # else settle() tries again to unlink what is beyond the blob's end
                    del self.unclaimed[sha256]
            blob_retain(b)
            with self.known_lock:
                self.known[sha256] = own
            return blob_wrap(b, sha256, chunks)

    @property
    def limit_bytes(self) -> int:
        return self.stats()["limit_bytes"]

    @limit_bytes.setter
    def limit_bytes(self, limit_bytes: int) -> None:
        """Evicts down to the new limit; what is being filled or sent goes when room is wanted next."""
        cdef uint64_t limit = checked_limit(limit_bytes)
        self.shrink(0, &limit)

    def evict(self, wanted: int) -> int:
        """Evicts least recently used segments until *wanted* bytes are free again, or nothing can go: for a full disk.
        Returns the bytes freed."""
        before = self.stats()
        self.shrink(wanted, NULL)
        after = self.stats()
        return after["evicted_bytes"] - before["evicted_bytes"]

    def settle_writes(self, double after_s) -> list:
        """Asks the disk whether it has taken what was written, and syncs files last written *after_s* ago or longer. Returns
        (sha256, index, errno) of segments whose bytes it has refused; they have left. May take as long as the disk does."""
        cdef lost_t[LOST] lost
        cdef long gone, i
        self.check_open()
        with nogil:
            gone = cache_settle(self.c, <uint64_t>(after_s * 1e9), lost, LOST)
        if gone < 0:
            check(<int>-gone, f"cache {self.directory}")
        return [(lost[i].digest[:32].hex(), lost[i].index, lost[i].error) for i in range(min(gone, LOST))]

    cdef object shrink(self, uint64_t wanted, const uint64_t* limit):
        cdef fault_t fault
        cdef int status
        self.check_open()
        with nogil:
            status = cache_shrink(self.c, wanted, limit, &fault)
        if status != ST_OK and status != ST_FULL:
            self.fail(status, &fault, 0)

    def begin(self, Blob blob not None, int64_t chunk, int64_t now_ns=0) -> bool:
        """True: the chunk is the caller's, who ends that by store() or abandon(). False: it is here (PRESENT, CLOSED, UNCHECKED), or
        another's.

        Makes and charges the segment, evicting what is in the way. Counts as a use at *now_ns* (monotonic; 0: now).
        Raises CacheFull; OSError naming the file."""
        cdef fault_t fault
        cdef int status
        self.check_mine(blob, chunk)
        with nogil:
            status = cache_begin(self.c, blob.b, <uint64_t>chunk, now_ns or monotonic_ns(), &fault)
        if status == ST_OK or status == ST_AGAIN:
            return status == ST_OK
        if status == ST_FULL:
            now = self.stats()
            raise CacheFull(
                f"cache {self.directory}: no room for chunk {chunk} of blob {blob.sha256}: expected something to evict, "
                f"got {now['segments']} segments all being filled or sent ({now['charged_bytes']} bytes charged, "
                f"{now['condemned_bytes']} condemned, limit {now['limit_bytes']})", ST_FULL)
        base = chunk // SEGMENT_CHUNKS * SEGMENT_BYTES
        self.fail(status, &fault, min(SEGMENT_BYTES, blob.b.size - base))

    def store(self, Blob blob not None, int64_t chunk, data) -> None:
        """Checks *data* (a whole chunk) against the chunk list, writes it, makes it PRESENT. Ends the claim of begin()
        whatever happens. Raises DigestMismatch; OSError naming the file; ValueError without a claim."""
        cdef const uint8_t* expected
        cdef uint8_t got[32]
        cdef Py_buffer view
        cdef segment_t* seg
        cdef fault_t fault
        cdef int status
        cdef int within = <int>(chunk % SEGMENT_CHUNKS)
        cdef int64_t wanted
        self.check_mine(blob, chunk)
        wanted = min(CHUNK_BYTES, blob.b.size - chunk * CHUNK_BYTES)
        expected = <const uint8_t*>PyBytes_AS_STRING(<bytes>blob.chunks) + 32 * chunk
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                seg = cache_claimed(self.c, blob.b, <uint64_t>chunk)
            if seg == NULL:
                self.check_open()
                raise ValueError(f"blob {blob.sha256} chunk {chunk}: expected begin() before store()")
            memcpy(fault.digest, blob.b.digest, 32)
            fault.index = seg.index
            if view.len != wanted:
                with nogil:
                    cache_end(self.c, seg, within, ST_MISMATCH, 0, &fault)
                raise DigestMismatch(f"blob {blob.sha256} chunk {chunk}: expected {wanted} bytes, got {view.len} bytes",
                                     ST_MISMATCH)
            with nogil:
                status = cache_fill(self.c, seg, within, <const uint8_t*>view.buf, <size_t>view.len, expected, got, &fault)
        finally:
            PyBuffer_Release(&view)
        if status == ST_MISMATCH:
            raise DigestMismatch(f"blob {blob.sha256} chunk {chunk}: expected {expected[:32].hex()}, got {got[:32].hex()}",
                                 ST_MISMATCH)
        if status != ST_OK:
            self.fail(status, &fault, wanted)

    def abandon(self, Blob blob not None, int64_t chunk) -> None:
        """Gives a claim back; the chunk is ABSENT again. Does nothing without one, so that it may follow a failed store()
        (by the one who is sure that nobody else has begun the chunk since)."""
        cdef segment_t* seg
        cdef fault_t fault
        cdef int status = ST_OK
        self.check_mine(blob, chunk)
        with nogil:
            seg = cache_claimed(self.c, blob.b, <uint64_t>chunk)
            if seg != NULL:
                status = cache_end(self.c, seg, <int>(chunk % SEGMENT_CHUNKS), ST_AGAIN, 0, &fault)
        if status != ST_OK:
            self.fail(status, &fault, 0)

    def recheck(self, Blob blob not None, int64_t chunk) -> bool:
        """Checks an UNCHECKED chunk against the chunk list; opens the file of a CLOSED one, which nobody has written to since.
        True: it is PRESENT now. False: it was neither (any more).

        Raises DigestMismatch, or OSError when it cannot be read or its file is another one: its segment is gone, or goes with
        the fills in it. But with no descriptor left (EMFILE, ENFILE, ENOMEM) it stays as it is."""
        cdef const uint8_t* expected
        cdef uint8_t got[32]
        cdef fault_t fault
        cdef int status
        self.check_mine(blob, chunk)
        expected = <const uint8_t*>PyBytes_AS_STRING(<bytes>blob.chunks) + 32 * chunk
        with nogil:
            status = cache_recheck(self.c, blob.b, <uint64_t>chunk, expected, got, &fault)
        if status == ST_MISMATCH:
            raise DigestMismatch(f"blob {blob.sha256} chunk {chunk}: expected {expected[:32].hex()}, got {got[:32].hex()}",
                                 ST_MISMATCH)
        if status != ST_OK and status != ST_AGAIN:
            self.fail(-fault.error if status == ST_GONE else status, &fault, 0)
        return status == ST_OK

    def discard(self, Blob blob not None, int64_t chunk) -> bool:
        """The bytes of a PRESENT or CLOSED chunk are wrong on the disk, or cannot be read: its segment leaves, with its other chunks.
        False: it is neither (any more). Raises OSError when the file cannot be removed; it is sent to nobody all the same."""
        cdef fault_t fault
        cdef int status
        self.check_mine(blob, chunk)
        with nogil:
            status = cache_discard(self.c, blob.b, <uint64_t>chunk, &fault)
        if status != ST_OK and status != ST_AGAIN:
            self.fail(status, &fault, 0)
        return status == ST_OK

    def segments(self) -> list:
        """(sha256, index, one chunk_state_t for each chunk, bytes of the file) of each segment; about the oldest first."""
        self.check_open()
        return segments_of(self.c)

    def leavers(self) -> list:
        """(sha256, bytes, segments) of what would leave if something new were fetched, in this order, before the new itself
        would: an estimate (lru_forecast). A closed cache has none."""
        return leavers_of(self.c)

    def settle(self, known) -> int:
        """Removes what an earlier run left of digests that are not in *known* and that blob() was not asked for. Returns the
        bytes. Call it when every digest that is wanted has been asked for; what cannot be removed is tried the next time."""
        cdef uint64_t dropped = 0
        cdef fault_t fault
        cdef int status
        cdef Blob found
        for sha256 in list(self.unclaimed):
            if sha256 in known:
                continue
            with self.claiming:
                self.check_open()
                if sha256 not in self.unclaimed:
                    continue
                found = self.unclaimed[sha256][0]
                with nogil:
                    status = cache_drop(self.c, found.b, &dropped, &fault)
                if status == ST_OK:
                    del self.unclaimed[sha256]
        return dropped

    def drop(self, Blob blob not None) -> int:
        """Removes the blob's segments; returns the bytes. One that is being filled goes when its fills have ended, unless
        another chunk of it is begun before."""
        cdef uint64_t dropped = 0
        cdef fault_t fault
        cdef int status
        self.check_mine(blob, -1)
        with nogil:
            status = cache_drop(self.c, blob.b, &dropped, &fault)
        if status != ST_OK:
            self.fail(status, &fault, 0)
        return dropped

    def reap(self) -> int:
        """Closes what was let go of (as blob.reap) and files beyond the open limit, and forgets blobs nobody has; returns the
        segments closed by the former."""
        cdef int64_t closed
        cdef Blob own
        with nogil:
            open_trim(self.c)
            closed = blob_reap()
        with self.known_lock:
            for sha256 in [name for name, own in self.known.items() if self.is_idle(own)]:
                del self.known[sha256]
        return closed

    def evictions(self) -> list:
        """What left last, as Evictions: the newest last, at most 64."""
        return evictions_of(self.c)

    def stats(self) -> dict:
        """Numbers that belong together, by name: bytes and segments now, all others since start."""
        return stats_of(self.c)

    cdef bint is_idle(self, Blob own):
        cdef bint idle
        with nogil:                  # a lock is waited for
            idle = cache_is_idle(self.c, own.b)
        return idle

    cdef object check_open(self):
        if self.c == NULL or bp_load_u8(&self.c.closed):
            raise ValueError(f"cache {self.directory}: is closed")

    cdef object check_mine(self, Blob blob, int64_t chunk):
        # -1: no chunk is meant
        self.check_open()
        own = self.known.get(blob.sha256)
        if own is None or (<Blob>own).b != blob.b:
            raise ValueError(f"blob {blob.sha256}: expected a blob of the cache {self.directory}, got another's")
        count = (blob.b.size + CHUNK_BYTES - 1) // CHUNK_BYTES
        if chunk < -1 or chunk >= count:
            raise ValueError(f"blob {blob.sha256}: expected a chunk below {count}, got {chunk}")

    cdef object fail(self, int status, fault_t* fault, int64_t needed):
        # The exception of a status; for an errno with the path, what was wanted, and the reason.
        if status == ST_CLOSED:      # meanwhile
            self.check_open()
        if status >= 0:
            check(status, f"cache {self.directory}")
        path = pathlib.Path(self.directory, f"{fault.digest[:32].hex()}.d", str(fault.index))
        room = f" ({needed} bytes needed)" if needed else ""
        raise OSError(-status, f"{path}: {fault.what.decode()}{room}: {os.strerror(-status)}")


cdef uint64_t checked_limit(object limit_bytes) except? 0:
    if limit_bytes < 0:
        raise ValueError(f"cache limit: expected 0 bytes or more, got {limit_bytes}")
    return limit_bytes
