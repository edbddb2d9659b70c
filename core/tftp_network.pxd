# A bad network between one client of ours and its server: what is lost, comes twice, overtakes. Both ways, repeatable.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    ORDER_ROOM = 128                 # what a batch of 64 may become when each comes twice

cdef struct network_t:               # zeroed: a perfect one
    uint32_t lose                    # of 65536 datagrams
    uint32_t repeat
    uint32_t swap
    uint64_t state                   # of the generator; seeded with anything
    uint64_t lost                    # how many so far, both ways, overtaken ACKs among them
    int64_t late_ack                 # block of an ACK that the next one overtakes, + 1; 0: none

cdef inline bint network_is_bad(const network_t* w) noexcept nogil:
    return w.lose + w.repeat + w.swap > 0

# In which order those of a batch that arrive do so: numbers below *n*, some twice, at most ORDER_ROOM; their count.
cdef uint32_t network_order(network_t* w, uint32_t n, uint8_t* order) noexcept nogil
# How often an ACK sent now arrives now: 0, 1 or 2.
cdef uint32_t network_copies(network_t* w) noexcept nogil
# True: one of 65536, as *part* says.
cdef bint network_draw(network_t* w, uint32_t part) noexcept nogil
