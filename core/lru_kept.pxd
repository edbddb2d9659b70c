# Segments of an earlier run. Nothing here is for a reactor.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.linux cimport off_t
from bootplane.core.lru_steps cimport cache_t
from bootplane.core.segments cimport blob_t, segment_t

cdef struct kept_t:              # a segment for the record, of a cache that has been stopped
    segment_t* seg               # borrowed: valid until cache_close
    uint64_t stamp               # of its last use
    uint8_t reused               # see lru_policy
    uint8_t state[4]             # FILLING is told as ABSENT, CLOSED as PRESENT; all ABSENT when it must not be used again

# All take cache_t.lock themselves.
# Puts a file of an earlier run into *blob*'s slot; *stamp* must be newer than the last one's. PRESENT in *states* counts while
# the file's ctime is *ctime_ns*. Its file is left closed unless *is_to_open*, and when no descriptor or mapping is left.
# ST_GONE: there is nothing in it. -errno: it is not what was found, or no memory.
cdef int cache_adopt(cache_t* c, blob_t* blob, uint32_t index, off_t length, const uint8_t* states, int64_t ctime_ns,
                     uint64_t stamp, bint is_reused, bint is_to_open) noexcept nogil
# Moves the segments of *found*, which nobody but the cache knows, to *blob*, which nobody has yet. What does not fit is
# removed. *trusted* 0: PRESENT becomes UNCHECKED. Returns how many did not fit.
cdef int cache_claim(cache_t* c, blob_t* found, blob_t* blob, bint trusted) noexcept nogil
cdef kept_t* cache_list(cache_t* c, uint64_t* count) noexcept nogil      # after cache_stop; malloc'd; NULL: no memory
