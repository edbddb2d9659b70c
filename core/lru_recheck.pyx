"""Bytes of the cache that are doubted: hashed where they lie, and sent out of the cache when they are wrong.

Idea: a chunk is doubted when it comes from an earlier run (UNCHECKED), or when somebody has found its bytes to be not those
of its digest, or unreadable (discard). What is on the disk is never mended in place: a wrong chunk makes its segment ROTTEN,
which leaves by unlink, and the chunk is filled again into a new file.

Left to others: the states and the locks (lru_steps), who doubts (dataplane.fill, dataplane.scrub), fetching again.
"""

from libc.errno cimport EIO, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from bootplane.core.linux cimport (
    EINTR, bp_load_u8, bp_store_relaxed_u64, bp_store_u8, monotonic_ns, off_t, pread, pthread_mutex_lock,
    pthread_mutex_unlock, ssize_t,
)
from bootplane.core.lru_busy cimport cache_wait, is_busy
from bootplane.core.lru_open cimport segment_open
from bootplane.core.lru_order cimport has_state
from bootplane.core.lru_policy cimport CLASSES
from bootplane.core.lru_steps cimport ROTTEN, cache_remove, cache_t, fault_t
from bootplane.core.segments cimport (
    CHUNK_ABSENT, CHUNK_BYTES, CHUNK_CLOSED, CHUNK_FILLING, CHUNK_PRESENT, CHUNK_UNCHECKED, SEGMENT_CHUNKS, blob_reap,
    blob_t, segment_acquire, segment_release, segment_t,
)
from bootplane.core.sha256 cimport sha256_once
from bootplane.core.status cimport ST_AGAIN, ST_GONE, ST_MISMATCH, ST_NOMEM, ST_OK


cdef int chunk_check(segment_t* seg, int within, const uint8_t* expected, uint8_t* got) noexcept nogil:
    # By descriptor and not by the mapping: what the disk cannot give is an error here and not a dead process.
    cdef off_t at = <off_t>within * CHUNK_BYTES
    cdef size_t n = <size_t>(CHUNK_BYTES if seg.length - at > CHUNK_BYTES else seg.length - at), have = 0
    cdef uint8_t* data = <uint8_t*>malloc(n)
    cdef ssize_t took
    cdef int status = ST_OK
    if data == NULL:
        return ST_NOMEM
    while status == ST_OK and have < n:
        took = pread(seg.fd, data + have, n - have, at + <off_t>have)
        if took > 0:
            have += <size_t>took
        elif took == 0:
            status = -EIO            # it was cut
        elif errno != EINTR:
            status = -errno
    if status == ST_OK:
        status = sha256_once(data, n, got)
    free(data)
    if status == ST_OK and memcmp(got, expected, 32) != 0:
        status = ST_MISMATCH
    return status


cdef bint is_present(blob_t* blob, uint32_t index, int within) noexcept nogil:
    return blob.segs[index] != NULL and bp_load_u8(&blob.segs[index].state[within]) == CHUNK_PRESENT


cdef int chunk_open(cache_t* c, blob_t* blob, uint32_t index, int within, bint* was_closed,
                    fault_t* fault) noexcept nogil:                                              # lock held
    # ST_OK: it is UNCHECKED, its file open, and nobody at work on it. ST_AGAIN: it was neither UNCHECKED nor CLOSED, or is
    # no more. ST_GONE: its file was another one; its segment is gone. -errno: no descriptor was left.
    cdef segment_t* seg
    cdef fault_t unlinked
    cdef uint8_t state
    cdef bint tried = False
    cdef int status = ST_OK
    while status == ST_OK:
        while is_busy(c, blob, index):           # being evicted or opened; if that fails, it is here still
            cache_wait(c)
        seg = NULL if c.closed else blob.segs[index]
        if seg == NULL or seg.doomed == ROTTEN:
            return ST_AGAIN
        state = bp_load_u8(&seg.state[within])
        if state != CHUNK_UNCHECKED and state != CHUNK_CLOSED:
            return ST_AGAIN
        if seg.fd >= 0:
            return ST_OK
        was_closed[0] = state == CHUNK_CLOSED
        status = segment_open(c, seg, &tried, fault)
    if status == ST_GONE:
        cache_remove(c, seg, ROTTEN, NULL, &unlinked)            # when that fails, begin() tries it again
    return status


