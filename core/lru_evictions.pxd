# What left the cache last, and why. Everything here runs under the mutex of the cache that owns the evictions_t.
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:                       # reason_t: why a segment left
    REASON_NONE = 0              # there was nothing in it
    REASON_ROOM = 1              # another segment needed it
    REASON_LIMIT = 2             # the limit was made smaller
    REASON_DISK = 3              # the disk was full before the cache was
    REASON_DROPPED = 4           # no catalogue names it any more
    REASON_ROTTEN = 5            # its bytes on the disk were wrong, or could not be read
    REASONS = 6

cdef enum:
    EVICTIONS = 64

cdef struct eviction_t:          # of segments of one blob, one after another
    uint8_t digest[32]           # of the blob
    uint8_t wanted_by[32]        # of the blob that needed the room, last; all 0: none
    uint8_t reason               # reason_t
    uint64_t segments
    uint64_t bytes               # charged
    int64_t at_ns                # CLOCK_REALTIME, of the last
    int64_t idle_ns              # since the last use; the least of them

cdef struct evictions_t:
    eviction_t ring[64]          # EVICTIONS
    uint64_t count               # entries ever made; the newest is ring[(count - 1) % EVICTIONS]

# *wanted_by*: 32 bytes or NULL. REASON_NONE is not kept.
cdef void evictions_add(evictions_t* e, const uint8_t* digest, int reason, uint64_t bytes, int64_t idle_ns,
                        const uint8_t* wanted_by) noexcept nogil
