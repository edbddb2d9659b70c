# What left the cache lately. Everything here runs under the mutex of the cache that owns the ghosts_t.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct ghost_t:
    uint64_t key                 # the first 8 bytes of the digest
    uint64_t at                  # ghosts_t.evicted_bytes when it had left; 0: an empty place
    uint64_t filled              # segment_t.lru_filled
    uint32_t index

cdef struct ghosts_t:
    ghost_t* table               # owned
    uint64_t evicted_bytes       # for room, since start

cdef bint ghosts_init(ghosts_t* g) noexcept nogil                        # False: no memory
cdef void ghosts_free(ghosts_t* g) noexcept nogil
cdef void ghost_put(ghosts_t* g, const uint8_t* digest, uint32_t index, uint64_t charge, uint64_t filled) noexcept nogil
# Forgets it. True: it was there; *bytes* were evicted since it had left, *filled* is as it was put.
cdef bint ghost_take(ghosts_t* g, const uint8_t* digest, uint32_t index, uint64_t* bytes, uint64_t* filled) noexcept nogil
