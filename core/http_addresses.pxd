# How many connections there are, and how many each client address holds, on all reactors of a service together.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from bootplane.core.linux cimport AF_INET, AF_INET6, ntohs, pthread_mutex_t, sockaddr_in, sockaddr_in6, sockaddr_storage

cdef enum:
    ADDRESS_BUCKETS = 1024

cdef struct address_t:               # one per address that holds a connection; malloc'd
    uint8_t ip[16]                   # IPv4 as ::ffff:a.b.c.d
    uint32_t connections
    uint32_t bucket
    address_t* next

cdef struct addresses_t:             # zeroed at birth, then addresses_init
    pthread_mutex_t lock             # over the buckets and the counts in them; held for a few pointer moves
    int open                         # atomic; connections alive
    address_t* bucket[1024]

cdef class Addresses:
    cdef addresses_t a
    cdef sockaddr_storage address(self, str ip)

cdef inline uint16_t port_of(const sockaddr_storage* peer) noexcept nogil:       # 0: no internet address
    if peer.ss_family == AF_INET:
        return ntohs((<const sockaddr_in*>peer).sin_port)
    return ntohs((<const sockaddr_in6*>peer).sin6_port) if peer.ss_family == AF_INET6 else 0

# Counts one more connection of *peer* (its port does not matter); *held*: how many it has now. NULL: no memory. Given
# back by addresses_release.
cdef address_t* addresses_take(addresses_t* a, const sockaddr_storage* peer, uint32_t* held) noexcept nogil
cdef void addresses_release(addresses_t* a, address_t* entry) noexcept nogil     # the last connection frees the entry