cdef int cache_recheck(cache_t* c, blob_t* blob, uint64_t chunk, const uint8_t* expected, uint8_t* got,
                       fault_t* fault) noexcept nogil:                                           # lock not held
    cdef uint32_t index = <uint32_t>(chunk // SEGMENT_CHUNKS)
    cdef int within = <int>(chunk % SEGMENT_CHUNKS), status
    cdef segment_t* seg
    cdef bint removed = False, was_closed = False
    pthread_mutex_lock(&c.lock)
    status = chunk_open(c, blob, index, within, &was_closed, fault)
    if status != ST_OK:
        if was_closed and status == ST_AGAIN and is_present(blob, index, within):
            status = ST_OK
        pthread_mutex_unlock(&c.lock)
        if status == ST_GONE:
            blob_reap()
        return status
    seg = segment_acquire(blob, index)
    bp_store_u8(&seg.state[within], CHUNK_FILLING)
    pthread_mutex_unlock(&c.lock)
    memcpy(fault.digest, blob.digest, 32)
    fault.index = index
    fault.what = b"file cannot be read"
    status = chunk_check(seg, within, expected, got)
    pthread_mutex_lock(&c.lock)
    if status == ST_OK:
        bp_store_u8(&seg.state[within], CHUNK_PRESENT)
        seg.settled = seg.synced     # an earlier run may have left it to the page cache
        bp_store_relaxed_u64(&seg.stamp, <uint64_t>monotonic_ns())
        c.rechecked_chunks += 1
    elif status == ST_NOMEM:         # nothing is known about the bytes
        bp_store_u8(&seg.state[within], CHUNK_UNCHECKED)
    else:
        bp_store_u8(&seg.state[within], CHUNK_ABSENT)
        seg.doomed = ROTTEN
        c.rotten_chunks += 1
    if not c.closed and seg.doomed and not has_state(seg, CHUNK_FILLING):
        cache_remove(c, seg, seg.doomed, NULL, fault)            # when that fails, begin() tries it again
        removed = True
    segment_release(seg)
    pthread_mutex_unlock(&c.lock)
    if removed:
        blob_reap()
    return status


cdef int cache_discard(cache_t* c, blob_t* blob, uint64_t chunk, fault_t* fault) noexcept nogil:  # lock not held
    cdef uint32_t index = <uint32_t>(chunk // SEGMENT_CHUNKS)
    cdef int within = <int>(chunk % SEGMENT_CHUNKS), status = ST_OK
    cdef segment_t* seg
    cdef uint8_t state
    pthread_mutex_lock(&c.lock)
    while is_busy(c, blob, index):
        cache_wait(c)
    seg = NULL if c.closed else blob.segs[index]
    state = CHUNK_ABSENT if seg == NULL else bp_load_u8(&seg.state[within])
    if state != CHUNK_PRESENT and state != CHUNK_CLOSED:
        pthread_mutex_unlock(&c.lock)
        return ST_AGAIN
    bp_store_u8(&seg.state[within], CHUNK_ABSENT)
    seg.doomed = ROTTEN
    c.rotten_chunks += 1
    if not has_state(seg, CHUNK_FILLING):                        # else its last fill removes it
        status = cache_remove(c, seg, ROTTEN, NULL, fault)       # when that fails, begin() tries it again
    pthread_mutex_unlock(&c.lock)
    blob_reap()
    return status


cdef survey_t* cache_survey(cache_t* c, uint64_t* count) noexcept nogil:                          # lock not held
    cdef survey_t* found
    cdef segment_t* seg
    cdef uint64_t n = 0
    cdef int group, i
    pthread_mutex_lock(&c.lock)
    found = <survey_t*>calloc(c.segments + 1, sizeof(survey_t))
    for group in range(CLASSES):
        seg = c.policy.orders[group].oldest if found != NULL else NULL
        while seg != NULL:
            memcpy(found[n].digest, seg.blob.digest, 32)
            found[n].index = seg.index
            found[n].length = seg.length
            for i in range(SEGMENT_CHUNKS):
                found[n].state[i] = bp_load_u8(&seg.state[i])
            n += 1
            seg = seg.lru_next
    count[0] = n
    pthread_mutex_unlock(&c.lock)
    return found
