"""What left the cache last, and why: for "why is it gone?".

Idea: a ring of fixed size under the cache's mutex. Segments of one blob that leave one after another for one reason are one
entry, so that a large file that streams through does not push out what is worth knowing.

Left to others: names of blobs, telling anybody (dataplane.cachereport).
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from bootplane.core.linux cimport CLOCK_REALTIME, clock_gettime, timespec


cdef void evictions_add(evictions_t* e, const uint8_t* digest, int reason, uint64_t bytes, int64_t idle_ns,
                        const uint8_t* wanted_by) noexcept nogil:
    cdef eviction_t* entry = &e.ring[(e.count + EVICTIONS - 1) % EVICTIONS]
    cdef timespec ts
    if reason == REASON_NONE:
        return
    if e.count == 0 or entry.reason != reason or memcmp(entry.digest, digest, 32) != 0:
        entry = &e.ring[e.count % EVICTIONS]
        e.count += 1
        memcpy(entry.digest, digest, 32)
        entry.reason = <uint8_t>reason
        entry.segments = entry.bytes = 0
        entry.idle_ns = idle_ns
    entry.segments += 1
    entry.bytes += bytes
    if idle_ns < entry.idle_ns:
        entry.idle_ns = idle_ns
    memset(entry.wanted_by, 0, 32)
    if wanted_by != NULL:
        memcpy(entry.wanted_by, wanted_by, 32)
    clock_gettime(CLOCK_REALTIME, &ts)
    entry.at_ns = <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec
