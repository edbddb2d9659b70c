"""Which segments of a cache have their file open: a bounded number, closed and opened again as they are used.

Idea: a segment without a descriptor is another segment_t in the same slot: fd -1, and its PRESENT chunks are CLOSED, which
senders take for ABSENT. They park and ask, a fill thread opens the file, puts a segment_t with the new descriptor into the
slot, and they find it. A slot that changes is what senders are made for; so there is nothing new in their way, and nothing to
pay while a file is open.

    OPEN     fd, map; chunks ABSENT, FILLING, PRESENT, UNCHECKED      in the slot, the order of eviction, the list of open files
      |  ^
    closed  opened again [openat, fstat, mmap]: PRESENT if the file's ctime is the one it was closed with, else UNCHECKED
      v  |
    CLOSED   fd -1;   chunks ABSENT, CLOSED, UNCHECKED                in the slot, the order of eviction

Invariants
 - Slot, charge and place in the order go from one segment_t to its successor in one step under the lock: the file is charged
   once, and is evicted, dropped or discarded in either form.
 - The predecessor of a closed one is held by nobody: it is put back if a sender came while the slot changed. Therefore its
   descriptor is closed by the reap that follows, and no bytes are on the disk without being charged.
 - Not closed: a segment with a FILLING chunk (its filler has the descriptor), a ROTTEN one, one that a sender holds.
 - Bytes of a file that was closed are trusted only while its length and ctime are what they were: nobody wrote to it.
 - open_files counts descriptors from before they are opened until they are closed. It is at most open_limit, unless none of
   the open ones may be closed: then as many more as there are fill threads, until the next open_trim.

Which to close: those in the list longest that were not used since (second chance), some at a time, so that a look at the list
is paid once for many. The file is not synced: its dirty pages are the page cache's with or without a descriptor.

Left to others: the order of eviction (lru_order), whose turn it is with a file (lru_busy), who wants one open (lru_steps,
lru_recheck), how many may be (dataplane.rack).
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from bootplane.core.linux cimport (
    EMFILE, ENFILE, ENOMEM, bp_add_int, bp_fence, bp_load_int, bp_load_u8, bp_relaxed_u64, bp_store_ptr,
    bp_store_u8, close, monotonic_ns, pthread_mutex_lock, pthread_mutex_unlock,
)
from bootplane.core.lru_busy cimport busy_mark, busy_unmark
from bootplane.core.lru_order cimport has_state, order_replace
from bootplane.core.lru_steps cimport ROTTEN, busy_t, cache_t, fault_t
from bootplane.core.segment_file cimport file_ctime, file_has_data, file_open
from bootplane.core.segments cimport (
    CHUNK_ABSENT, CHUNK_BYTES, CHUNK_CLOSED, CHUNK_FILLING, CHUNK_PRESENT, CHUNK_UNCHECKED, SEGMENT_CHUNKS, blob_reap,
    blob_t, segment_new, segment_release, segment_t,
)
from bootplane.core.status cimport ST_GONE, ST_OK

cdef enum:
    LOOKS = 512                      # segments looked at under the lock for one batch

cdef struct leaving_t:               # a segment on its way to be closed
    segment_t* seg                   # referenced
    segment_t* successor             # without a file; NULL: no memory
    uint32_t states                  # as they were when the ctime was taken
    int64_t ctime_ns


# ---- the list of open files, the one opened or used longest ago first; cache_t.lock held

cdef void open_list(cache_t* c, segment_t* seg) noexcept nogil:
    seg.open_stamp = bp_relaxed_u64(&seg.stamp)
    seg.open_older = c.open_newest
    seg.open_newer = NULL
    if c.open_newest != NULL:
        c.open_newest.open_newer = seg
    else:
        c.open_oldest = seg
    c.open_newest = seg
    c.open_segments += 1
    seg.open_listed = 1


cdef void open_unlist(cache_t* c, segment_t* seg) noexcept nogil:
    if not seg.open_listed:
        return
    if seg.open_older != NULL:
        seg.open_older.open_newer = seg.open_newer
    else:
        c.open_oldest = seg.open_newer
    if seg.open_newer != NULL:
        seg.open_newer.open_older = seg.open_older
    else:
        c.open_newest = seg.open_older
    seg.open_older = seg.open_newer = NULL
    c.open_segments -= 1
    seg.open_listed = 0


cdef uint32_t states_of(segment_t* seg) noexcept nogil:
    cdef uint32_t states = 0
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        states = states << 8 | bp_load_u8(&seg.state[i])
    return states


cdef bint is_closable(segment_t* seg) noexcept nogil:
    return bp_load_int(&seg.refs) == 1 and not seg.doomed and not has_state(seg, CHUNK_FILLING)


cdef int pick(cache_t* c, leaving_t* out, int wanted) noexcept nogil:
    # Up to *wanted* segments, each with a reference: those not used since they were listed, else the first in the list.
    cdef segment_t* seg = c.open_oldest
    cdef segment_t* following
    cdef uint64_t stamp
    cdef uint64_t left = c.open_segments     # one lap: those put at the end come after all others
    cdef int looks = LOOKS, n = 0
    while seg != NULL and left > 0 and looks > 0 and n < wanted:
        following = seg.open_newer
        stamp = bp_relaxed_u64(&seg.stamp)
        if stamp > seg.open_stamp:
            open_unlist(c, seg)
            open_list(c, seg)
        elif is_closable(seg):
            bp_add_int(&seg.refs, 1)         # given back in hand_over
            out[n].seg = seg
            n += 1
        seg = following
        left -= 1
        looks -= 1
    seg = c.open_oldest
    while seg != NULL and looks > -LOOKS and n == 0:     # all of them are in use
        if is_closable(seg):
            bp_add_int(&seg.refs, 1)
            out[n].seg = seg
            n += 1
        seg = seg.open_newer
        looks -= 1
    return n


# ---- from one segment_t to the next

cdef void succeed(segment_t* seg, segment_t* successor) noexcept nogil:
    # What belongs to the segment and not to its descriptor. fd, map, base and length are the successor's own already.
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        successor.state[i] = bp_load_u8(&seg.state[i])
    successor.stamp = bp_relaxed_u64(&seg.stamp)
    successor.charge = seg.charge
    successor.blob = seg.blob
    successor.index = seg.index
    successor.cache = seg.cache
    successor.lru_stamp = seg.lru_stamp
    successor.lru_filled = seg.lru_filled
    successor.lru_class = seg.lru_class
    successor.doomed = seg.doomed
    successor.on_closed = seg.on_closed
    successor.synced = seg.synced
    successor.settled = seg.settled
    successor.ctime_ns = seg.ctime_ns


cdef void retire(cache_t* c, segment_t* seg, segment_t* successor) noexcept nogil:
    # The slot has the successor. *seg* gives up its place and its charge; its reference on the cache is its own until closed.
    order_replace(&c.policy.orders[seg.lru_class], seg, successor)
    open_unlist(c, seg)
    seg.charge = 0
    bp_add_int(&c.refs, 1)           # the successor's; given back in lru_steps.segment_closed
    segment_release(seg)             # the slot's reference


cdef bint hand_over(cache_t* c, leaving_t* leaving) noexcept nogil:
    # Puts the successor into the slot, if nothing has happened to the segment meanwhile. Drops the reference of pick.
    cdef segment_t* seg = leaving.seg
    cdef segment_t* successor = leaving.successor
    cdef blob_t* blob = seg.blob
    cdef bint is_closed = False
    cdef int i
    if successor != NULL and seg.open_listed and not c.closed and not seg.doomed and states_of(seg) == leaving.states:
        succeed(seg, successor)
        if not seg.synced:           # else it is known already, from the record of an earlier run
            successor.ctime_ns = leaving.ctime_ns
        for i in range(SEGMENT_CHUNKS):
            if successor.state[i] == CHUNK_PRESENT:
                successor.state[i] = CHUNK_CLOSED
        bp_store_ptr(&blob.segs[seg.index], successor)
        bp_fence()                   # a sender raises refs and then looks at the slot: one of us sees the other
        is_closed = bp_load_int(&seg.refs) == 2
        if is_closed:
            retire(c, seg, successor)
        else:
            bp_store_ptr(&blob.segs[seg.index], seg)
            successor.on_closed = NULL
    if successor != NULL and not is_closed:
        segment_release(successor)
    segment_release(seg)
    return is_closed


cdef int close_some(cache_t* c, int wanted) noexcept nogil:
    # -1: nothing can be closed; the lock was kept. Else how many were; it was let go of.
    cdef leaving_t leaving[CLOSE_BATCH]
    cdef busy_t mark
    cdef segment_t* seg
    cdef int n, i, closed = 0
    n = pick(c, leaving, wanted if wanted < CLOSE_BATCH else CLOSE_BATCH)
    if n == 0:
        return -1
    for i in range(n):
        leaving[i].states = states_of(leaving[i].seg)
    busy_mark(c, &mark, NULL, 0)     # an evictor that finds all held waits for us
    pthread_mutex_unlock(&c.lock)
    for i in range(n):
        seg = leaving[i].seg
        leaving[i].successor = NULL
        if file_ctime(seg.fd, &leaving[i].ctime_ns) == ST_OK:
            leaving[i].successor = segment_new(NULL, seg.index, -1, seg.base, seg.length)
    pthread_mutex_lock(&c.lock)
    for i in range(n):
        closed += hand_over(c, &leaving[i])
    busy_unmark(c, &mark)
    pthread_mutex_unlock(&c.lock)
    blob_reap()
    pthread_mutex_lock(&c.lock)
    return closed


cdef bint open_room(cache_t* c, bint* tried) noexcept nogil:
    cdef uint64_t step = c.open_limit // 8
    cdef int closed
    if c.open_limit == 0 or c.open_files < c.open_limit or tried[0]:
        return True
    closed = close_some(c, <int>(step if step < CLOSE_BATCH else CLOSE_BATCH) or 1)
    if closed < 0:                   # but some may lie in the graveyard
        pthread_mutex_unlock(&c.lock)
        blob_reap()
        pthread_mutex_lock(&c.lock)
    tried[0] = closed <= 0
    return False


cdef bint open_spare(cache_t* c) noexcept nogil:
    cdef int closed = close_some(c, CLOSE_BATCH)
    if closed < 0:
        pthread_mutex_unlock(&c.lock)
        closed = blob_reap() > 0
        pthread_mutex_lock(&c.lock)
    return closed > 0


cdef void open_trim(cache_t* c) noexcept nogil:
    cdef int closed = 1
    pthread_mutex_lock(&c.lock)
    while closed > 0 and not c.closed and c.open_limit > 0 and c.open_files > c.open_limit:
        closed = close_some(c, <int>min(c.open_files - c.open_limit, <uint64_t>CLOSE_BATCH))
    pthread_mutex_unlock(&c.lock)


cdef bint is_shortage(int status) noexcept nogil:
    return status == -EMFILE or status == -ENFILE or status == -ENOMEM


cdef int segment_open(cache_t* c, segment_t* seg, bint* tried, fault_t* fault) noexcept nogil:
    cdef blob_t* blob = seg.blob
    cdef segment_t* successor = NULL
    cdef busy_t mark
    cdef int64_t ctime_ns = 0
    cdef uint64_t now_ns
    cdef bint is_empty[SEGMENT_CHUNKS]
    cdef bint is_found = has_state(seg, CHUNK_UNCHECKED)     # by an earlier run: it may have holes
    cdef int fd, i, status = ST_OK
    if not open_room(c, tried):
        return ST_OK
    bp_add_int(&seg.refs, 1)         # not evicted meanwhile
    c.open_files += 1
    busy_mark(c, &mark, blob, seg.index)
    pthread_mutex_unlock(&c.lock)
    memcpy(fault.digest, blob.digest, 32)
    fault.index = seg.index
    fd = file_open(c.dirfd, blob.digest, seg.index, seg.length, &ctime_ns, &fault.what)
    if fd < 0:
        status = fd
    else:
        for i in range(SEGMENT_CHUNKS):
            is_empty[i] = is_found and not file_has_data(fd, <int64_t>i * CHUNK_BYTES, CHUNK_BYTES)
        successor = segment_new(blob, seg.index, fd, seg.base, seg.length)
        if successor == NULL:
            fault.what = b"file cannot be mapped"
            status = -errno if errno else -ENOMEM
            close(fd)
    pthread_mutex_lock(&c.lock)
    busy_unmark(c, &mark)
    if status == ST_OK:
        succeed(seg, successor)
        now_ns = <uint64_t>monotonic_ns()
        if successor.stamp < now_ns:
            successor.stamp = now_ns             # somebody waits for it
        for i in range(SEGMENT_CHUNKS):
            if successor.state[i] == CHUNK_CLOSED:
                successor.state[i] = CHUNK_PRESENT if ctime_ns == seg.ctime_ns else CHUNK_UNCHECKED
            elif successor.state[i] == CHUNK_UNCHECKED and is_empty[i]:
                successor.state[i] = CHUNK_ABSENT    # of an earlier run, and never written: not wrong
        if ctime_ns != seg.ctime_ns:
            successor.synced = 0
        bp_store_ptr(&blob.segs[seg.index], successor)
        retire(c, seg, successor)
        open_list(c, successor)
        c.reopened_segments += 1
    else:
        c.open_files -= 1
        if not is_shortage(status):
            for i in range(SEGMENT_CHUNKS):
                c.rotten_chunks += bp_load_u8(&seg.state[i]) != CHUNK_ABSENT
                bp_store_u8(&seg.state[i], CHUNK_ABSENT)
            seg.doomed = ROTTEN
            fault.error = -status
            status = ST_GONE
    segment_release(seg)
    if is_shortage(status) and open_spare(c):
        status = ST_OK
    return status
