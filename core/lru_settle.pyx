"""Whether the disk has taken what was written: a chunk is PRESENT when pwrite has returned, which is a promise of the page
cache's and not of the disk's.

Idea: the kernel writes later, and if the disk refuses then (EIO, a thin disk that is full), it drops the pages: they are
clean, right as long as they stay in memory, and zeros (ext4, xfs: measured) or an error (btrfs) once they are read again.
Nobody is told but by the next fsync of that file. So each file that was written is asked now and then whether an error
stands against it (sync_file_range that waits for nothing but its first page: no write is begun), and is synced once,
when the kernel should have written it anyway. What the disk has refused leaves the cache like any damaged segment. A file
that has been closed meanwhile (lru_open) is opened for the question: nobody has told its error to a descriptor yet, so the
new one is told.

Invariant: a segment is `settled` only if an fdatasync that began after its last write has returned without an error.

Not covered: bytes that are refused, dropped from memory and sent between two looks, or whose closed file's inode is.

Left to others: how often (dataplane.settle), fetching again, damage of what was once written well (dataplane.scrub).
"""

from libc.errno cimport EINTR, EINVAL, ENOSYS, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from bootplane.core.linux cimport (
    bp_add_int, bp_load_u8, bp_store_u8, close, monotonic_ns, pthread_mutex_lock, pthread_mutex_unlock,
)
from bootplane.core.lru_busy cimport busy_mark, busy_unmark, is_busy
from bootplane.core.lru_order cimport has_state
from bootplane.core.lru_policy cimport CLASSES, policy_has
from bootplane.core.lru_steps cimport ROTTEN, busy_t, cache_remove, cache_t, fault_t
from bootplane.core.segment_file cimport file_open
from bootplane.core.segments cimport (
    CHUNK_ABSENT, CHUNK_CLOSED, CHUNK_FILLING, CHUNK_PRESENT, SEGMENT_CHUNKS, blob_reap, segment_release, segment_t,
)
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
    # 0, or the errno that stands against the file; each is told once to a descriptor. Where nobody may ask, or nobody can
    # (a filter of system calls, a file system without it), there is none.
    while True:
        if sync:
            if fdatasync(fd) == 0:
                return 0
        elif sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WAIT_BEFORE) == 0:
            return 0
        if errno != EINTR:
            return 0 if errno == ENOSYS or errno == EPERM or errno == EINVAL else errno


cdef int closed_error(cache_t* c, segment_t* seg, bint sync, bint* asked) noexcept nogil:
    # As disk_error, of a file that is not open; lock held, and let go of meanwhile. *asked* 0: it could not be opened, which
    # who wants its bytes will find, too.
    cdef const char* what
    cdef busy_t mark
    cdef int64_t ctime_ns
    cdef int fd, error = 0
    c.open_files += 1
    busy_mark(c, &mark, seg.blob, seg.index)     # not opened, removed or claimed meanwhile
    pthread_mutex_unlock(&c.lock)
    fd = file_open(c.dirfd, seg.blob.digest, seg.index, seg.length, &ctime_ns, &what)
    asked[0] = fd >= 0
    if fd >= 0:
        error = disk_error(fd, sync)
        close(fd)
    pthread_mutex_lock(&c.lock)
    busy_unmark(c, &mark)
    c.open_files -= 1
    return error


cdef int open_error(cache_t* c, segment_t* seg, bint sync) noexcept nogil:
    # As disk_error, of a file that is open; lock held, and let go of meanwhile.
    cdef int error
    if sync:
        seg.settled = ASKED
    pthread_mutex_unlock(&c.lock)
    error = disk_error(seg.fd, sync)
    pthread_mutex_lock(&c.lock)
    return error


cdef void refuse(cache_t* c, segment_t* seg) noexcept nogil:                     # lock held; may let go of it
    cdef fault_t fault
    cdef uint8_t state
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        state = bp_load_u8(&seg.state[i])
        if state == CHUNK_PRESENT or state == CHUNK_CLOSED:
            bp_store_u8(&seg.state[i], CHUNK_ABSENT)
            c.rotten_chunks += 1
    seg.doomed = ROTTEN
    if not has_state(seg, CHUNK_FILLING):                        # else its last fill removes it
        cache_remove(c, seg, ROTTEN, NULL, &fault)               # when that fails, begin() tries it again


cdef bint is_asked_about(cache_t* c, segment_t* seg) noexcept nogil:             # lock held; it is in a slot
    if seg.settled == SETTLED or seg.doomed:
        return False
    return seg.open_listed or (seg.fd < 0 and has_state(seg, CHUNK_CLOSED) and not is_busy(c, seg.blob, seg.index))


cdef candidate_t* candidates(cache_t* c, long* count) noexcept nogil:            # lock not held; NULL: no memory
    cdef candidate_t* found
    cdef segment_t* seg
    cdef long n = 0
    cdef int group
    pthread_mutex_lock(&c.lock)
    found = <candidate_t*>calloc(c.segments + 1, sizeof(candidate_t))
    for group in range(CLASSES):
        seg = c.policy.orders[group].oldest if found != NULL else NULL
        while seg != NULL:
            if is_asked_about(c, seg):
                found[n].seg = seg
                found[n].filled = seg.lru_filled
                n += 1
            seg = seg.lru_next
    pthread_mutex_unlock(&c.lock)
    count[0] = n
    return found


cdef long cache_settle(cache_t* c, uint64_t age_ns, lost_t* lost, long room) noexcept nogil:     # lock not held
    cdef long count = 0, i, gone = 0
    cdef candidate_t* found = candidates(c, &count)
    cdef segment_t* seg
    cdef bint sync, asked
    cdef int error
    if found == NULL:
        return -ST_NOMEM
    for i in range(count):
        seg = found[i].seg
        pthread_mutex_lock(&c.lock)
        if (c.closed or seg.cache != <void*>c or not policy_has(&c.policy, seg) or seg.lru_filled != found[i].filled
                or not is_asked_about(c, seg)):
            pthread_mutex_unlock(&c.lock)
            continue
        bp_add_int(&seg.refs, 1)         # its slot has one, so it cannot be 0; dropped below
        sync = not has_state(seg, CHUNK_FILLING) and <uint64_t>monotonic_ns() - seg.lru_filled >= age_ns
        asked = True
        if seg.fd >= 0:
            error = open_error(c, seg, sync)
            asked = seg.settled == ASKED         # else it was written to meanwhile
        else:
            error = closed_error(c, seg, sync, &asked)
        if sync and asked:
            seg.settled = SETTLED if error == 0 else WRITTEN
        if error != 0 and not c.closed and seg.cache == <void*>c and policy_has(&c.policy, seg):
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
