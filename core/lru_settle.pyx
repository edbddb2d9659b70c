"""Whether the disk has taken what was written: a chunk is PRESENT when pwrite has returned, which is a promise of the page
cache's and not of the disk's.

Idea: the kernel writes later, and if the disk refuses then (EIO, a thin disk that is full), it drops the pages: they are
clean, right as long as they stay in memory, and zeros (ext4, xfs: measured) or an error (btrfs) once they are read again.
Nobody is told but by the next fsync of that file. So each file that was written is asked now and then whether an error
stands against it (sync_file_range that waits for nothing but its first page: no write is begun), and is synced once,
when the kernel should have written it anyway. What the disk has refused leaves the cache like any damaged segment.

Invariant: a segment is `settled` only if an fdatasync that began after its last write has returned without an error.

Not covered: bytes that are refused, dropped from memory and sent between two looks. Left to others: how often (dataplane.
settle), fetching again, damage of what was once written well (dataplane.scrub).
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from bootplane.core.blob cimport (
    CHUNK_ABSENT, CHUNK_FILLING, CHUNK_PRESENT, SEGMENT_CHUNKS, blob_reap, segment_release, segment_t,
)
from bootplane.core.linux cimport (
    bp_add_int, bp_load_u8, bp_store_u8, monotonic_ns, pthread_mutex_lock, pthread_mutex_unlock,
)
from bootplane.core.lru_order cimport has_state
from bootplane.core.lru_steps cimport ROTTEN, cache_remove, cache_t, fault_t
from bootplane.core.status cimport ST_NOMEM

cdef extern from "<fcntl.h>" nogil:
    enum: SYNC_FILE_RANGE_WAIT_BEFORE
    int sync_file_range(int fd, long long offset, long long nbytes, unsigned int flags)

cdef extern from "<unistd.h>" nogil:
    int fdatasync(int fd)

cdef enum:
    WRITTEN = 0                      # segment_t.settled
    SETTLED = 1
    ASKED = 2                        # an fdatasync is under way; a write makes it WRITTEN again

cdef struct candidate_t:
    segment_t* seg                   # not referenced: type-stable memory, looked at again under the lock
    uint64_t filled


cdef int disk_error(int fd, bint sync) noexcept nogil:
    # 0, or the errno that stands against the file; each is told once to a descriptor.
    while True:
        if sync:
            if fdatasync(fd) == 0:
                return 0
        elif sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WAIT_BEFORE) == 0:
            return 0
        if errno != EINTR:
            return errno


cdef void refuse(cache_t* c, segment_t* seg) noexcept nogil:                     # lock held; may let go of it
    cdef fault_t fault
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        if bp_load_u8(&seg.state[i]) == CHUNK_PRESENT:
            bp_store_u8(&seg.state[i], CHUNK_ABSENT)
            c.rotten_chunks += 1
    seg.doomed = ROTTEN
    if not has_state(seg, CHUNK_FILLING):                        # else its last fill removes it
        cache_remove(c, seg, ROTTEN, NULL, &fault)               # when that fails, begin() tries it again


cdef candidate_t* candidates(cache_t* c, long* count) noexcept nogil:            # lock not held; NULL: no memory
    cdef candidate_t* found
    cdef segment_t* seg
    cdef long n = 0
    pthread_mutex_lock(&c.lock)
    found = <candidate_t*>calloc(c.open_segments + 1, sizeof(candidate_t))
    seg = c.open_oldest if found != NULL else NULL
    while seg != NULL:
        if seg.settled != SETTLED and not seg.doomed:
            found[n].seg = seg
            found[n].filled = seg.lru_filled
            n += 1
        seg = seg.open_newer
    pthread_mutex_unlock(&c.lock)
    count[0] = n
    return found


cdef long cache_settle(cache_t* c, uint64_t age_ns, lost_t* lost, long room) noexcept nogil:     # lock not held
    cdef long count = 0, i, gone = 0
    cdef candidate_t* found = candidates(c, &count)
    cdef segment_t* seg
    cdef bint sync
    cdef int error
    if found == NULL:
        return -ST_NOMEM
    for i in range(count):
        seg = found[i].seg
        pthread_mutex_lock(&c.lock)
        if (c.closed or not seg.open_listed or seg.cache != <void*>c or seg.lru_filled != found[i].filled
                or seg.doomed or seg.settled == SETTLED):
            pthread_mutex_unlock(&c.lock)
            continue
        bp_add_int(&seg.refs, 1)         # its slot has one, so it cannot be 0; dropped below
        sync = not has_state(seg, CHUNK_FILLING) and <uint64_t>monotonic_ns() - seg.lru_filled >= age_ns
        if sync:
            seg.settled = ASKED
        pthread_mutex_unlock(&c.lock)
        error = disk_error(seg.fd, sync)
        pthread_mutex_lock(&c.lock)
        if sync and seg.settled == ASKED:
            seg.settled = SETTLED if error == 0 else WRITTEN
        if error != 0 and not c.closed and seg.open_listed and seg.cache == <void*>c:
            if gone < room:
                memcpy(lost[gone].digest, seg.blob.digest, 32)
                lost[gone].index = seg.index
                lost[gone].error = error
            gone += 1
            refuse(c, seg)
        segment_release(seg)
        pthread_mutex_unlock(&c.lock)
    free(found)
    if gone:
        blob_reap()
    return gone
