# The machine of the cache. Nothing here is for a reactor: fill threads only.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.linux cimport off_t, pthread_mutex_t
from bootplane.core.lru_evictions cimport REASON_DROPPED, REASON_ROTTEN, evictions_t
from bootplane.core.lru_ghost cimport ghosts_t
from bootplane.core.lru_policy cimport policy_t
from bootplane.core.segments cimport blob_t, segment_t

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
    policy_t policy              # every CACHED segment
    ghosts_t ghosts
    evictions_t evictions
    busy_t* busy                 # at most one per thread
    uint8_t closed               # atomic; 1: no new work; dirfd is gone
    uint64_t evicted_segments[6] # by reason_t, since start: for ROOM, LIMIT, DISK
    uint64_t evicted_bytes
    uint64_t made_segments       # new files
    uint64_t ghost_double_segments       # of these, what a cache of twice the limit would have had; see lru_ghost
    uint64_t ghost_quadruple_segments    # of four times
    uint64_t filled_bytes
    uint64_t refused_chunks      # digest or length did not match
    uint64_t kept_segments       # adopted at start
    uint64_t misfit_segments     # files of an earlier run that have not the length their blob wants
    uint64_t rechecked_chunks    # UNCHECKED ones whose digest was right
    uint64_t rotten_chunks       # UNCHECKED ones that were wrong, or could not be read
    int dirfd                    # owned; closed by cache_close
    uint64_t open_limit          # segments whose file may be open; 0: any number
    uint64_t open_files          # descriptors of segments: reserved, in slots, and not yet closed
    uint64_t open_segments       # in the list
    uint64_t reopened_segments   # since start
    segment_t* open_oldest       # list of the segments whose file is open (lru_open)
    segment_t* open_newest

cdef struct fault_t:             # what a nogil function could not do, for the message
    const char* what             # static text
    uint8_t digest[32]           # of the segment's blob
    uint32_t index
    int error                    # errno, with ST_GONE

# All take cache_t.lock themselves. A status is ST_OK, ST_FULL, ST_CLOSED, ST_NOMEM or -errno with *fault* filled in.
# Takes over *dirfd*; NULL: no memory, dirfd not taken. *reuse_ns*: see lru_policy.
cdef cache_t* cache_new(int dirfd, uint64_t limit, uint64_t reuse_ns) noexcept nogil
cdef void cache_stop(cache_t* c) noexcept nogil                          # no new work from here on; waits for busy threads
cdef void cache_close(cache_t* c) noexcept nogil                         # lets go of every segment; files stay; idempotent
cdef void cache_put(cache_t* c) noexcept nogil                           # drops the Cache's reference
# *now_ns*: monotonic. ST_OK: the chunk is FILLING and the caller's. ST_AGAIN: it is PRESENT, CLOSED, another's, or UNCHECKED
# (see lru_recheck).
cdef int cache_begin(cache_t* c, blob_t* blob, uint64_t chunk, int64_t now_ns, fault_t* fault) noexcept nogil
# The segment of a FILLING chunk with a reference, which cache_end or cache_fill drops; NULL when it is not FILLING.
cdef segment_t* cache_claimed(cache_t* c, blob_t* blob, uint64_t chunk) noexcept nogil
cdef int cache_end(cache_t* c, segment_t* seg, int within, int outcome, size_t n, fault_t* fault) noexcept nogil
# Checks, writes and ends. ST_MISMATCH: *got* (32 bytes) has the digest that came out.
cdef int cache_fill(cache_t* c, segment_t* seg, int within, const uint8_t* data, size_t n, const uint8_t* expected,
                    uint8_t* got, fault_t* fault) noexcept nogil
cdef int cache_drop(cache_t* c, blob_t* blob, uint64_t* dropped, fault_t* fault) noexcept nogil
cdef int cache_shrink(cache_t* c, uint64_t wanted, const uint64_t* limit, fault_t* fault) noexcept nogil
cdef void cache_protect(cache_t* c, blob_t* blob) noexcept nogil         # for good; its segments change class
cdef bint cache_is_idle(cache_t* c, blob_t* blob) noexcept nogil         # under Cache.known_lock
cdef void cache_look(cache_t* c, cache_t* out) noexcept nogil            # copies the numbers, which then belong together
cdef void cache_evictions(cache_t* c, evictions_t* out) noexcept nogil   # copies them
cdef int caches_alive() noexcept nogil                                   # cache_t made and not yet freed

# For lru_recheck and lru_kept; cache_t.lock held.
cdef enum:                       # segment_t.doomed, a reason_t
    DROPPED = REASON_DROPPED     # unless cache_begin wants it again
    ROTTEN = REASON_ROTTEN       # for good

cdef uint64_t charge_of(off_t length) noexcept nogil                     # bytes on the disk; needs no lock
# *seg* has no FILLING chunk; lets go of the lock. *reason*: reason_t, with the blob that wants the room (or NULL).
cdef int cache_remove(cache_t* c, segment_t* seg, int reason, blob_t* wanted_by, fault_t* fault) noexcept nogil
cdef void take_out(cache_t* c, segment_t* seg) noexcept nogil            # out of its slot; out of the policy already
cdef void segment_closed(segment_t* seg) noexcept nogil                  # segment_t.on_closed; lock not held
