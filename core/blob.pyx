"""Blob, segment, chunk: immutable verified bytes, and which of them a sender may have.

Idea: a blob is an array of slots; a slot holds one reference on a segment (a file descriptor with its mapping); a
reference keeps the descriptor open, a chunk state says which bytes behind it are verified. Senders take a reference
without a lock, look at the state, send, let go. Nothing is closed where it was let go: the last reference buries the
segment, and reap() closes it on a thread that may wait.

Invariant: a descriptor is closed only when its count is 0, and a count of 0 is never raised again while the segment is
buried. A closed and re-used descriptor number would send another file's bytes, so the count is not optional.

Left to others: filling and evicting segments (lru), names (table), putting bytes on sockets (the senders).

Why the pool is safe (the ABA question). A reader does: (1) S = slot; (2) raise S.refs unless it is 0; (3) slot == S?
Between 1 and 2 S may have been taken out of the slot, released, reaped and used again for another file.
 - Step 2 always meets a live counter, because segment_t memory is never given back (slabs, no free).
 - S.refs 0: the slot's own reference is gone, and a slot is changed before its reference is dropped; the acquire load of
   that 0 therefore makes the next load of the slot show the change. The reader starts again. Nobody but segment_new
   writes a count that is 0, so its plain 0 -> 1 cannot lose a reader's addition.
 - S in use again elsewhere: the reader now holds a true reference on the new user's segment, sees in step 3 that its slot
   holds something else, and drops it. Until then the new user sees one reference too many: its evictor may take the
   segment for pinned (it tries another), and the reader may turn out to be the last one and bury it: both are ordinary.
 - S in use again in the same slot: step 3 passes, rightly. The slot was published (release) after segment_new had written
   every field, and step 3 is an acquire load: the fields the reader sees are those of the new file.
No field but refs is read before step 3. The graveyards are Treiber stacks that are only pushed to and emptied whole by an
exchange: no pop, so no ABA there. The pool is popped, and has a mutex: only threads that may wait use it.
"""

import hashlib
import os
import stat

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from bootplane.core.linux cimport (
    EINTR, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, bp_add_int, bp_add_u64, bp_cas_ptr, bp_load_int,
    bp_load_ptr, bp_load_u8, bp_relaxed_u64, bp_store_int, bp_store_ptr, bp_store_relaxed_u64, bp_swap_ptr, close, mmap,
    monotonic_ns, munmap, off_t, pread, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock,
    ssize_t,
)
from bootplane.core.status cimport ST_ABSENT, ST_BAD, ST_NOMEM, ST_OK, ST_TRUNCATED, check

from bootplane.core.status import Truncated

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_WRITE
    enum: MAP_ANONYMOUS
    int mprotect(void* addr, size_t length, int prot)

cdef extern from * nogil:
    """
    #ifdef BOOTPLANE_DEBUG           /* debug builds make the windows of segment_acquire wide enough for tests to hit */
    #include <sched.h>
    #define bp_widen() ((void)sched_yield())
    #else
    #define bp_widen() ((void)0)
    #endif
    /* Raise a count, then look: whoever stores to the slot, has a full barrier and reads the count (lru_open) sees the one,
       or we see the other. On x86-64 the same instructions as acquire and release. */
    static inline int bp_cas_int_ordered(int* p, int old, int desired) {
        return __atomic_compare_exchange_n(p, &old, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE); }
    #define bp_load_ptr_ordered(p) ((void*)__atomic_load_n((void**)(p), __ATOMIC_SEQ_CST))
    """
    void bp_widen()
    bint bp_cas_int_ordered(int* p, int old, int desired)
    void* bp_load_ptr_ordered(void* p)

cdef enum:
    SLAB = 64                        # segments allocated at a time

cdef segment_t* pool_first           # free segments, linked by next_dead; under pool_lock
cdef pthread_mutex_t pool_lock       # leaf lock: nothing else is taken under it
cdef pthread_mutex_t reap_lock       # one reaper at a time, so that "reap() returned" means "what was buried is closed"
cdef segment_t* dead_segments        # Treiber stack by next_dead, emptied whole
cdef blob_t* dead_blobs              # the same
cdef uint64_t last_id                # of a blob
cdef int segments_open               # counts for leak tests: made and not yet closed
cdef int blobs_alive                 # made and not yet freed
cdef int buried                      # segments and blobs in the graveyards

