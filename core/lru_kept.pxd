# Segments of an earlier run. Nothing here is for a reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from bootplane.core.blob cimport blob_t, segment_t
from bootplane.core.linux cimport off_t
from bootplane.core.lru_steps cimport cache_t

cdef struct kept_t:              # a segment for the record, of a cache that has been stopped
    segment_t* seg               # borrowed: valid until cache_close
    uint64_t stamp               # of its last use
    uint8_t state[4]             # FILLING is told as ABSENT; all ABSENT when it must not be used again

# All take cache_t.lock themselves.
# Puts a file of an earlier run into *blob*'s slot; *stamp* must be newer than the last one's. Takes over *fd* if ST_OK.
cdef int cache_adopt(cache_t* c, blob_t* blob, uint32_t index, int fd, off_t length, const uint8_t* states,
                     uint64_t stamp) noexcept nogil
# Moves the segments of *found*, which nobody but the cache knows, to *blob*, which nobody has yet. What does not fit is
# removed. *trusted* 0: PRESENT becomes UNCHECKED. Returns how many did not fit.
cdef int cache_claim(cache_t* c, blob_t* found, blob_t* blob, bint trusted) noexcept nogil
cdef kept_t* cache_list(cache_t* c, uint64_t* count) noexcept nogil      # after cache_stop; malloc'd; NULL: no memory
