# Whose turn it is with the file of a segment. cache_t.lock held in all of them.
from libc.stdint cimport uint32_t
from bootplane.core.lru_steps cimport busy_t, cache_t
from bootplane.core.segments cimport blob_t

cdef void busy_mark(cache_t* c, busy_t* mark, blob_t* blob, uint32_t index) noexcept nogil
cdef void busy_unmark(cache_t* c, busy_t* mark) noexcept nogil           # wakes who waits
cdef bint is_busy(cache_t* c, blob_t* blob, uint32_t index) noexcept nogil
cdef void cache_wait(cache_t* c) noexcept nogil                          # for the end of somebody's busy_t; lets go of the lock
