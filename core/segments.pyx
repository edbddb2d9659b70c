"""Blob, segment, chunk: immutable verified bytes, and which of them a sender may have.

Idea: a blob is an array of slots; a slot holds one reference on a segment (a file descriptor with its mapping); a
reference keeps the descriptor open, a chunk state says which bytes behind it are verified. Senders take a reference
without a lock, look at the state, send, let go. Nothing is closed where it was let go: the last reference buries the
segment, and reap() closes it on a thread that may wait.

Invariant: a descriptor is closed only when its count is 0, and a count of 0 is never raised again while the segment is
buried. A closed and re-used descriptor number would send another file's bytes, so the count is not optional.

Left to others: filling and evicting segments (lru), names (table), bytes on sockets (the senders), Python (blob).

Why the pool is safe (the ABA question). A reader does: (1) S = slot; (2) raise S.refs unless it is 0; (3) slot == S?
Between 1 and 2 S may have been taken out of the slot, released, reaped and used again for another file.
 - Step 2 always meets a live counter, because segment_t memory is never given back (slabs, no free).
 - S.refs 0: the slot's own reference is gone, and a slot is changed before its reference is dropped; the acquire load
   of that 0 therefore makes the next load of the slot show the change. The reader starts again. Nobody but segment_new
   writes a count that is 0, so its plain 0 -> 1 cannot lose a reader's addition.
 - S in use again elsewhere: the reader now holds a true reference on the new user's segment, sees in step 3 that its
   slot holds something else, and drops it. Until then the new user sees one reference too many: its evictor may take
   the segment for pinned (it tries another), and the reader may turn out to be the last one and bury it: both are
   ordinary.
 - S in use again in the same slot: step 3 passes, rightly. The slot was published (release) after segment_new had
   written every field, and step 3 is an acquire load: the fields the reader sees are those of the new file.
No field but refs is read before step 3. The graveyards are Treiber stacks that are only pushed to and emptied whole by
an exchange: no pop, so no ABA there. The pool is popped, and has a mutex: only threads that may wait use it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from bootplane.core.base64 cimport put_base64
from bootplane.core.linux cimport (
    MAP_FAILED, MAP_SHARED, PROT_READ, bp_add_int, bp_add_u64, bp_cas_ptr, bp_load_int, bp_load_ptr, bp_load_u8,
    bp_store_int, bp_store_relaxed_u64, bp_swap_ptr, close, mmap, munmap, off_t, pthread_mutex_init, pthread_mutex_lock,
    pthread_mutex_t, pthread_mutex_unlock,
)
from bootplane.core.status cimport ST_ABSENT, ST_BAD, ST_OK

cdef extern from * nogil:
    """
    #ifdef BOOTPLANE_DEBUG           /* debug builds make the windows of segment_acquire wide enough for tests to hit */
    #include <sched.h>
    #define bp_widen() ((void)sched_yield())
    #else
    #define bp_widen() ((void)0)
    #endif
    /* Raise a count, then look: whoever stores to the slot, has a full barrier and reads the count (lru_open) sees the
       one, or we see the other. On x86-64 the same instructions as acquire and release. */
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
    put_base64(blob.digest_base64, digest, 32)
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


cdef void segment_counts(int* segments, int* blobs, int* graveyard) noexcept nogil:
    segments[0] = bp_load_int(&segments_open)
    blobs[0] = bp_load_int(&blobs_alive)
    graveyard[0] = bp_load_int(&buried)
