# Doubted chunks. Nothing here is for a reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from bootplane.core.linux cimport off_t
from bootplane.core.lru_steps cimport cache_t, fault_t
from bootplane.core.segments cimport blob_t

cdef struct survey_t:            # one segment as it was when the cache was looked through
    uint8_t digest[32]           # of its blob
    uint32_t index
    off_t length                 # of the file
    uint8_t state[4]

# All take cache_t.lock themselves.
# ST_OK: it is PRESENT now. ST_AGAIN: it was neither UNCHECKED nor CLOSED. ST_MISMATCH (*got* has the digest), ST_GONE (its file
# is not the one that was left; *fault*.error) or -errno: its segment is gone; but for -EMFILE, -ENFILE, -ENOMEM, with which it stays CLOSED.
cdef int cache_recheck(cache_t* c, blob_t* blob, uint64_t chunk, const uint8_t* expected, uint8_t* got,
                       fault_t* fault) noexcept nogil
# A PRESENT or CLOSED chunk whose bytes are not, or cannot be read: its segment goes, as soon as its fills have ended. ST_AGAIN: it is
# not PRESENT. -errno: the file cannot be unlinked; nobody is given this chunk, and cache_begin tries again.
cdef int cache_discard(cache_t* c, blob_t* blob, uint64_t chunk, fault_t* fault) noexcept nogil
cdef survey_t* cache_survey(cache_t* c, uint64_t* count) noexcept nogil  # oldest first; malloc'd; NULL: no memory
