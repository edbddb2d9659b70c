"""An order of use: which of its segments was used least recently, and may go. A policy: no I/O, no clock, no lock.

Idea: segments lie in a list by lru_stamp. Senders write `stamp` without a lock. The evictor looks from the oldest on: a
segment whose stamp is newer than its lru_stamp is put where it belongs and passed over.

Invariant: the list is sorted by lru_stamp, which is no newer than stamp. Therefore the first segment that was not used since
it was placed is the least recently used: every other one's stamp is at least its own lru_stamp, which is at least this one's.
The exception: who places a segment may give it an lru_stamp newer than its stamp, and it lies where one lies that was used then.

Never picked: a segment with a FILLING chunk (its filler would write into a file nobody can find), and one that a sender
holds (its bytes would stay on the disk, condemned, and no room would be gained).

Left to others: which orders there are and which of them gives way (lru_policy), the mutex under which all of this runs
(lru_steps).
"""

from libc.stdint cimport uint8_t, uint64_t

from bootplane.core.linux cimport bp_load_int, bp_load_u8, bp_relaxed_u64
from bootplane.core.segments cimport CHUNK_FILLING, SEGMENT_CHUNKS, segment_t

cdef enum:
    SORT_BINS = 48                   # sorted runs of 2^i segments


cdef void order_remove(order_t* order, segment_t* seg) noexcept nogil:
    if seg.lru_prev != NULL:
        seg.lru_prev.lru_next = seg.lru_next
    else:
        order.oldest = seg.lru_next
    if seg.lru_next != NULL:
        seg.lru_next.lru_prev = seg.lru_prev
    else:
        order.newest = seg.lru_prev
    seg.lru_prev = seg.lru_next = NULL
    order.bytes -= seg.charge


cdef void order_insert(order_t* order, segment_t* run) noexcept nogil:
    # Puts a run (linked by lru_next, newest first) where it belongs: one walk down from the newest for all of it.
    cdef segment_t* at = order.newest
    cdef segment_t* seg
    while run != NULL:
        seg = run
        run = seg.lru_next
        while at != NULL and at.lru_stamp > seg.lru_stamp:
            at = at.lru_prev
        seg.lru_prev = at
        seg.lru_next = order.oldest if at == NULL else at.lru_next
        if at == NULL:
            order.oldest = seg
        else:
            at.lru_next = seg
        if seg.lru_next == NULL:
            order.newest = seg
        else:
            seg.lru_next.lru_prev = seg
        order.bytes += seg.charge


cdef void order_replace(order_t* order, segment_t* seg, segment_t* successor) noexcept nogil:
    # *successor* has lru_stamp and stamp of *seg* or a newer stamp.
    successor.lru_prev = seg.lru_prev
    successor.lru_next = seg.lru_next
    if seg.lru_prev != NULL:
        seg.lru_prev.lru_next = successor
    else:
        order.oldest = successor
    if seg.lru_next != NULL:
        seg.lru_next.lru_prev = successor
    else:
        order.newest = successor
    seg.lru_prev = seg.lru_next = NULL


cdef segment_t* merge(segment_t* a, segment_t* b) noexcept nogil:
    cdef segment_t* head = NULL
    cdef segment_t** tail = &head
    while a != NULL and b != NULL:
        if a.lru_stamp >= b.lru_stamp:
            tail[0] = a
            a = a.lru_next
        else:
            tail[0] = b
            b = b.lru_next
        tail = &tail[0].lru_next
    tail[0] = a if a != NULL else b
    return head


cdef segment_t* sorted_run(segment_t* run) noexcept nogil:
    # Merge sort, newest first. After a long warm time every segment may have been used in any order.
    cdef segment_t* bins[SORT_BINS]      # bins[i]: a sorted run of 2^i segments, or none
    cdef segment_t* seg
    cdef int i
    if run == NULL or run.lru_next == NULL:
        return run
    for i in range(SORT_BINS):
        bins[i] = NULL
    while run != NULL:
        seg = run
        run = seg.lru_next
        seg.lru_next = NULL
        i = 0
        while bins[i] != NULL:
            seg = merge(bins[i], seg)
            bins[i] = NULL
            i += 1
        bins[i] = seg
    for i in range(SORT_BINS):
        run = merge(bins[i], run)
    return run


cdef bint has_state(segment_t* seg, uint8_t state) noexcept nogil:
    cdef int i
    for i in range(SEGMENT_CHUNKS):
        if bp_load_u8(&seg.state[i]) == state:
            return True
    return False


cdef bint is_evictable(segment_t* seg) noexcept nogil:
    return bp_load_int(&seg.refs) == 1 and not has_state(seg, CHUNK_FILLING)


cdef segment_t* order_walk(order_t* order, segment_t** used) noexcept nogil:
    cdef segment_t* seg = order.oldest
    cdef segment_t* following
    cdef uint64_t stamp
    used[0] = NULL
    while seg != NULL:
        following = seg.lru_next
        stamp = bp_relaxed_u64(&seg.stamp)
        if stamp > seg.lru_stamp:
            order_remove(order, seg)
            seg.lru_stamp = stamp
            seg.lru_next = used[0]
            used[0] = seg
        elif is_evictable(seg):
            return seg
        seg = following
    return NULL


cdef segment_t* order_first_evictable(order_t* order) noexcept nogil:
    cdef segment_t* seg = order.oldest
    while seg != NULL and not is_evictable(seg):
        seg = seg.lru_next
    return seg


cdef segment_t* order_pick(order_t* order) noexcept nogil:
    cdef segment_t* used
    cdef segment_t* victim
    cdef int _look
    for _look in range(ORDER_LOOKS):
        victim = order_walk(order, &used)
        if used == NULL:
            return victim
        order_insert(order, sorted_run(used))
    return order_first_evictable(order)      # used faster than looked at: the order is a matter of microseconds


cdef segment_t* order_oldest(order_t* order) noexcept nogil:
    cdef segment_t* seg
    cdef segment_t* following
    cdef segment_t* used
    cdef uint64_t stamp
    cdef int _look
    for _look in range(ORDER_LOOKS):
        used = NULL
        seg = order.oldest
        while seg != NULL:
            following = seg.lru_next
            stamp = bp_relaxed_u64(&seg.stamp)
            if stamp <= seg.lru_stamp:
                break
            order_remove(order, seg)
            seg.lru_stamp = stamp
            seg.lru_next = used
            used = seg
            seg = following
        if used == NULL:
            break
        order_insert(order, sorted_run(used))
    return order.oldest
