"""Blobs for Python: made from a file or from memory, read as a sender would, pinned; the cache makes its own (core.lru).

Left to others: what a blob and its segments are, and who may have them (segments).
"""

import hashlib
import os
import stat

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from bootplane.core.linux cimport (
    EINTR, MAP_FAILED, MAP_PRIVATE, PROT_READ, bp_load_int, bp_load_u8, bp_relaxed_u64, bp_store_ptr, mmap,
    monotonic_ns, munmap, off_t, pread, ssize_t,
)
from bootplane.core.segments cimport (
    CHUNK_BYTES, CHUNK_CLOSED, CHUNK_PRESENT, SEGMENT_CHUNKS, blob_new, blob_reap, blob_release, blob_span, blob_t,
    segment_acquire, segment_counts, segment_new, segment_release, segment_t,
)
from bootplane.core.status cimport ST_ABSENT, ST_NOMEM, ST_OK, ST_TRUNCATED, check

from bootplane.core.status import Truncated

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_WRITE
    enum: MAP_ANONYMOUS
    int mprotect(void* addr, size_t length, int prot)

# ---- over several segments, each as a sender would find it

cdef int blob_copy(blob_t* blob, off_t offset, off_t length, uint8_t* out) noexcept nogil:
    # Reads by descriptor, not by mapping: a file that was cut gives ST_TRUNCATED and not a dead process.
    cdef segment_t* seg
    cdef off_t run
    cdef ssize_t n
    cdef int status
    while length > 0:
        status = blob_span(blob, offset, monotonic_ns(), &seg, &run)
        if status != ST_OK:
            return status
        n = <ssize_t>(run if run < length else length)
        if seg.fd < 0:
            memcpy(out, seg.map + (offset - seg.base), <size_t>n)
        else:
            n = pread(seg.fd, out, <size_t>n, offset - seg.base)
            if n < 0:
                status = -errno
        segment_release(seg)
        if n < 0:
            if status == -EINTR:
                continue
            return status
        if n == 0:
            return ST_TRUNCATED
        out += n
        offset += n
        length -= n
    return ST_OK


cdef int64_t blob_compare(blob_t* blob, const uint8_t* expected, uint64_t seed, int64_t rounds,
                          int64_t* found) noexcept nogil:
    # *rounds* looks at offsets of a xorshift sequence, through the mapping; returns how many runs differed.
    cdef segment_t* seg
    cdef off_t run, offset
    cdef int64_t wrong = 0
    while rounds > 0:
        rounds -= 1
        seed ^= seed << 13
        seed ^= seed >> 7
        seed ^= seed << 17
        offset = <off_t>(seed % <uint64_t>blob.size)
        if blob_span(blob, offset, monotonic_ns(), &seg, &run) != ST_OK:
            continue
        found[0] += 1
        wrong += memcmp(seg.map + (offset - seg.base), expected + offset, <size_t>(run if run < 65536 else 65536)) != 0
        segment_release(seg)
    return wrong


cdef int64_t blob_present(blob_t* blob) noexcept nogil:
    cdef segment_t* seg
    cdef int64_t total = 0
    cdef off_t at
    cdef uint32_t i
    cdef uint8_t state
    cdef int chunk
    for i in range(blob.nsegs):
        seg = segment_acquire(blob, i)
        if seg == NULL:
            continue
        if seg.complete:
            total += seg.length
        else:
            at = 0
            for chunk in range(SEGMENT_CHUNKS):
                state = bp_load_u8(&seg.state[chunk])
                if at < seg.length and (state == CHUNK_PRESENT or state == CHUNK_CLOSED):
                    total += CHUNK_BYTES if seg.length - at > CHUNK_BYTES else seg.length - at
                at += CHUNK_BYTES
        segment_release(seg)
    return total


# ---- Python

cdef bytes digest_of(str sha256):
    if len(sha256) != 64 or sha256.strip("0123456789abcdef"):
        raise ValueError(f"sha256: expected 64 lower-case hex digits, got {sha256!r}")
    return bytes.fromhex(sha256)


cdef Blob blob_wrap(blob_t* b, str sha256, object chunks):
    cdef Blob blob = Blob.__new__(Blob)
    blob.b = b
    blob.sha256 = sha256
    blob.chunks = chunks
    return blob


