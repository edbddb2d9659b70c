# Which TID a client's last transfer had: it must not meet the same one again within 30 s.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    TID_REST_NS = 30000000000    # 30 s
    NO_TID = 0xffffffff

cdef struct peer_t:  # a client as one listener sees it, comparable byte by byte; made by peer_of in tftp_sessions
    uint8_t address[16]          # IPv6, or IPv4 in the first four bytes
    uint32_t scope               # of a link-local address
    uint32_t family_port         # family << 16 | port in network order
    uint32_t listener            # index of the request socket
    uint32_t spare               # 0

cdef struct past_t:              # one transfer that has ended
    peer_t peer
    uint64_t older               # number of the one before it in the same bucket, 0 = none
    int64_t until_ns
    uint32_t tid

cdef struct tids_t:              # a ring of the last ones, newest first in each bucket
    past_t* ring                 # owned, mask + 1 of them; number i stands in ring[i & mask]
    uint64_t* buckets            # owned, mask + 1 numbers
    uint64_t mask
    uint64_t latest              # number of the newest, 0 = none yet
    uint64_t seed

cdef int tids_init(tids_t* t, uint32_t room, uint64_t seed) noexcept nogil     # ST_OK or ST_NOMEM; room: power of two
cdef void tids_free(tids_t* t) noexcept nogil                                  # safe on a zeroed struct
cdef void tids_rest(tids_t* t, const peer_t* peer, uint32_t tid, int64_t now_ns) noexcept nogil
cdef uint32_t tids_last(const tids_t* t, const peer_t* peer, int64_t now_ns) noexcept nogil    # or NO_TID
cdef uint64_t peer_hash(const peer_t* peer, uint64_t seed) noexcept nogil
cdef bint peer_equal(const peer_t* a, const peer_t* b) noexcept nogil
