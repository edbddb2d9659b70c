# How a connection ends. Every function frees the connection, but for one that lingers.
from bootplane.core.http_connection cimport connection_t, http_t

cdef enum:
    WAIT = 100                       # beyond action_t: nothing more to do in this turn, or the connection is gone

cdef void end(http_t* http, connection_t* c) noexcept nogil            # close
cdef int lost(http_t* http, connection_t* c) noexcept nogil            # the peer is gone, or its socket is broken. WAIT
cdef int reset(http_t* http, connection_t* c) noexcept nogil           # RST: what was sent is not whole. WAIT
cdef int close_cleanly(http_t* http, connection_t* c) noexcept nogil   # after a last response. WAIT
cdef int linger(http_t* http, connection_t* c) noexcept nogil          # reads what a client still sends. WAIT
