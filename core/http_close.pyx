"""How a connection ends: cleanly after its last response, with a reset when a promise cannot be kept, or by itself.

A close while unread bytes are in the socket sends RST, which may overtake the response and take it from the client;
so a connection whose client may still be sending is shut down on our side first and read to its end, for a limited
time.
"""

from bootplane.core.counters cimport C_HTTP_ABORTED, C_HTTP_CLOSED, count
from bootplane.core.http_connection cimport (
    INPUT_BYTES, QUEUE_BULK, TIMER_LINGER, connection_free, connection_t, enqueue, http_t, timer_set,
)
from bootplane.core.http_exchange cimport EXCHANGE_ENDED, EXCHANGE_HEAD
from bootplane.core.linux cimport EAGAIN, EINTR, MSG_DONTWAIT, SHUT_WR, close, errno, recv, shutdown, ssize_t
from bootplane.core.sender cimport socket_reset

cdef enum:
    LINGER_READS = 4                 # of INPUT_BYTES in one turn


cdef void forget(http_t* http, connection_t* c) noexcept nogil:
    count(http.loop.counters, C_HTTP_CLOSED)
    connection_free(http, c)


cdef void end(http_t* http, connection_t* c) noexcept nogil:
    close(c.fd)                      # leaves epoll by itself
    forget(http, c)


cdef int lost(http_t* http, connection_t* c) noexcept nogil:
    """The peer is gone, or its socket is broken."""
    if c.x.state != EXCHANGE_HEAD and c.x.state != EXCHANGE_ENDED:
        count(http.loop.counters, C_HTTP_ABORTED)
    end(http, c)
    return WAIT


cdef int close_cleanly(http_t* http, connection_t* c) noexcept nogil:
    if not c.readable and http.have == 0:
        end(http, c)
        return WAIT
    if shutdown(c.fd, SHUT_WR) < 0:
        return lost(http, c)
    http.have = 0
    c.lingering = 1
    timer_set(http, c, TIMER_LINGER)
    return linger(http, c)


cdef int linger(http_t* http, connection_t* c) noexcept nogil:
    cdef ssize_t n
    if c.timer != TIMER_LINGER:      # its time was up while it stood in the queue
        end(http, c)
        return WAIT
    for _ in range(LINGER_READS):
        n = recv(c.fd, http.input, INPUT_BYTES, MSG_DONTWAIT)
        if n < 0 and errno == EAGAIN:
            c.readable = 0
            return WAIT
        if n == 0 or (n < 0 and errno != EINTR):
            end(http, c)
            return WAIT
    enqueue(http, c, QUEUE_BULK)     # it still sends; its timer runs
    return WAIT


cdef int reset(http_t* http, connection_t* c) noexcept nogil:
    socket_reset(c.fd)
    forget(http, c)
    return WAIT
