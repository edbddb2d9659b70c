"""Which TID (server port) a client's last transfer had, for the 30 s in which it must not meet that one again.

GRUB uses the same source ports on every boot and starts its next file from the next one at once; a late packet of the
last transfer must not reach the new one, so the new one has another TID. A transfer that ended is remembered in a ring:
all rest equally long, so the oldest is always the next to go, and nothing is ever unlinked.

    ring      ... | 41 | 42 | 43 |        number = position since start, slot = number & mask
    bucket -> 43 -older-> 41 -older-> 12  (12 has left the ring: the chain ends here)

Invariant: what tids_last returns ended less than 30 s ago and was the peer's latest, as long as fewer transfers than
the ring has room for ended in those 30 s; after that the oldest are forgotten early. Choosing another TID is
tftp_service's.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from bootplane.core.status cimport ST_NOMEM, ST_OK, check


cdef uint64_t peer_hash(const peer_t* peer, uint64_t seed) noexcept nogil:
    """Seeded, so that nobody outside can choose addresses that fall into one bucket."""
    cdef uint64_t words[4]
    cdef uint64_t h = seed
    cdef int i
    memcpy(words, peer, sizeof(words))
    for i in range(4):
        h = (h ^ words[i]) * <uint64_t>0x9E3779B97F4A7C15
        h ^= h >> 32
    return h


cdef bint peer_equal(const peer_t* a, const peer_t* b) noexcept nogil:
    return memcmp(a, b, sizeof(peer_t)) == 0


cdef int tids_init(tids_t* t, uint32_t room, uint64_t seed) noexcept nogil:
    memset(t, 0, sizeof(tids_t))
    t.ring = <past_t*>calloc(room, sizeof(past_t))   # pages that are never used are never there
    t.buckets = <uint64_t*>calloc(room, sizeof(uint64_t))
    if t.ring == NULL or t.buckets == NULL:
        tids_free(t)
        return ST_NOMEM
    t.mask = room - 1
    t.seed = seed
    return ST_OK


cdef void tids_free(tids_t* t) noexcept nogil:
    free(t.ring)
    free(t.buckets)
    t.ring = NULL
    t.buckets = NULL


cdef void tids_rest(tids_t* t, const peer_t* peer, uint32_t tid, int64_t now_ns) noexcept nogil:
    cdef uint64_t bucket = peer_hash(peer, t.seed) & t.mask
    cdef past_t* past
    t.latest += 1
    past = &t.ring[t.latest & t.mask]
    past.peer = peer[0]
    past.tid = tid
    past.until_ns = now_ns + TID_REST_NS
    past.older = t.buckets[bucket]
    t.buckets[bucket] = t.latest


cdef uint32_t tids_last(const tids_t* t, const peer_t* peer, int64_t now_ns) noexcept nogil:
    cdef uint64_t number = t.buckets[peer_hash(peer, t.seed) & t.mask]
    cdef const past_t* past
    while number != 0 and number + t.mask >= t.latest:       # the ring holds latest-mask .. latest
        past = &t.ring[number & t.mask]
        if past.until_ns <= now_ns:
            break                    # older ones have rested even longer
        if peer_equal(&past.peer, peer):
            return past.tid
        number = past.older
    return NO_TID


# -- the same for tests ----------------------------------------------------------------------------------------------

cdef class TidsProbe:
    """The memory of a rack for *room* ended transfers; peers are numbers, times are seconds."""

    cdef tids_t t

    def __cinit__(self, uint32_t room):
        check(tids_init(&self.t, room, 12345), "TidsProbe")

    def __dealloc__(self):
        tids_free(&self.t)

    def rest(self, uint32_t peer, uint32_t tid, double now):
        cdef peer_t p
        memset(&p, 0, sizeof(p))
        p.family_port = peer
        tids_rest(&self.t, &p, tid, <int64_t>(now * 1e9 + 0.5))

    def last(self, uint32_t peer, double now):
        """Returns the TID, or None."""
        cdef peer_t p
        cdef uint32_t tid
        memset(&p, 0, sizeof(p))
        p.family_port = peer
        tid = tids_last(&self.t, &p, <int64_t>(now * 1e9 + 0.5))
        return None if tid == NO_TID else tid
