# The order of eviction. Everything here runs under the mutex of the cache that owns the order_t.
from libc.stdint cimport uint8_t
from bootplane.core.blob cimport segment_t

cdef struct order_t:             # sorted by lru_stamp; lru_prev is older, lru_next is newer
    segment_t* newest
    segment_t* oldest

cdef void order_remove(order_t* order, segment_t* seg) noexcept nogil
cdef void order_insert(order_t* order, segment_t* run) noexcept nogil    # lru_stamp set; run: linked by lru_next, newest first
cdef segment_t* order_pick(order_t* order) noexcept nogil                # stays in the list; NULL when nothing may go
cdef bint has_state(segment_t* seg, uint8_t state) noexcept nogil        # any chunk of the segment
