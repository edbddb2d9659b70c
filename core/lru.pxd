# The byte-bounded cache: segments of blobs as files of 4 MiB, least recently used first out.
from libc.stdint cimport int64_t, uint64_t
from bootplane.core.blob cimport Blob
from bootplane.core.lru_steps cimport cache_t, fault_t

cdef class Cache:
    cdef cache_t* c              # one reference
    cdef readonly str directory
    cdef readonly tuple foreign  # names in the directory that are not ours, as found at the start; left alone
    cdef readonly object found   # Found: what an earlier run left, and what became of it
    cdef int lock_fd             # flock on <directory>/lock, owned; -1 when closed
    cdef dict known              # sha256 -> the cache's own Blob (one reference each): keeps segment_t.blob valid
    cdef object known_lock       # guards `known`; taken before cache_t.lock
    cdef dict unclaimed          # sha256 -> (Blob only the cache knows, blob's size or -1, root): what no catalogue named yet
    cdef object claiming         # guards `unclaimed`; taken before known_lock, and held over unlinks: not for reactors' sake

    cdef object adopt(self, int dirfd, list segments)
    cdef str keep(self)

    cdef object shrink(self, uint64_t wanted, const uint64_t* limit)
    cdef object check_open(self)
    cdef object check_mine(self, Blob blob, int64_t chunk)
    cdef bint is_idle(self, Blob own)
    cdef object fail(self, int status, fault_t* fault, int64_t needed)
