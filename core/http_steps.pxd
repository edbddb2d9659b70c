# Carrying out what an exchange wants done, on its socket.
from bootplane.core.http_connection cimport connection_t, http_t
from bootplane.core.loop cimport loop_t, waiter_t
from bootplane.core.segments cimport blob_t

# One turn of a connection: reads, answers, sends until it must wait for something. Afterwards it is in a queue, in a
# timer list, parked, or gone. *queue*: the one it came from; from QUEUE_HOT large bodies go to QUEUE_BULK instead of
# being sent.
cdef void step(http_t* http, connection_t* c, int queue) noexcept nogil
cdef void expire(http_t* http, connection_t* c) noexcept nogil         # its timer is due
cdef void cut_reader(http_t* http, connection_t* c) noexcept nogil     # its reader is too slow: reset, recorded
cdef void refuse(http_t* http, connection_t* c, const char* why) noexcept nogil    # a new one there is no room for: 503
cdef void on_wake(loop_t* loop, waiter_t* w, int status, blob_t* blob) noexcept nogil
