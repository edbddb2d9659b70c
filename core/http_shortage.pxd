# Who leaves when there is no place for who comes.
from libc.stdint cimport int64_t
from bootplane.core.http_connection cimport http_t

# Ends one connection that nobody misses: one that has ended and lingers, the one idle longest, the one whose head was
# begun first. Only those that have been so for *age_ns*. False: there is none.
cdef bint make_room(http_t* http, int64_t age_ns) noexcept nogil
# To be called when one has come: with few places left, slow readers are looked at from now on.
cdef void mind_places(http_t* http) noexcept nogil
# At http.patrol_ns: resets readers that are too slow while places are short.
cdef void patrol(http_t* http) noexcept nogil
