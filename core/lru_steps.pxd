# The machine of the cache. Nothing here is for a reactor: fill threads only.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from bootplane.core.blob cimport blob_t, segment_t
from bootplane.core.linux cimport off_t, pthread_mutex_t
from bootplane.core.lru_order cimport order_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_cond_t:
        pass

cdef struct busy_t:              # on the stack of a thread that makes or unlinks the file of (blob, index) right now
    blob_t* blob
    uint32_t index
    busy_t* next

cdef struct cache_t:             # malloc'd: outlives the Cache while a condemned segment is still referenced
    pthread_mutex_t lock         # guards the fields below and every lru_* field; pointer moves only, no I/O inside
    pthread_cond_t changed       # a busy_t was taken out
    int refs                     # atomic: the Cache, and each segment until it is closed
    uint64_t limit               # bytes
    uint64_t charged             # bytes of all segments in slots, reservations included
    uint64_t condemned           # bytes unlinked but still referenced; they count against the limit
    uint64_t segments            # in slots
    order_t order                # every CACHED segment
    busy_t* busy                 # at most one per thread
    uint8_t closed               # atomic; 1: no new work; dirfd is gone
    uint64_t evicted_segments    # since start
    uint64_t evicted_bytes
    uint64_t filled_bytes
    uint64_t refused_chunks      # digest or length did not match
    uint64_t kept_segments       # adopted at start
    uint64_t rechecked_chunks    # UNCHECKED ones whose digest was right
    uint64_t rotten_chunks       # UNCHECKED ones that were wrong, or could not be read
    int dirfd                    # owned; closed by cache_close

cdef struct fault_t:             # what a nogil function could not do, for the message
    const char* what             # static text
    uint8_t digest[32]           # of the segment's blob
    uint32_t index

# All take cache_t.lock themselves. A status is ST_OK, ST_FULL, ST_CLOSED, ST_NOMEM or -errno with *fault* filled in.
cdef cache_t* cache_new(int dirfd, uint64_t limit) noexcept nogil        # takes over dirfd; NULL: no memory, dirfd not taken
cdef void cache_stop(cache_t* c) noexcept nogil                          # no new work from here on; waits for busy threads
cdef void cache_close(cache_t* c) noexcept nogil                         # lets go of every segment; files stay; idempotent
cdef void cache_put(cache_t* c) noexcept nogil                           # drops the Cache's reference
# ST_OK: the chunk is FILLING and the caller's. ST_AGAIN: it is PRESENT, another's, or UNCHECKED (see lru_recheck).
cdef int cache_begin(cache_t* c, blob_t* blob, uint64_t chunk, fault_t* fault) noexcept nogil
# The segment of a FILLING chunk with a reference, which cache_end or cache_fill drops; NULL when it is not FILLING.
cdef segment_t* cache_claimed(cache_t* c, blob_t* blob, uint64_t chunk) noexcept nogil
cdef int cache_end(cache_t* c, segment_t* seg, int within, int outcome, size_t n, fault_t* fault) noexcept nogil
# Checks, writes and ends. ST_MISMATCH: *got* (32 bytes) has the digest that came out.
cdef int cache_fill(cache_t* c, segment_t* seg, int within, const uint8_t* data, size_t n, const uint8_t* expected,
                    uint8_t* got, fault_t* fault) noexcept nogil
cdef int cache_drop(cache_t* c, blob_t* blob, uint64_t* dropped, fault_t* fault) noexcept nogil
cdef int cache_shrink(cache_t* c, uint64_t wanted, const uint64_t* limit, fault_t* fault) noexcept nogil
cdef bint cache_is_idle(cache_t* c, blob_t* blob) noexcept nogil         # under Cache.known_lock
cdef void cache_look(cache_t* c, cache_t* out) noexcept nogil            # copies the numbers, which then belong together
cdef int caches_alive() noexcept nogil                                   # cache_t made and not yet freed

# For lru_recheck and lru_kept; cache_t.lock held.
cdef enum:
    DROPPED = 1                  # segment_t.doomed: unless cache_begin wants it again
    ROTTEN = 2                   # for good

cdef uint64_t charge_of(off_t length) noexcept nogil                     # bytes on the disk; needs no lock
cdef int cache_remove(cache_t* c, segment_t* seg, fault_t* fault) noexcept nogil    # no FILLING chunk; lets go of the lock
cdef void take_out(cache_t* c, segment_t* seg) noexcept nogil            # out of its slot; off the order already
cdef void segment_closed(segment_t* seg) noexcept nogil                  # segment_t.on_closed; lock not held
