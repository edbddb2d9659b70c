# Whether the disk has taken what was written. Nothing here is for a reactor: every call may wait for the disk.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from bootplane.core.lru_steps cimport cache_t

cdef struct lost_t:              # a segment whose bytes the disk has refused
    uint8_t digest[32]           # of its blob
    uint32_t index
    int error                    # errno

# Looks at every file that is not yet known to be on stable storage, and syncs those last written *age_ns* ago or longer.
# Returns how many segments have left because the disk refused their bytes; the first *room* of them stand in *lost*.
# Takes cache_t.lock itself. -ST_NOMEM: no memory, nothing was done.
cdef long cache_settle(cache_t* c, uint64_t age_ns, lost_t* lost, long room) noexcept nogil
