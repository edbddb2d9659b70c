# What a cache tells Python of itself. With the GIL, which is let go of while the lock is waited for.
from bootplane.core.lru_steps cimport cache_t

cdef list segments_of(cache_t* c)        # as Cache.segments
cdef list leavers_of(cache_t* c)
cdef list evictions_of(cache_t* c)
cdef dict stats_of(cache_t* c)
