"""What left the cache for want of room, and how much has left since: what would a larger cache have had?

Idea: a segment leaves as the least recently used, so what is cached then was used after it, and so was what leaves after
it. When it is wanted again after E further bytes have left, a cache of twice the limit L would have it if E <= L, one of
four times the limit if E <= 3 L. Bytes that left twice meanwhile are counted twice, so the answer errs towards "no". The
cache is no plain LRU (lru_policy): it is an estimate.

Bounds: PLACES segments, 512 KiB, however large the cache. By segments of 4 MiB that is 64 GiB of what left: enough for
four times a limit of 21 GiB. A full set forgets what left first, which errs towards "no", too.

Left to others: what is done with the answer (lru_steps).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef enum:
    SET_BITS = 12
    WAYS = 4
    PLACES = 16384                   # WAYS << SET_BITS


cdef bint ghosts_init(ghosts_t* g) noexcept nogil:
    g.evicted_bytes = 0
    g.table = <ghost_t*>calloc(PLACES, sizeof(ghost_t))
    return g.table != NULL


cdef void ghosts_free(ghosts_t* g) noexcept nogil:
    free(g.table)
    g.table = NULL


cdef ghost_t* set_of(ghosts_t* g, const uint8_t* digest, uint32_t index, uint64_t* key) noexcept nogil:
    memcpy(key, digest, 8)
    return &g.table[((key[0] + index * <uint64_t>0x9E3779B97F4A7C15) >> (64 - SET_BITS)) * WAYS]


cdef void ghost_put(ghosts_t* g, const uint8_t* digest, uint32_t index, uint64_t charge, uint64_t filled) noexcept nogil:
    cdef uint64_t key
    cdef ghost_t* ghosts = set_of(g, digest, index, &key)
    cdef ghost_t* place = &ghosts[0]
    cdef int i
    for i in range(1, WAYS):
        if ghosts[i].at < place.at:
            place = &ghosts[i]
    g.evicted_bytes += charge
    place.key = key
    place.index = index
    place.at = g.evicted_bytes
    place.filled = filled


cdef bint ghost_take(ghosts_t* g, const uint8_t* digest, uint32_t index, uint64_t* bytes, uint64_t* filled) noexcept nogil:
    cdef uint64_t key
    cdef ghost_t* ghosts = set_of(g, digest, index, &key)
    cdef int i
    for i in range(WAYS):
        if ghosts[i].at != 0 and ghosts[i].key == key and ghosts[i].index == index:
            bytes[0] = g.evicted_bytes - ghosts[i].at
            filled[0] = ghosts[i].filled
            ghosts[i].at = 0
            return True
    return False
