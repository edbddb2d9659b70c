"""How many connections each client address holds, so that one machine cannot take every place.

Leaves the limit, and what happens above it, to http_service.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from bootplane.core.linux cimport AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, sockaddr_storage


cdef void canonical(const sockaddr_storage* peer, uint8_t* ip) noexcept nogil:
    memset(ip, 0, 16)
    if peer.ss_family == AF_INET:
        ip[10] = 0xff
        ip[11] = 0xff
        memcpy(ip + 12, &(<const sockaddr_in*>peer).sin_addr, 4)
    elif peer.ss_family == AF_INET6:
        memcpy(ip, &(<const sockaddr_in6*>peer).sin6_addr, 16)


cdef uint32_t bucket_of(const uint8_t* ip) noexcept nogil:
    cdef uint64_t halves[2]
    memcpy(halves, ip, 16)
    return <uint32_t>(((halves[0] ^ (halves[1] * 31)) * <uint64_t>0x9E3779B97F4A7C15) >> 54)  # 10 bits


cdef address_t* addresses_take(addresses_t* a, const sockaddr_storage* peer) noexcept nogil:
    cdef uint8_t ip[16]
    cdef uint32_t b
    cdef address_t* entry
    canonical(peer, ip)
    b = bucket_of(ip)
    entry = a.bucket[b]
    while entry != NULL and memcmp(entry.ip, ip, 16) != 0:
        entry = entry.next
    if entry == NULL:
        entry = <address_t*>calloc(1, sizeof(address_t))
        if entry == NULL:
            return NULL
        memcpy(entry.ip, ip, 16)
        entry.bucket = b
        entry.next = a.bucket[b]
        a.bucket[b] = entry
    entry.connections += 1
    return entry


cdef void addresses_release(addresses_t* a, address_t* entry) noexcept nogil:
    cdef address_t** link = &a.bucket[entry.bucket]
    entry.connections -= 1
    if entry.connections:
        return
    while link[0] != entry:
        link = &link[0].next
    link[0] = entry.next
    free(entry)
