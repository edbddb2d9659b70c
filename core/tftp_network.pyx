"""A bad network between one client of ours and its server: what is lost, comes twice, or overtakes.

It stands inside the client, where a datagram costs a few instructions and not a copy through another process, so that
500 clients can have one each. Every draw comes from the flow's own generator (xorshift64*, Vigna 2016): the same seed
and the same arrivals make the same losses.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef bint network_draw(network_t* w, uint32_t part) noexcept nogil:
    if part == 0:
        return False
    w.state ^= w.state >> 12
    w.state ^= w.state << 25
    w.state ^= w.state >> 27
    return <uint32_t>((w.state * <uint64_t>0x2545F4914F6CDD1D) >> 48) < part


cdef uint32_t network_order(network_t* w, uint32_t n, uint8_t* order) noexcept nogil:
    cdef uint32_t used = 0
    cdef uint32_t i
    cdef uint8_t last
    for i in range(n):
        if network_draw(w, w.lose):
            w.lost += 1
            continue
        order[used] = <uint8_t>i
        used += 1
        if used > 1 and network_draw(w, w.swap):
            last = order[used - 1]
            order[used - 1] = order[used - 2]
            order[used - 2] = last
        if used < ORDER_ROOM and network_draw(w, w.repeat):
            order[used] = <uint8_t>i
            used += 1
    return used


cdef uint32_t network_copies(network_t* w) noexcept nogil:
    if network_draw(w, w.lose):
        w.lost += 1
        return 0
    return 2 if network_draw(w, w.repeat) else 1
