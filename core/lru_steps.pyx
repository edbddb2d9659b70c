"""The machine of the cache: what a segment on disk goes through, and who moves it. No Python object, no policy of its own.

Idea: one file per segment, made at its length, filled by whole verified chunks, evicted by unlink. A file that is never
punched, truncated or rewritten cannot change under a socket that still owes its pages, so a sender's reference covers the
descriptor and nothing else.

Invariants
 - charged + condemned <= limit after every cache_begin: a segment is charged whole before its first byte is written, and an
   unlinked one counts until its descriptor is closed. (A limit shrunk below what is held: once that is let go.)
 - A chunk is PRESENT only after its digest matched and pwrite took its whole length. FILLING belongs to one caller, from
   begin to store or abandon, and keeps its segment in the slot for that long.
 - A segment whose unlink failed is still in the cache and still charged.
 - A slot of a cached blob is changed under cache_t.lock only. segment_t.blob is valid while the segment is in the slot,
   because the cache's register holds the blob while blob_t.cached > 0.

    segment     where it is                     counted in   moves on, by [I/O, without the lock]
    MAKING      busy list                       charged      begin [mkdir, open, ftruncate, mmap]: CACHED, or nothing
    CACHED      slot and policy                 charged      evict, drop, end of a fill that left nothing: LEAVING
    LEAVING     slot and busy list              charged      [unlink, rmdir]: CONDEMNED; failed: CACHED
    CONDEMNED   senders' hands, the graveyard   condemned    last release, blob_reap [munmap, close]: nothing

    chunk of a CACHED segment:  ABSENT --begin--> FILLING --store--> PRESENT
                                   ^---store failed, abandon---|
                                UNCHECKED --recheck--> FILLING --digest right--> PRESENT
                                                          '------wrong: ABSENT, and the segment is ROTTEN
                                PRESENT --its file is closed--> CLOSED --opened again--> PRESENT      (lru_open)

 - An UNCHECKED chunk (of an earlier run's file) is not written over: sockets of that run may still owe its pages. A ROTTEN
   segment takes no new claim, and leaves as soon as its fills have ended; who wants a chunk of it waits for that.
 - Files nobody has claimed yet are CACHED segments of a blob_t that only the cache knows: charged, and evicted in order.

While (blob, index) is in the busy list its name on the disk belongs to one thread: begin and drop of it wait for `changed`.
Senders see none of this: they find the segment until its slot is empty, and keep it until they let go.

Locks, in this order: Cache.claiming, Cache.known_lock, blob's reap_lock, cache_t.lock, blob's pool_lock. So blob_reap() is
never called under cache_t.lock: it calls segment_closed, which takes it. No thread waits for `changed` while it is in the
busy list.

Left to others: what is evicted first (lru_policy), what left and why (lru_evictions, lru_ghost), which files are open
(lru_open), doubted chunks (lru_recheck), segments of an earlier run (lru_kept), files (segment_file), exceptions (lru),
fetching again (dataplane.fill).
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from bootplane.core.linux cimport (
    bp_add_int, bp_load_int, bp_load_ptr, bp_load_u8, bp_relaxed_u64, bp_store_ptr, bp_store_relaxed_u64, bp_store_u8,
    close, monotonic_ns, off_t, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from bootplane.core.lru_busy cimport busy_mark, busy_unmark, cache_wait, is_busy
from bootplane.core.lru_evictions cimport REASON_DISK, REASON_LIMIT, REASON_ROOM, evictions_add, evictions_t
from bootplane.core.lru_ghost cimport ghost_put, ghost_take, ghosts_free, ghosts_init
from bootplane.core.lru_open cimport is_shortage, open_list, open_room, open_spare, open_unlist, segment_open
from bootplane.core.lru_order cimport has_state
from bootplane.core.lru_policy cimport (
    CLASSES, policy_add, policy_has_proven, policy_pick, policy_protect, policy_put_back, policy_remove,
)
from bootplane.core.segment_file cimport file_make, file_unlink, file_write
from bootplane.core.segments cimport (
    CHUNK_ABSENT, CHUNK_BYTES, CHUNK_FILLING, CHUNK_PRESENT, SEGMENT_BYTES, SEGMENT_CHUNKS, blob_reap, blob_t,
    segment_acquire, segment_new, segment_release, segment_t,
)
from bootplane.core.sha256 cimport sha256_once
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_FULL, ST_GONE, ST_MISMATCH, ST_NOMEM, ST_OK

cdef extern from "<pthread.h>" nogil:
    int pthread_cond_init(pthread_cond_t* cond, void* attr)
    int pthread_cond_destroy(pthread_cond_t* cond)
    int pthread_cond_broadcast(pthread_cond_t* cond)

cdef enum:
    BLOCK = 4096                     # what a file system hands out; charges are rounded up to it

cdef int alive                       # cache_t made and not yet freed, for leak tests


cdef uint64_t charge_of(off_t length) noexcept nogil:
    return (<uint64_t>length + BLOCK - 1) // BLOCK * BLOCK


# ---- the cache; cache_t.lock held unless said otherwise

cdef cache_t* cache_new(int dirfd, uint64_t limit, uint64_t reuse_ns) noexcept nogil:
    cdef cache_t* c = <cache_t*>calloc(1, sizeof(cache_t))
    if c == NULL:
        return NULL
    if not ghosts_init(&c.ghosts):
        free(c)
        return NULL
    pthread_mutex_init(&c.lock, NULL)
    pthread_cond_init(&c.changed, NULL)
    c.refs = 1
    c.limit = limit
    c.policy.reuse_ns = reuse_ns
    c.dirfd = dirfd
    bp_add_int(&alive, 1)
    return c


cdef int caches_alive() noexcept nogil:
    return bp_load_int(&alive)


cdef void cache_put(cache_t* c) noexcept nogil:              # lock not held
    if bp_add_int(&c.refs, -1) != 0:
        return
    pthread_cond_destroy(&c.changed)
    pthread_mutex_destroy(&c.lock)
    ghosts_free(&c.ghosts)
    free(c)
    bp_add_int(&alive, -1)


cdef void segment_closed(segment_t* seg) noexcept nogil:     # on_closed; lock not held; seg.blob may be gone
    cdef cache_t* c = <cache_t*>seg.cache
    pthread_mutex_lock(&c.lock)
    c.condemned -= seg.charge
    c.open_files -= seg.fd >= 0
    pthread_mutex_unlock(&c.lock)
    cache_put(c)


cdef void take_out(cache_t* c, segment_t* seg) noexcept nogil:
    # Out of its slot; off the list already. Buried under the lock: whoever sees it condemned can reap it.
    cdef blob_t* blob = seg.blob
    open_unlist(c, seg)
    bp_store_ptr(&blob.segs[seg.index], NULL)
    blob.cached -= 1
    c.segments -= 1
    c.charged -= seg.charge
    c.condemned += seg.charge
    segment_release(seg)


cdef int cache_remove(cache_t* c, segment_t* seg, int reason, blob_t* wanted_by, fault_t* fault) noexcept nogil:
    # Unlinks and takes out a segment without FILLING chunk. Lets go of the lock meanwhile. ST_OK or -errno.
    cdef busy_t mark
    cdef blob_t* blob = seg.blob
    cdef bint last = blob.cached == 1
    cdef int64_t idle_ns = monotonic_ns() - <int64_t>bp_relaxed_u64(&seg.stamp)
    cdef int status
    policy_remove(&c.policy, seg)
    open_unlist(c, seg)
    busy_mark(c, &mark, blob, seg.index)
    pthread_mutex_unlock(&c.lock)
    status = file_unlink(c.dirfd, blob.digest, seg.index, last)
    pthread_mutex_lock(&c.lock)
    busy_unmark(c, &mark)
    if status != ST_OK:              # still here, still charged; others are tried before it next time
        fault.what = b"file cannot be unlinked"
        memcpy(fault.digest, blob.digest, 32)
        fault.index = seg.index
        seg.lru_stamp = <uint64_t>monotonic_ns()
        bp_store_relaxed_u64(&seg.stamp, seg.lru_stamp)
        policy_put_back(&c.policy, seg)
        if seg.fd >= 0:
            open_list(c, seg)
        return status
    evictions_add(&c.evictions, blob.digest, reason, seg.charge, idle_ns if idle_ns > 0 else 0,
                  NULL if wanted_by == NULL else wanted_by.digest)
    take_out(c, seg)
    return ST_OK


cdef int cache_evict(cache_t* c, int reason, blob_t* wanted_by, uint64_t wanted, fault_t* fault) noexcept nogil:
    # One step towards room: *wanted* bytes of it for a segment of *wanted_by*, or for nobody (NULL, 0). Lets go of the lock.
    # ST_OK: look again. ST_FULL, ST_CLOSED or -errno. While more is held than the limit allows, the limit was lowered, and
    # what goes goes for that, whoever is first to evict it: then *reason* is another.
    cdef uint64_t condemned = c.condemned, charge, filled
    cdef uint32_t index
    cdef uint8_t digest[32]
    cdef segment_t* victim
    cdef int status
    if condemned > 0:
        pthread_mutex_unlock(&c.lock)
        blob_reap()
        pthread_mutex_lock(&c.lock)
        if c.condemned < condemned:
            return ST_OK
    if c.closed:
        return ST_CLOSED
    victim = policy_pick(&c.policy, c.limit, wanted if wanted_by != NULL and wanted_by.protected else 0)
    if victim == NULL:
        if c.busy == NULL:
            return ST_FULL
        cache_wait(c)                  # somebody else's eviction may be the room we need
        return ST_OK
    charge, filled, index = victim.charge, victim.lru_filled, victim.index
    memcpy(digest, victim.blob.digest, 32)
    if c.charged + c.condemned > c.limit:
        reason, wanted_by = REASON_LIMIT, NULL
    status = cache_remove(c, victim, reason, wanted_by, fault)
    if status == ST_OK:
        c.evicted_segments[reason] += 1
        c.evicted_bytes += charge
        if reason == REASON_ROOM:
            ghost_put(&c.ghosts, digest, index, charge, filled)
    return status


cdef bint was_here_lately(cache_t* c, segment_t* seg) noexcept nogil:
    # Counts a new segment as what larger caches would have had. True: it is wanted again, and has proven it (lru_policy).
    cdef uint64_t bytes, filled
    c.made_segments += 1
    if not ghost_take(&c.ghosts, seg.blob.digest, seg.index, &bytes, &filled) or bytes > 3 * c.limit:
        return False
    c.ghost_quadruple_segments += 1
    if bytes > c.limit:
        return False
    c.ghost_double_segments += 1
    return policy_has_proven(&c.policy, seg, bytes, filled)


cdef int cache_begin(cache_t* c, blob_t* blob, uint64_t chunk, int64_t now_ns, fault_t* fault) noexcept nogil:
    # ST_OK: the chunk is the caller's. ST_AGAIN: it is here, or somebody else's. ST_FULL, ST_CLOSED, ST_NOMEM or -errno. Lock
    # not held.
    cdef int status = begin_once(c, blob, chunk, now_ns, fault)
    cdef bint has_spare = True
    while is_shortage(status) and has_spare:     # of descriptors or mappings, which are the whole process's
        pthread_mutex_lock(&c.lock)
        has_spare = open_spare(c)
        pthread_mutex_unlock(&c.lock)
        if has_spare:
            status = begin_once(c, blob, chunk, now_ns, fault)
    return status


cdef int begin_once(cache_t* c, blob_t* blob, uint64_t chunk, int64_t now_ns, fault_t* fault) noexcept nogil:
    cdef uint32_t index = <uint32_t>(chunk // SEGMENT_CHUNKS)
    cdef int within = <int>(chunk % SEGMENT_CHUNKS)
    cdef off_t base = <off_t>index * SEGMENT_BYTES
    cdef off_t length = SEGMENT_BYTES if blob.size - base > SEGMENT_BYTES else blob.size - base
    cdef uint64_t charge = charge_of(length)
    cdef segment_t* seg = NULL
    cdef busy_t mark
    cdef uint8_t state
    cdef bint tried = False
    cdef int status = ST_OK, fd
    pthread_mutex_lock(&c.lock)
    while status == ST_OK:
        if c.closed:
            status = ST_CLOSED
        elif is_busy(c, blob, index):
            cache_wait(c)
        elif bp_load_ptr(&blob.segs[index]) != NULL:
            seg = blob.segs[index]
            if seg.doomed == ROTTEN:
                if has_state(seg, CHUNK_FILLING):
                    cache_wait(c)       # its last fill removes it
                else:
                    status = cache_remove(c, seg, ROTTEN, NULL, fault)    # could not be removed before
                continue
            state = bp_load_u8(&seg.state[within])
            if state != CHUNK_ABSENT:
                status = ST_AGAIN
            elif seg.fd < 0:
                status = segment_open(c, seg, &tried, fault)
                if status == ST_GONE:
                    status = ST_OK   # and ROTTEN now
                continue
            else:
                bp_store_u8(&seg.state[within], CHUNK_FILLING)
                bp_store_relaxed_u64(&seg.lru_filled, <uint64_t>now_ns)      # Blob.reached reads it without the lock
                bp_store_relaxed_u64(&seg.stamp, <uint64_t>now_ns)
                seg.doomed = 0       # somebody wants it after all
                seg.synced = 0
            pthread_mutex_unlock(&c.lock)
            return status
        elif c.charged + c.condemned + charge <= c.limit:
            if open_room(c, &tried):
                break
        elif charge > c.limit:
            status = ST_FULL
        else:
            status = cache_evict(c, REASON_ROOM, blob, charge, fault)
    if status != ST_OK:
        pthread_mutex_unlock(&c.lock)
        return status
    c.charged += charge              # the reservation: before anything is on the disk
    c.open_files += 1
    busy_mark(c, &mark, blob, index)
    pthread_mutex_unlock(&c.lock)

    memcpy(fault.digest, blob.digest, 32)
    fault.index = index
    fd = file_make(c.dirfd, blob.digest, index, length, &fault.what)
    if fd < 0:
        status = fd
    else:
        fault.what = b"file cannot be mapped"
        seg = segment_new(blob, index, fd, base, length)
        if seg == NULL:
            status = -errno if errno else ST_NOMEM
            close(fd)
    if status != ST_OK:
        file_unlink(c.dirfd, blob.digest, index, True)

    pthread_mutex_lock(&c.lock)
    busy_unmark(c, &mark)
    if status != ST_OK:
        c.charged -= charge
        c.open_files -= 1
        pthread_mutex_unlock(&c.lock)
        return status
    seg.charge = charge
    seg.cache = c
    seg.on_closed = segment_closed
    bp_add_int(&c.refs, 1)           # given back in segment_closed
    seg.state[within] = CHUNK_FILLING
    seg.stamp = seg.lru_stamp = seg.lru_filled = <uint64_t>now_ns
    policy_add(&c.policy, seg, was_here_lately(c, seg))
    open_list(c, seg)
    c.segments += 1
    blob.cached += 1
    bp_store_ptr(&blob.segs[index], seg)
    pthread_mutex_unlock(&c.lock)
    return ST_OK


cdef segment_t* cache_claimed(cache_t* c, blob_t* blob, uint64_t chunk) noexcept nogil:          # lock not held
    # The segment of a FILLING chunk with a reference for the caller, or NULL.
    cdef segment_t* seg
    pthread_mutex_lock(&c.lock)
    seg = NULL if c.closed else segment_acquire(blob, <uint32_t>(chunk // SEGMENT_CHUNKS))
    if seg != NULL and bp_load_u8(&seg.state[chunk % SEGMENT_CHUNKS]) != CHUNK_FILLING:
        segment_release(seg)
        seg = NULL
    pthread_mutex_unlock(&c.lock)
    return seg


cdef bint has_content(segment_t* seg) noexcept nogil:
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        if bp_load_u8(&seg.state[i]) != CHUNK_ABSENT:
            return True
    return False


cdef int cache_end(cache_t* c, segment_t* seg, int within, int outcome, size_t n, fault_t* fault) noexcept nogil:
    # Ends a claim: PRESENT when *outcome* is ST_OK, else ABSENT. Drops the caller's reference. Lock not held.
    # A segment in which nothing is left, or that drop() could not take because of the fill, goes. ST_OK or -errno.
    cdef int status = ST_OK
    cdef bint removed = False
    pthread_mutex_lock(&c.lock)
    if outcome == ST_OK:
        bp_store_u8(&seg.state[within], CHUNK_PRESENT)
        seg.settled = 0              # the disk has to take it yet (lru_settle)
        c.filled_bytes += n
    else:
        bp_store_u8(&seg.state[within], CHUNK_ABSENT)
        c.refused_chunks += outcome == ST_MISMATCH
    if not c.closed and not has_state(seg, CHUNK_FILLING) and (seg.doomed or not has_content(seg)):
        status = cache_remove(c, seg, seg.doomed, NULL, fault)
        removed = True
    segment_release(seg)
    pthread_mutex_unlock(&c.lock)
    if removed:
        blob_reap()
    return status


cdef int cache_fill(cache_t* c, segment_t* seg, int within, const uint8_t* data, size_t n, const uint8_t* expected,
                    uint8_t* got, fault_t* fault) noexcept nogil:
    cdef int status = sha256_once(data, n, got), ended
    if status == ST_OK and memcmp(got, expected, 32) != 0:
        status = ST_MISMATCH
    if status == ST_OK:
        fault.what = b"file cannot be written"
        status = file_write(seg.fd, data, n, <off_t>within * CHUNK_BYTES)
    ended = cache_end(c, seg, within, status, n, fault)
    return status if status != ST_OK else ended


cdef int cache_drop(cache_t* c, blob_t* blob, uint64_t* dropped, fault_t* fault) noexcept nogil:       # lock not held
    cdef segment_t* seg
    cdef uint64_t charge
    cdef uint32_t i
    cdef int status = ST_OK
    pthread_mutex_lock(&c.lock)
    for i in range(blob.nsegs):
        while is_busy(c, blob, i):
            cache_wait(c)
        if c.closed:
            break
        seg = blob.segs[i]
        if seg == NULL:
            continue
        if has_state(seg, CHUNK_FILLING):
            if seg.doomed != ROTTEN:
                seg.doomed = DROPPED                             # cache_end removes it, unless begin() wants it again
            continue
        charge = seg.charge
        status = cache_remove(c, seg, DROPPED, NULL, fault)
        if status != ST_OK:
            break
        dropped[0] += charge
    pthread_mutex_unlock(&c.lock)
    blob_reap()
    return status


cdef int cache_shrink(cache_t* c, uint64_t wanted, const uint64_t* limit, fault_t* fault) noexcept nogil:
    # Evicts until *wanted* bytes are free again, and down to *limit* when there is a new one (else NULL). Lock not held.
    # ST_FULL: the rest is held.
    cdef uint64_t target
    cdef int status = ST_OK
    pthread_mutex_lock(&c.lock)
    if limit != NULL:
        c.limit = limit[0]
    target = c.charged + c.condemned
    target = target - wanted if target > wanted else 0
    if target > c.limit:
        target = c.limit
    while status == ST_OK and c.charged + c.condemned > target:
        status = cache_evict(c, REASON_DISK, NULL, 0, fault)
    pthread_mutex_unlock(&c.lock)
    return status


cdef void cache_stop(cache_t* c) noexcept nogil:             # lock not held
    pthread_mutex_lock(&c.lock)
    bp_store_u8(&c.closed, 1)
    pthread_cond_broadcast(&c.changed)
    while c.busy != NULL:
        cache_wait(c)
    pthread_mutex_unlock(&c.lock)


cdef void cache_close(cache_t* c) noexcept nogil:            # lock not held
    cdef segment_t* seg
    cdef int i
    cache_stop(c)
    pthread_mutex_lock(&c.lock)
    for i in range(CLASSES):
        while c.policy.orders[i].oldest != NULL:
            seg = c.policy.orders[i].oldest
            policy_remove(&c.policy, seg)
            take_out(c, seg)
    if c.dirfd >= 0:
        close(c.dirfd)
        c.dirfd = -1
    pthread_mutex_unlock(&c.lock)
    blob_reap()


cdef void cache_protect(cache_t* c, blob_t* blob) noexcept nogil:      # lock not held
    cdef segment_t* seg
    cdef uint32_t i
    pthread_mutex_lock(&c.lock)
    blob.protected = 1
    for i in range(blob.nsegs):
        seg = blob.segs[i]
        if seg != NULL:
            policy_protect(&c.policy, seg)
    pthread_mutex_unlock(&c.lock)


cdef bint cache_is_idle(cache_t* c, blob_t* blob) noexcept nogil:      # lock not held
    # Nobody has the blob but the cache's register, and it has no segment: it can be forgotten. No new reference can come
    # up meanwhile: the caller holds known_lock, and Cache.blob() is the only road from the register to one.
    cdef bint idle
    pthread_mutex_lock(&c.lock)
    idle = blob.cached == 0 and bp_load_int(&blob.refs) == 1
    pthread_mutex_unlock(&c.lock)
    return idle


cdef void cache_look(cache_t* c, cache_t* out) noexcept nogil:   # lock not held; for numbers that belong together
    pthread_mutex_lock(&c.lock)
    out.limit = c.limit
    out.charged = c.charged
    out.condemned = c.condemned
    out.segments = c.segments
    out.evicted_segments = c.evicted_segments
    out.made_segments = c.made_segments
    out.ghost_double_segments = c.ghost_double_segments
    out.ghost_quadruple_segments = c.ghost_quadruple_segments
    out.policy = c.policy        # for its numbers: the segments are the cache's
    out.evicted_bytes = c.evicted_bytes
    out.filled_bytes = c.filled_bytes
    out.misfit_segments = c.misfit_segments
    out.refused_chunks = c.refused_chunks
    out.kept_segments = c.kept_segments
    out.rechecked_chunks = c.rechecked_chunks
    out.rotten_chunks = c.rotten_chunks
    out.open_segments = c.open_segments
    out.reopened_segments = c.reopened_segments
    pthread_mutex_unlock(&c.lock)


cdef void cache_evictions(cache_t* c, evictions_t* out) noexcept nogil:          # lock not held
    pthread_mutex_lock(&c.lock)
    out[0] = c.evictions
    pthread_mutex_unlock(&c.lock)
