# HTTP's ends of the pairs of one reactor: whose they are, and what HTTP asks about them.
from libc.stdint cimport int64_t
from bootplane.core.linux cimport sockaddr_storage
from bootplane.core.loop cimport loop_t
from bootplane.core.tls_session cimport session_t
from bootplane.core.tls_sessions cimport service_t

cdef bint remember_far(service_t* t, session_t* s) noexcept nogil           # by s.far; False: no memory
cdef void forget_far(service_t* t, session_t* s) noexcept nogil             # safe without one
cdef int64_t left_for_client(session_t* s) noexcept nogil                   # bytes

# What the loop's pointers of the same names are set to.
cdef bint tls_addresses(loop_t* loop, int fd, sockaddr_storage* peer, sockaddr_storage* local) noexcept nogil
cdef int tls_socket(loop_t* loop, int fd) noexcept nogil
cdef int tls_unsent(loop_t* loop, int fd) noexcept nogil
cdef void tls_away(loop_t* loop, int fd, bint away) noexcept nogil
