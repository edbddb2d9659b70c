# Bytes to a connection. Both return the next action, or WAIT.
from bootplane.core.http_connection cimport connection_t, http_t

cdef int send_text(http_t* http, connection_t* c) noexcept nogil       # for DO_TEXT
# For DO_SEND. From QUEUE_HOT a large body only takes its place in QUEUE_BULK; from there it gets one turn.
cdef int send_body(http_t* http, connection_t* c, int queue) noexcept nogil
