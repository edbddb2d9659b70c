"""Segments of an earlier run: taken into the cache at its start, given to the blob they belong to, listed at its end.

Left to others: the files and the record of them (kept_segments), the states and the locks (lru_steps).
"""

from libc.errno cimport ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from bootplane.core.linux cimport (
    bp_add_int, bp_load_u8, bp_relaxed_u64, bp_store_ptr, close, off_t, pthread_mutex_lock, pthread_mutex_unlock,
)
from bootplane.core.lru_busy cimport cache_wait, is_busy
from bootplane.core.lru_evictions cimport REASON_NONE
from bootplane.core.lru_open cimport is_shortage, open_list
from bootplane.core.lru_policy cimport CLASSES, policy_add, policy_is_reused, policy_protect
from bootplane.core.lru_steps cimport ROTTEN, cache_remove, cache_t, charge_of, fault_t, segment_closed
from bootplane.core.segment_file cimport file_has_data, file_open
from bootplane.core.segments cimport (
    CHUNK_ABSENT, CHUNK_BYTES, CHUNK_CLOSED, CHUNK_FILLING, CHUNK_PRESENT, CHUNK_UNCHECKED, SEGMENT_BYTES,
    SEGMENT_CHUNKS, blob_t, segment_new, segment_t,
)
from bootplane.core.status cimport ST_GONE, ST_OK


cdef bint adopt_states(int fd, const uint8_t* states, bint is_untouched, uint8_t* out) noexcept nogil:
    # What the record says, as far as it holds. False: there is nothing in the file.
    cdef bint has_content = False
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        out[i] = states[i]
        if states[i] == CHUNK_PRESENT:
            out[i] = CHUNK_UNCHECKED if not is_untouched else CHUNK_CLOSED if fd < 0 else CHUNK_PRESENT
        elif fd >= 0 and states[i] == CHUNK_UNCHECKED and not file_has_data(fd, <off_t>i * CHUNK_BYTES, CHUNK_BYTES):
            out[i] = CHUNK_ABSENT    # nobody ever wrote there: not wrong
        has_content |= out[i] != CHUNK_ABSENT
    return has_content


cdef int cache_adopt(cache_t* c, blob_t* blob, uint32_t index, off_t length, const uint8_t* states, int64_t ctime_ns,
                     uint64_t stamp, bint is_reused, bint is_to_open) noexcept nogil:                            # lock not held
    cdef segment_t* seg = NULL
    cdef const char* what = NULL
    cdef uint8_t known[4]
    cdef int64_t now_ns = ctime_ns
    cdef int fd = -1, status
    if is_to_open:
        fd = file_open(c.dirfd, blob.digest, index, length, &now_ns, &what)
        if fd < 0:
            if not is_shortage(fd):
                return fd
            fd = -1
    if not adopt_states(fd, states, now_ns == ctime_ns, known):
        if fd >= 0:
            close(fd)
        return ST_GONE
    seg = segment_new(blob, index, fd, <off_t>index * SEGMENT_BYTES, length)
    if seg == NULL:
        status = -errno if errno else -ENOMEM
        if fd < 0:
            return status
        close(fd)                    # no mapping left
        return cache_adopt(c, blob, index, length, states, ctime_ns, stamp, is_reused, False)
    seg.charge = charge_of(length)
    seg.cache = c
    seg.on_closed = segment_closed
    memcpy(seg.state, known, SEGMENT_CHUNKS)
    seg.stamp = seg.lru_stamp = stamp
    seg.ctime_ns = ctime_ns
    seg.synced = seg.settled = ctime_ns != 0 and now_ns == ctime_ns
    bp_add_int(&c.refs, 1)           # given back in segment_closed
    pthread_mutex_lock(&c.lock)
    if index == 0 and length < SEGMENT_BYTES:    # a blob that ends in its first segment is a small one
        blob.protected = 1
    policy_add(&c.policy, seg, is_reused)
    if fd >= 0:
        c.open_files += 1
        open_list(c, seg)
    c.segments += 1
    c.kept_segments += 1
    c.charged += seg.charge
    blob.cached += 1
    bp_store_ptr(&blob.segs[index], seg)
    pthread_mutex_unlock(&c.lock)
    return ST_OK


cdef int cache_claim(cache_t* c, blob_t* found, blob_t* blob, bint trusted) noexcept nogil:      # lock not held
    cdef segment_t* seg
    cdef fault_t fault
    cdef off_t length
    cdef uint32_t i
    cdef int within, misfits = 0
    pthread_mutex_lock(&c.lock)
    for i in range(found.nsegs):
        while is_busy(c, found, i):  # being evicted
            cache_wait(c)
        seg = found.segs[i]
        if seg == NULL or c.closed:
            continue
        length = blob.size - seg.base
        if length > SEGMENT_BYTES:
            length = SEGMENT_BYTES
        if seg.length != length:
            misfits += 1
            c.misfit_segments += 1
            if cache_remove(c, seg, REASON_NONE, NULL, &fault) == ST_OK or i >= blob.nsegs:
                continue             # beyond the end nobody meets it: it stays with *found*, charged
            seg.doomed = ROTTEN      # charged as long as it is there; begin() tries again to remove it
            for within in range(SEGMENT_CHUNKS):
                seg.state[within] = CHUNK_ABSENT
        elif not trusted:
            for within in range(SEGMENT_CHUNKS):
                if seg.state[within] == CHUNK_PRESENT or seg.state[within] == CHUNK_CLOSED:
                    seg.state[within] = CHUNK_UNCHECKED
        found.segs[i] = NULL
        found.cached -= 1
        seg.blob = blob
        blob.cached += 1
        if blob.protected:
            policy_protect(&c.policy, seg)
        bp_store_ptr(&blob.segs[i], seg)
    pthread_mutex_unlock(&c.lock)
    return misfits


cdef kept_t* cache_list(cache_t* c, uint64_t* count) noexcept nogil:     # lock not held; nothing leaves after cache_stop
    cdef kept_t* kept
    cdef segment_t* seg
    cdef uint64_t n = 0
    cdef uint8_t state
    cdef int group, i
    pthread_mutex_lock(&c.lock)
    kept = <kept_t*>calloc(c.segments + 1, sizeof(kept_t))
    for group in range(CLASSES):
        seg = c.policy.orders[group].oldest if kept != NULL else NULL
        while seg != NULL:
            kept[n].seg = seg
            kept[n].stamp = bp_relaxed_u64(&seg.stamp)
            kept[n].reused = policy_is_reused(&c.policy, seg)
            for i in range(SEGMENT_CHUNKS):
                state = bp_load_u8(&seg.state[i])
                if seg.doomed != ROTTEN and state != CHUNK_FILLING:
                    kept[n].state[i] = CHUNK_PRESENT if state == CHUNK_CLOSED else state
            n += 1
            seg = seg.lru_next
    count[0] = n
    pthread_mutex_unlock(&c.lock)
    return kept
