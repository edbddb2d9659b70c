"""How many connections each client address holds, so that one machine cannot take every place.

Several reactors that serve one port share the counts, so that a limit is the service's and not each thread's. They are
touched when a connection comes and when it goes, under a lock that covers a few pointer moves; a request touches
nothing here.

Leaves the limit, and what happens above it, to http_service.
"""

import socket as _socket

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, bp_load_int, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
    sockaddr_in, sockaddr_in6, sockaddr_storage,
)


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


cdef address_t* addresses_take(addresses_t* a, const sockaddr_storage* peer, uint32_t* held) noexcept nogil:
    cdef uint8_t ip[16]
    cdef uint32_t b
    cdef address_t* entry
    canonical(peer, ip)
    b = bucket_of(ip)
    pthread_mutex_lock(&a.lock)
    entry = a.bucket[b]
    while entry != NULL and memcmp(entry.ip, ip, 16) != 0:
        entry = entry.next
    if entry == NULL:
        entry = <address_t*>calloc(1, sizeof(address_t))
        if entry == NULL:
            pthread_mutex_unlock(&a.lock)
            return NULL
        memcpy(entry.ip, ip, 16)
        entry.bucket = b
        entry.next = a.bucket[b]
        a.bucket[b] = entry
    entry.connections += 1
    held[0] = entry.connections
    pthread_mutex_unlock(&a.lock)
    return entry


cdef void addresses_release(addresses_t* a, address_t* entry) noexcept nogil:
    cdef address_t** link = &a.bucket[entry.bucket]
    pthread_mutex_lock(&a.lock)
    entry.connections -= 1
    if entry.connections == 0:
        while link[0] != entry:
            link = &link[0].next
        link[0] = entry.next
        free(entry)
    pthread_mutex_unlock(&a.lock)


# -- the same for Python ---------------------------------------------------------------------------------------------

cdef class Addresses:
    """The counts of one service, given to each reactor that has a part in it (option ``addresses``)."""

    def __cinit__(self):
        memset(&self.a, 0, sizeof(self.a))
        pthread_mutex_init(&self.a.lock, NULL)

    @property
    def open(self):
        """Connections alive, of every address."""
        return bp_load_int(&self.a.open)

    def __dealloc__(self):
        cdef address_t* entry
        cdef int b
        for b in range(<int>ADDRESS_BUCKETS):
            while self.a.bucket[b] != NULL:
                entry = self.a.bucket[b]
                self.a.bucket[b] = entry.next
                free(entry)
        pthread_mutex_destroy(&self.a.lock)

    def take(self, str ip not None):
        """One more connection of *ip*; returns how many it has now."""
        cdef sockaddr_storage peer = self.address(ip)
        cdef uint32_t held = 0
        if addresses_take(&self.a, &peer, &held) == NULL:
            raise MemoryError("no memory for an address")
        return held

    def release(self, str ip not None):
        """One connection of *ip* less; it must have one."""
        cdef sockaddr_storage peer = self.address(ip)
        cdef uint32_t held = 0
        cdef address_t* entry = addresses_take(&self.a, &peer, &held)
        if entry == NULL:
            raise MemoryError("no memory for an address")
        addresses_release(&self.a, entry)
        if held == 1:
            raise ValueError(f"{ip} has no connection")
        addresses_release(&self.a, entry)

    def __len__(self):
        """Addresses that hold a connection."""
        cdef address_t* entry
        cdef int b
        cdef int n = 0
        for b in range(<int>ADDRESS_BUCKETS):
            entry = self.a.bucket[b]
            while entry != NULL:
                n += 1
                entry = entry.next
        return n

    cdef sockaddr_storage address(self, str ip):
        cdef sockaddr_storage peer
        memset(&peer, 0, sizeof(peer))
        if ":" in ip:
            peer.ss_family = AF_INET6
            raw = _socket.inet_pton(AF_INET6, ip)
            memcpy(&(<sockaddr_in6*>&peer).sin6_addr, <const char*>raw, 16)
        else:
            peer.ss_family = AF_INET
            raw = _socket.inet_pton(AF_INET, ip)
            memcpy(&(<sockaddr_in*>&peer).sin_addr, <const char*>raw, 4)
        return peer
