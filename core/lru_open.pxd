# Which segments of a cache have their file open. Nothing here is for a reactor. cache_t.lock held in all but open_trim.
from bootplane.core.lru_steps cimport cache_t, fault_t
from bootplane.core.segments cimport segment_t

cdef enum:
    CLOSE_BATCH = 64                 # at most so many are closed at a time

# Its slot has it and its file is open: it is the one opened last. A reservation in cache_t.open_files is its own from here
# on, and given back when it has been closed (lru_steps.segment_closed).
cdef void open_list(cache_t* c, segment_t* seg) noexcept nogil
cdef void open_unlist(cache_t* c, segment_t* seg) noexcept nogil         # nobody closes it now; idempotent
# True: one more file may be opened. False: the lock was let go of to close some, look again. *tried* is False at first; True
# afterwards says that nothing can be closed, so that more than open_limit are open.
cdef bint open_room(cache_t* c, bint* tried) noexcept nogil
# After EMFILE, ENFILE or ENOMEM: closes files whatever open_limit is. Lets go of the lock. False: there was nothing to close.
cdef bint open_spare(cache_t* c) noexcept nogil
cdef bint is_shortage(int status) noexcept nogil                         # one of those
# Opens the file of *seg*, which is in its slot, not open, not ROTTEN, and nobody's busy_t. Lets go of the lock. ST_OK: look
# again. ST_GONE: the file is not what was left (*fault*.error: how so); *seg* is ROTTEN now, and the caller's to remove. -errno: it stays closed.
cdef int segment_open(cache_t* c, segment_t* seg, bint* tried, fault_t* fault) noexcept nogil
# Closes what is open beyond the limit because it was held when another one was opened. Lock not held.
cdef void open_trim(cache_t* c) noexcept nogil
