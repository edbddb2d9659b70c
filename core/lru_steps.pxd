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

cdef struct kept_t:              # a segment for the record, of a cache that has been stopped
    segment_t* seg               # borrowed: valid until cache_close
    uint64_t stamp               # of its last use
    uint8_t state[4]             # FILLING is told as ABSENT; all ABSENT when it must not be used again

cdef struct fault_t:             # what a nogil function could not do, for the message
    const char* what             # static text
    uint8_t digest[32]           # of the segment's blob
    uint32_t index

# All take cache_t.lock themselves. A status is ST_OK, ST_FULL, ST_CLOSED, ST_NOMEM or -errno with *fault* filled in.
cdef cache_t* cache_new(int dirfd, uint64_t limit) noexcept nogil        # takes over dirfd; NULL: no memory, dirfd not taken
cdef void cache_stop(cache_t* c) noexcept nogil                          # no new work from here on; waits for busy threads
cdef kept_t* cache_list(cache_t* c, uint64_t* count) noexcept nogil      # after cache_stop; malloc'd; NULL: no memory
cdef void cache_close(cache_t* c) noexcept nogil                         # lets go of every segment; files stay; idempotent
# Puts a file of an earlier run into *blob*'s slot; *stamp* must be newer than the last one's. Takes over *fd* if ST_OK.
cdef int cache_adopt(cache_t* c, blob_t* blob, uint32_t index, int fd, off_t length, const uint8_t* states,
                     uint64_t stamp) noexcept nogil
# Moves the segments of *found*, which nobody but the cache knows, to *blob*, which nobody has yet. What does not fit is
# removed. *trusted* 0: PRESENT becomes UNCHECKED. Returns how many did not fit.
cdef int cache_claim(cache_t* c, blob_t* found, blob_t* blob, bint trusted) noexcept nogil
# ST_OK: it is PRESENT now. ST_AGAIN: it was not UNCHECKED. ST_MISMATCH (*got* has the digest) or -errno: its segment is gone.
cdef int cache_recheck(cache_t* c, blob_t* blob, uint64_t chunk, const uint8_t* expected, uint8_t* got,
                       fault_t* fault) noexcept nogil
cdef void cache_put(cache_t* c) noexcept nogil                           # drops the Cache's reference
# ST_OK: the chunk is FILLING and the caller's. ST_AGAIN: it is PRESENT, another's, or UNCHECKED (see cache_recheck).
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
