# In what order segments would leave. Nothing here is for a reactor.
from libc.stdint cimport uint8_t, uint64_t
from bootplane.core.lru_steps cimport cache_t

cdef struct leaver_t:            # segments of one blob that would leave one after another
    uint8_t digest[32]           # of the blob
    uint64_t stamp               # of the last use of the first
    uint64_t bytes               # charged
    uint64_t segments
    uint8_t lru_class            # class_t that the segment would be found to have

# Those that would go for NEW segments before these went themselves, the first to go first; malloc'd; NULL: no memory.
# Takes cache_t.lock itself.
cdef leaver_t* cache_leavers(cache_t* c, uint64_t* count) noexcept nogil
