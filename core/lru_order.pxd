# One order of use. Everything here runs under the mutex of the cache that owns the order_t.
from libc.stdint cimport uint8_t, uint64_t
from bootplane.core.segments cimport segment_t

cdef struct order_t:             # sorted by lru_stamp; lru_prev is older, lru_next is newer
    segment_t* newest
    segment_t* oldest
    uint64_t bytes               # charged for the segments in it

cdef enum:
    ORDER_LOOKS = 4              # at segments that are used faster than looked at

cdef void order_remove(order_t* order, segment_t* seg) noexcept nogil
cdef void order_insert(order_t* order, segment_t* run) noexcept nogil    # lru_stamp set; run: linked by lru_next, newest first
# Takes out what was used since it was placed, from the oldest on up to the first that was not and may go, which is
# returned (NULL: none) and stays in. *used*: what was taken out, linked by lru_next, lru_stamp set to its stamp.
cdef segment_t* order_walk(order_t* order, segment_t** used) noexcept nogil
cdef segment_t* order_pick(order_t* order) noexcept nogil                # the oldest that may go; stays in; NULL: none may
cdef segment_t* order_oldest(order_t* order) noexcept nogil              # whether it may go or not; NULL: empty
cdef segment_t* order_first_evictable(order_t* order) noexcept nogil     # as last placed, uses since then not looked at
cdef segment_t* sorted_run(segment_t* run) noexcept nogil                # linked by lru_next; newest first
cdef void order_replace(order_t* order, segment_t* seg, segment_t* successor) noexcept nogil     # in the same place
cdef bint has_state(segment_t* seg, uint8_t state) noexcept nogil        # any chunk of the segment
