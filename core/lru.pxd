# The byte-bounded cache: segments of blobs as files of 4 MiB, least recently used first out.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.blob cimport blob_t, segment_t, Blob
from bootplane.core.linux cimport pthread_mutex_t

cdef struct cache_t:
    pthread_mutex_t lock         # guards the fields below and every lru_* field; pointer moves only, no I/O inside
    uint64_t limit               # bytes
    uint64_t charged             # bytes of all segments in slots, reservations included
    uint64_t condemned           # bytes unlinked but still referenced; they count against the limit
    segment_t* newest
    segment_t* oldest
    uint64_t evicted_segments    # since start
    uint64_t evicted_bytes
    uint64_t filled_bytes
    uint64_t refused_chunks      # digest did not match
    int dirfd                    # owned by the Cache

cdef class Cache:
    cdef cache_t c
    cdef readonly str directory
