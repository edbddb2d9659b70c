# From a client's first bytes to a connection of the HTTP service.
from libc.stdint cimport int64_t
from bootplane.core.tls_session cimport session_t
from bootplane.core.tls_sessions cimport service_t

# A turn of a session in HELLO, in READY, in SHAKE. *spent* grows by what it cost, in bytes of body. It may end.
cdef void greet(service_t* t, session_t* s, int64_t* spent) noexcept nogil
cdef void begin_handshake(service_t* t, session_t* s, int64_t* spent) noexcept nogil
cdef void shake(service_t* t, session_t* s, int64_t* spent) noexcept nogil
