# How many connections each client address holds.
from libc.stdint cimport uint8_t, uint32_t
from bootplane.core.linux cimport sockaddr_storage

cdef enum:
    ADDRESS_BUCKETS = 1024

cdef struct address_t:               # one per address that holds a connection; malloc'd
    uint8_t ip[16]                   # IPv4 as ::ffff:a.b.c.d
    uint32_t connections
    uint32_t bucket
    address_t* next

cdef struct addresses_t:             # zeroed at birth
    address_t* bucket[1024]

# Counts one more connection of *peer* (its port does not matter). NULL: no memory. Given back by addresses_release.
cdef address_t* addresses_take(addresses_t* a, const sockaddr_storage* peer) noexcept nogil
cdef void addresses_release(addresses_t* a, address_t* entry) noexcept nogil     # the last connection frees the entry