pthread_mutex_init(&pool_lock, NULL)
pthread_mutex_init(&reap_lock, NULL)


# ---- senders: any thread, no lock, no allocation

cdef segment_t* segment_acquire(blob_t* blob, uint32_t index) noexcept nogil:
    cdef segment_t* seg
    cdef int refs
    while True:
        seg = <segment_t*>bp_load_ptr(&blob.segs[index])
        if seg == NULL:
            return NULL
        bp_widen()
        refs = bp_load_int(&seg.refs)
        if refs == 0 or not bp_cas_int_ordered(&seg.refs, refs, refs + 1):
            continue
        bp_widen()
        if <segment_t*>bp_load_ptr_ordered(&blob.segs[index]) == seg:
            return seg
        segment_release(seg)         # it lives in another slot by now: see the module's opening


cdef void segment_release(segment_t* seg) noexcept nogil:
    cdef void* first
    if bp_add_int(&seg.refs, -1) != 0:
        return
    bp_add_int(&buried, 1)
    while True:
        first = bp_load_ptr(&dead_segments)
        seg.next_dead = <segment_t*>first
        if bp_cas_ptr(<void**>&dead_segments, first, <void*>seg):
            return


cdef int blob_span(blob_t* blob, off_t offset, int64_t now_ns, segment_t** seg, off_t* run) noexcept nogil:
    cdef segment_t* found
    cdef off_t at, end
    cdef int chunk
    if offset < 0 or offset >= blob.size:
        return ST_BAD
    found = segment_acquire(blob, <uint32_t>(offset // blob.seg_bytes))     # before the state: what we saw, we hold
    if found == NULL:
        return ST_ABSENT
    at = offset - found.base
    if found.complete:
        end = found.length
    else:
        end = at
        chunk = <int>(at // CHUNK_BYTES)
        while end < found.length and bp_load_u8(&found.state[chunk]) == CHUNK_PRESENT:
            chunk += 1
            end = <off_t>chunk * CHUNK_BYTES
        if end > found.length:
            end = found.length
        if end <= at:
            segment_release(found)
            return ST_ABSENT
    bp_store_relaxed_u64(&found.stamp, <uint64_t>now_ns)
    seg[0] = found
    run[0] = end - at
    return ST_OK


cdef void blob_retain(blob_t* blob) noexcept nogil:
    bp_add_int(&blob.refs, 1)        # the caller holds one already, so it cannot be 0


cdef void blob_release(blob_t* blob) noexcept nogil:
    cdef void* first
    if bp_add_int(&blob.refs, -1) != 0:
        return
    bp_add_int(&buried, 1)
    while True:
        first = bp_load_ptr(&dead_blobs)
        blob.next_dead = <blob_t*>first
        if bp_cas_ptr(<void**>&dead_blobs, first, <void*>blob):
            return


# ---- makers and reapers: threads that may wait

cdef void pool_put(segment_t* seg) noexcept nogil:             # pool_lock held
    global pool_first
    seg.next_dead = pool_first
    pool_first = seg


cdef segment_t* pool_take() noexcept nogil:
    global pool_first
    cdef segment_t* seg
    cdef int i
    pthread_mutex_lock(&pool_lock)
    if pool_first == NULL:
        seg = <segment_t*>calloc(SLAB, sizeof(segment_t))      # never freed: readers may still look at refs
        if seg != NULL:
            for i in range(SLAB):
                pool_put(&seg[i])
    seg = pool_first
    if seg != NULL:
        pool_first = seg.next_dead
    pthread_mutex_unlock(&pool_lock)
    return seg


cdef segment_t* segment_new(blob_t* blob, uint32_t index, int fd, off_t base, off_t length) noexcept nogil:
    cdef uint8_t* map = NULL
    cdef segment_t* seg
    if fd >= 0 and length > 0:
        map = <uint8_t*>mmap(NULL, <size_t>length, PROT_READ, MAP_SHARED, fd, 0)
        if <void*>map == MAP_FAILED:
            return NULL
    seg = pool_take()
    if seg == NULL:
        if map != NULL:
            munmap(map, <size_t>length)
        return NULL
    seg.fd = fd
    seg.map = map
    seg.base = base
    seg.length = length
    seg.complete = 0
    memset(seg.state, CHUNK_ABSENT, SEGMENT_CHUNKS)
    seg.stamp = 0
    seg.charge = 0
    seg.blob = blob
    seg.index = index
    seg.cache = NULL
    seg.lru_prev = seg.lru_next = NULL
    seg.lru_stamp = seg.lru_filled = 0
    seg.lru_class = 0
    seg.next_dead = NULL
    seg.doomed = 0
    seg.on_closed = NULL
    seg.open_older = seg.open_newer = NULL
    seg.open_stamp = 0
    seg.open_listed = seg.synced = seg.settled = 0
    seg.ctime_ns = 0
    bp_add_int(&segments_open, 1)
    bp_store_int(&seg.refs, 1)       # last: from here on a stale reader may add and drop references
    return seg


cdef blob_t* blob_new(off_t size, off_t seg_bytes, const uint8_t* digest) noexcept nogil:
    cdef blob_t* blob = <blob_t*>calloc(1, sizeof(blob_t))
    cdef const char* digits = b"0123456789abcdef"
    cdef int i
    if blob == NULL:
        return NULL
    blob.refs = 1
    blob.id = bp_add_u64(&last_id, 1)
    blob.size = size
    blob.seg_bytes = seg_bytes if seg_bytes > 0 else 1
    blob.nsegs = <uint32_t>((size + blob.seg_bytes - 1) // blob.seg_bytes)
    blob.segs = <segment_t**>calloc(blob.nsegs if blob.nsegs else 1, sizeof(segment_t*))
    if blob.segs == NULL:
        free(blob)
        return NULL
    memcpy(blob.digest, digest, 32)
    blob.etag[0] = blob.etag[65] = c'"'
    for i in range(32):
        blob.etag[1 + 2 * i] = digits[digest[i] >> 4]
        blob.etag[2 + 2 * i] = digits[digest[i] & 15]
    bp_add_int(&blobs_alive, 1)
    return blob


cdef int64_t blob_reap() noexcept nogil:
    cdef blob_t* blob
    cdef blob_t* next_blob
    cdef segment_t* seg
    cdef segment_t* next_seg
    cdef int64_t closed = 0
    cdef uint32_t i
    pthread_mutex_lock(&reap_lock)
    blob = <blob_t*>bp_swap_ptr(&dead_blobs, NULL)
    while blob != NULL:              # nobody holds the blob, so nobody can find its slots
        next_blob = blob.next_dead
        for i in range(blob.nsegs):
            seg = <segment_t*>bp_swap_ptr(&blob.segs[i], NULL)
            if seg != NULL:
                segment_release(seg)                            # the slot's reference
        free(blob.segs)
        free(blob)
        bp_add_int(&blobs_alive, -1)
        bp_add_int(&buried, -1)
        blob = next_blob
    seg = <segment_t*>bp_swap_ptr(&dead_segments, NULL)
    while seg != NULL:
        next_seg = seg.next_dead
        if seg.map != NULL:
            munmap(seg.map, <size_t>seg.length)
        if seg.fd >= 0:
            close(seg.fd)
        if seg.on_closed != NULL:
            seg.on_closed(seg)
        pthread_mutex_lock(&pool_lock)
        pool_put(seg)
        pthread_mutex_unlock(&pool_lock)
        bp_add_int(&segments_open, -1)
        bp_add_int(&buried, -1)
        closed += 1
        seg = next_seg
    pthread_mutex_unlock(&reap_lock)
    return closed


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
    return {
        "segments": bp_load_int(&segments_open),
        "blobs": bp_load_int(&blobs_alive),
        "graveyard": bp_load_int(&buried),
    }
