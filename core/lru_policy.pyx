"""Which segment leaves first. A policy: no I/O, no clock, no lock.

Idea: three orders of use (lru_order). What was used again long after it was fetched is worth more than what was used once,
however recently; and boot loaders are worth more than their few bytes. See docs/adr/0012.

                      used >= reuse after its last fill: seen when it is NEW's oldest
    fetched ──▶ NEW ─────────────────────────────────────────────────────────────────▶ REUSED
             │   ▲                                                                     ▲  │
             │   └──── its oldest, at the new end: REUSED is bounded to 3/4 of what ───┼──┘
             │         PROTECTED leaves of the limit                                   │
             ├──▶ left lately and is wanted again (lru_ghost): policy_has_proven ──────┘
             └──▶ of a protected blob: PROTECTED, for good

    next to go: PROTECTED's oldest while that class has more than a quarter of the limit; else NEW's; else REUSED's; else
    PROTECTED's all the same: room is never refused while something may go.

 - A use soon after the fill is most likely of those for whom it was fetched (64 machines of one storm, a Range after another),
   and says nothing about tomorrow. It moves a segment within NEW, which is an exact LRU.
 - The bound on REUSED leaves a quarter for what streams through: without it, a file larger than what is left would push out
   its own read-ahead, and be fetched again by each of its readers. Readers too far apart for that quarter fetch a file twice,
   and not once each: the second time it is REUSED.
 - A demoted segment lies in NEW like one that was just used; used again it goes back to REUSED.
 - When everything is used again, everything becomes REUSED, and its oldest goes by way of NEW: one LRU.

Left to others: uses (senders write `stamp`), what left lately (lru_ghost), evicting (lru_steps).
"""

from libc.stdint cimport uint64_t

from bootplane.core.linux cimport bp_relaxed_u64
from bootplane.core.lru_order cimport (
    ORDER_LOOKS, order_first_evictable, order_insert, order_oldest, order_pick, order_remove, order_t, order_walk, sorted_run,
)
from bootplane.core.segments cimport segment_t


cdef void policy_put_back(policy_t* p, segment_t* seg) noexcept nogil:
    if seg.blob.protected:               # it may have become so meanwhile
        seg.lru_class = CLASS_PROTECTED
    order_insert(&p.orders[seg.lru_class], seg)


cdef void policy_add(policy_t* p, segment_t* seg, bint reused) noexcept nogil:
    seg.lru_class = CLASS_REUSED if reused else CLASS_NEW
    policy_put_back(p, seg)


cdef void policy_remove(policy_t* p, segment_t* seg) noexcept nogil:
    order_remove(&p.orders[seg.lru_class], seg)


cdef bint policy_has(policy_t* p, segment_t* seg) noexcept nogil:
    return seg.lru_prev != NULL or p.orders[seg.lru_class].oldest == seg


cdef void policy_protect(policy_t* p, segment_t* seg) noexcept nogil:
    if seg.lru_class == CLASS_PROTECTED or not policy_has(p, seg):
        return                           # it is on its way out: policy_put_back, if it stays after all
    policy_remove(p, seg)
    policy_put_back(p, seg)


cdef bint is_reused(policy_t* p, segment_t* seg) noexcept nogil:
    # lru_stamp is that of its last use. What an earlier run filled was fetched long ago.
    return seg.lru_filled == 0 or seg.lru_stamp >= seg.lru_filled + p.reuse_ns


cdef bint policy_has_proven(policy_t* p, segment_t* seg, uint64_t bytes, uint64_t filled) noexcept nogil:
    # Either wanted again after so long, or it would be here still had REUSED given way: the price of its bound is paid once.
    return bytes <= p.orders[CLASS_REUSED].bytes or filled == 0 or seg.lru_filled >= filled + p.reuse_ns


cdef bint policy_is_reused(policy_t* p, segment_t* seg) noexcept nogil:
    cdef uint64_t stamp = bp_relaxed_u64(&seg.stamp)
    if seg.lru_class != CLASS_NEW or stamp <= seg.lru_stamp:
        return seg.lru_class == CLASS_REUSED
    return seg.lru_filled == 0 or stamp >= seg.lru_filled + p.reuse_ns


cdef bint demote(policy_t* p, uint64_t limit) noexcept nogil:
    cdef order_t* new = &p.orders[CLASS_NEW]
    cdef order_t* reused = &p.orders[CLASS_REUSED]
    cdef uint64_t protected = p.orders[CLASS_PROTECTED].bytes
    cdef uint64_t bound = (limit - protected) // 4 * 3 if limit > protected else 0
    cdef segment_t* seg
    cdef bint any = False
    while reused.bytes > bound:
        seg = order_oldest(reused)
        order_remove(reused, seg)
        seg.lru_class = CLASS_NEW
        if new.newest != NULL and new.newest.lru_stamp > seg.lru_stamp:
            seg.lru_stamp = new.newest.lru_stamp
        order_insert(new, seg)
        any = True
    return any


cdef segment_t* pick_new(policy_t* p, uint64_t limit) noexcept nogil:
    cdef order_t* new = &p.orders[CLASS_NEW]
    cdef segment_t* used
    cdef segment_t* seg
    cdef segment_t* again
    cdef segment_t* soon
    cdef segment_t* victim
    cdef bint demoted
    cdef int _look
    for _look in range(ORDER_LOOKS):
        victim = order_walk(new, &used)
        again = soon = NULL
        while used != NULL:
            seg = used
            used = seg.lru_next
            if is_reused(p, seg):
                seg.lru_class = CLASS_REUSED
                seg.lru_next = again
                again = seg
            else:
                seg.lru_next = soon
                soon = seg
        order_insert(&p.orders[CLASS_REUSED], sorted_run(again))
        order_insert(new, sorted_run(soon))
        demoted = demote(p, limit)
        if soon == NULL and (victim != NULL or not demoted):
            return victim
    return order_first_evictable(new)


cdef segment_t* policy_pick(policy_t* p, uint64_t limit, uint64_t incoming) noexcept nogil:
    cdef order_t* protected = &p.orders[CLASS_PROTECTED]
    cdef segment_t* seg = NULL
    if protected.bytes + incoming > limit // 4:
        seg = order_pick(protected)
    if seg == NULL:
        seg = pick_new(p, limit)
    if seg == NULL:
        seg = order_pick(&p.orders[CLASS_REUSED])
    if seg == NULL:
        seg = order_pick(protected)
    return seg
