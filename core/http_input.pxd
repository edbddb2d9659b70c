# Bytes from a connection. Functions that return int return the next action, or WAIT.
from bootplane.core.http_connection cimport connection_t, http_t

cdef void load(http_t* http, connection_t* c) noexcept nogil           # what was kept, into http.input
cdef bint store(http_t* http, connection_t* c) noexcept nogil          # and back; false: no memory, it is gone
cdef void drop_head(http_t* http, connection_t* c) noexcept nogil      # the request that is being answered
cdef int read_more(http_t* http, connection_t* c) noexcept nogil       # for DO_READ
cdef int yield_turn(http_t* http, connection_t* c) noexcept nogil      # to the end of QUEUE_BULK
cdef int next_request(http_t* http, connection_t* c, int action) noexcept nogil        # after a response