cdef class Blob:
    """An immutable file by its SHA-256. Two Blobs are equal when they stand for the same blob_t.

    Made by ``Blob.open_file``, ``Blob.memory`` or ``Cache.blob``; the object owns one reference, dropped with it.
    """

    def __init__(self):
        raise TypeError("a Blob is made by Blob.open_file, Blob.memory or Cache.blob")

    def __dealloc__(self):
        if self.b != NULL:
            blob_release(self.b)
            self.b = NULL

    @staticmethod
    def open_file(path: str, str sha256 not None, off_t size):
        """A complete file of *size* bytes, mapped read-only whole. Trusts the caller that *sha256* was verified.

        Raises Truncated when the size on disk differs, OSError when it cannot be opened or mapped."""
        cdef bytes digest = digest_of(sha256)
        cdef blob_t* b
        cdef segment_t* seg
        cdef int fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        cdef int error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Truncated(f"{path}: expected a regular file of {size} bytes, got something else", ST_TRUNCATED)
            if status.st_size != size:
                raise Truncated(f"{path}: expected {size} bytes, got {status.st_size}", ST_TRUNCATED)
            b = blob_new(size, size, <const uint8_t*>PyBytes_AS_STRING(digest))
            if b == NULL:
                check(ST_NOMEM, path)
            blob = blob_wrap(b, sha256, None)
            if size > 0:             # a blob of no bytes has no segment and needs none
                seg = segment_new(b, 0, fd, 0, size)
                if seg == NULL:
                    error = errno
                    check(-error if error else ST_NOMEM, f"{path}: mapping {size} bytes")
                seg.complete = 1
                bp_store_ptr(&b.segs[0], seg)
                fd = -1              # the segment's now
            return blob
        finally:
            if fd >= 0:
                os.close(fd)

    @staticmethod
    def memory(bytes data not None, bint dynamic=True):
        """A copy of *data* in memory of its own; its digest is computed here. For boot configuration and small answers."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
        cdef segment_t* seg
        cdef void* map
        digest = hashlib.sha256(data)
        cdef bytes raw = digest.digest()
        cdef blob_t* b = blob_new(<off_t>size, <off_t>size, <const uint8_t*>PyBytes_AS_STRING(raw))
        if b == NULL:
            check(ST_NOMEM, f"blob of {size} bytes")
        b.dynamic = dynamic
        blob = blob_wrap(b, digest.hexdigest(), None)
        if size == 0:
            return blob
        map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if map == MAP_FAILED:
            check(-errno, f"blob of {size} bytes")
        memcpy(map, PyBytes_AS_STRING(data), size)
        mprotect(map, size, PROT_READ)       # a stray write is a fault here and not a wrong byte on a machine
        seg = segment_new(b, 0, -1, 0, <off_t>size)
        if seg == NULL:
            munmap(map, size)
            check(ST_NOMEM, f"blob of {size} bytes")
        seg.map = <uint8_t*>map
        seg.complete = 1
        bp_store_ptr(&b.segs[0], seg)
        return blob

    @property
    def size(self) -> int:
        return self.b.size

    @property
    def id(self) -> int:
        return self.b.id

    @property
    def dynamic(self) -> bool:
        return self.b.dynamic != 0

    @property
    def references(self) -> int:
        """Who still wants this blob: Blob objects, snapshots and transfers. What a cache keeps for itself is not counted,
        so 1 means that this object is the last."""
        return bp_load_int(&self.b.refs) - self.b.registered

    @property
    def complete(self) -> bool:
        """Every byte is here: see present_bytes(). A blob of no bytes is complete."""
        return self.present_bytes() == self.b.size

    def present_bytes(self) -> int:
        """Verified bytes that are here: a sender may have them now, or (CLOSED) once their file has been opened."""
        cdef int64_t total
        with nogil:
            total = blob_present(self.b)
        return total

    def states(self, int64_t first, int64_t count) -> bytes:
        """One chunk_state_t per chunk, from chunk *first*; stops at the blob's end. Not atomic over several chunks."""
        cdef segment_t* seg
        cdef off_t offset
        cdef int64_t i, chunks = (self.b.size + CHUNK_BYTES - 1) // CHUNK_BYTES
        if first < 0 or count < 0:
            raise ValueError(f"blob {self.sha256}: expected chunks from 0 on, got {first} and a count of {count}")
        cdef bytearray out = bytearray(max(0, min(count, chunks - first)))
        for i in range(len(out)):
            offset = (first + i) * CHUNK_BYTES
            seg = segment_acquire(self.b, <uint32_t>(offset // self.b.seg_bytes))
            if seg != NULL:
                out[i] = CHUNK_PRESENT if seg.complete else bp_load_u8(&seg.state[(offset - seg.base) // CHUNK_BYTES])
                segment_release(seg)
        return bytes(out)

    def reached(self, int64_t first, int64_t end) -> int:
        """How far readers have come in the chunks from *first*, which begins a segment, to before *end*: the first chunk of the
        last segment that was used since its last fill began; -1: none was. Those of an earlier run are not looked at."""
        cdef segment_t* seg
        cdef int64_t index, per_segment = max(1, self.b.seg_bytes // CHUNK_BYTES)
        cdef uint64_t filled
        cdef bint is_used
        if first < 0 or end > self.b.nsegs * per_segment:
            raise ValueError(f"blob {self.sha256}: expected some of its chunks, got {first} to {end}")
        index = (end - 1) // per_segment
        while index * per_segment >= first and index >= 0:
            seg = segment_acquire(self.b, <uint32_t>index)
            if seg != NULL:
                filled = bp_relaxed_u64(&seg.lru_filled)
                is_used = 0 < filled < bp_relaxed_u64(&seg.stamp)
                segment_release(seg)
                if is_used:
                    return index * per_segment
            index -= 1
        return -1

    def read(self, off_t offset, off_t length) -> bytes:
        """*length* bytes from *offset*, as a sender would find them; counts as a use.

        Raises CoreError (ST_ABSENT) when one of them is not here, Truncated when the file was cut."""
        cdef bytes out
        cdef uint8_t* p
        cdef int status
        if offset < 0 or length < 0 or offset + length > self.b.size:
            raise ValueError(
                f"blob {self.sha256}: expected a range within {self.b.size} bytes, got {length} bytes from {offset}")
        out = PyBytes_FromStringAndSize(NULL, length)
        p = <uint8_t*>PyBytes_AS_STRING(out)
        with nogil:
            status = blob_copy(self.b, offset, length, p)
        check(status, f"blob {self.sha256}: {length} bytes from {offset}")
        return out

    def span(self, off_t offset, int64_t now_ns=0) -> int:
        """Bytes that may be sent from *offset* in one call; 0 when the first of them is not here. Counts as a use at
        *now_ns* (monotonic; 0: now)."""
        cdef segment_t* seg
        cdef off_t run
        cdef int status = blob_span(self.b, offset, now_ns or monotonic_ns(), &seg, &run)
        if status == ST_ABSENT:
            return 0
        check(status, f"blob {self.sha256}: offset {offset} of {self.b.size} bytes")
        segment_release(seg)
        return run

    def pin(self, off_t offset, int64_t now_ns=0) -> Pin:
        """A hold on the segment of *offset*, to send from its descriptor; counts as a use, as span() does. CoreError when
        it is absent."""
        cdef Pin pin = Pin.__new__(Pin)
        cdef int status = blob_span(self.b, offset, now_ns or monotonic_ns(), &pin.seg, &pin.length)
        check(status, f"blob {self.sha256}: offset {offset} of {self.b.size} bytes")
        pin.fd = pin.seg.fd
        pin.offset = offset - pin.seg.base
        return pin

    def compare(self, bytes expected not None, int64_t rounds, uint64_t seed) -> tuple:
        """Holds what senders would get against *expected* (the whole blob) at *rounds* pseudo-random offsets, up to
        64 KiB each, without the GIL. Returns (runs found, runs that differed). For checks and stress tests."""
        cdef int64_t found = 0, wrong
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(expected)
        if len(expected) != self.b.size or not expected:
            raise ValueError(f"blob {self.sha256}: expected {self.b.size} bytes to compare with, got {len(expected)}")
        with nogil:
            wrong = blob_compare(self.b, p, seed | 1, rounds, &found)
        return found, wrong

    def __eq__(self, other):
        return isinstance(other, Blob) and (<Blob>other).b == self.b

    def __hash__(self):
        return hash(self.b.id)

    def __repr__(self) -> str:
        return f"<Blob {self.sha256[:16]} id={self.b.id} size={self.b.size}>"


cdef class Pin:
    """One reference on a segment: its descriptor stays open, and it is not evicted, until release(). Use with ``with``."""

    def __dealloc__(self):
        if self.seg != NULL:
            segment_release(self.seg)

    def release(self) -> None:
        """Idempotent."""
        if self.seg != NULL:
            segment_release(self.seg)
            self.seg = NULL
            self.fd = -1
            self.length = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def reap() -> int:
    """Closes and unmaps what was let go of; returns the number of segments closed. May wait for the disk."""
    cdef int64_t closed
    with nogil:
        closed = blob_reap()
    return closed


def counts() -> dict:
    """Segments made and not yet closed, blobs made and not yet freed, and how many of both wait for reap()."""
    cdef int segments, blobs, graveyard
    segment_counts(&segments, &blobs, &graveyard)
    return {"segments": segments, "blobs": blobs, "graveyard": graveyard}
