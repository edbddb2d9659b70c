"""Bytes from a connection: reading requests, and keeping what no response has begun to answer.

While a connection runs, its unanswered bytes are in http.input, which all connections of a reactor share; what is
left of them when it waits is copied out, so that waiting between requests costs no memory.

An edge comes once. `readable` stays set until a recv proves that nothing is left: EAGAIN, or fewer bytes than there was
room for while the peer has not half-closed (then only a recv of 0 is the end).
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove
from bootplane.core.http_close cimport WAIT, end, lost
from bootplane.core.http_connection cimport (
    QUEUE_BULK, TIMER_FIRST, TIMER_HEAD, TIMER_IDLE, connection_t, enqueue, http_t, timer_clear, timer_set, timer_touch,
)
from bootplane.core.http_exchange cimport DO_READ, exchange_feed
from bootplane.core.http_head cimport MAX_HEAD
from bootplane.core.linux cimport EAGAIN, EINTR, MSG_DONTWAIT, errno, recv, ssize_t

cdef enum:
    PIPELINE_TURN = 16               # requests of one connection answered before others get their turn


cdef void load(http_t* http, connection_t* c) noexcept nogil:
    http.at = 0
    http.have = c.data_n
    if c.data_n:
        memcpy(http.input, c.data, c.data_n)
        free(c.data)
        c.data = NULL
        c.data_n = 0


cdef bint store(http_t* http, connection_t* c) noexcept nogil:
    """Copies what is unanswered out of the shared input. False: no memory, and the connection was closed."""
    if http.have:
        c.data = <char*>malloc(http.have)
        if c.data == NULL:
            lost(http, c)
            return False
        memcpy(c.data, http.input + http.at, http.have)
        c.data_n = http.have
    return True


cdef void drop_head(http_t* http, connection_t* c) noexcept nogil:
    http.at += c.x.head_bytes
    http.have -= c.x.head_bytes
    c.x.head_bytes = 0


cdef void await_first(http_t* http, connection_t* c) noexcept nogil:
    """In a drain: whoever was let in and has asked for nothing yet would take an end for a refusal."""
    if c.x.requests == 0 and c.timer == TIMER_IDLE:
        timer_set(http, c, TIMER_FIRST)
    elif c.timer != TIMER_FIRST:
        end(http, c)


cdef int wait_for_bytes(http_t* http, connection_t* c) noexcept nogil:
    if http.have == 0:
        if http.loop.draining:
            await_first(http, c)
            return WAIT
        timer_touch(http, c, TIMER_IDLE)
        return WAIT
    if c.timer != TIMER_HEAD:        # it runs from the first byte: sending slowly does not stretch it
        timer_set(http, c, TIMER_HEAD)
    store(http, c)
    return WAIT


cdef int read_more(http_t* http, connection_t* c) noexcept nogil:
    cdef ssize_t n
    cdef size_t room
    if not c.readable:
        return wait_for_bytes(http, c)
    if http.answered >= PIPELINE_TURN:
        return yield_turn(http, c)
    if http.at:
        memmove(http.input, http.input + http.at, http.have)
        http.at = 0
    room = MAX_HEAD - http.have      # never 0: a head that fills all of it is refused
    while True:
        n = recv(c.fd, http.input + http.have, room, MSG_DONTWAIT)
        if n > 0:
            c.readable = c.half or <size_t>n == room
            http.have += <uint32_t>n
            return exchange_feed(&c.x, &http.scene, http.input, http.have)
        if n == 0:                   # a head that was cut off is nobody's to answer
            end(http, c)
            return WAIT
        if errno == EINTR:
            continue
        if errno == EAGAIN:
            c.readable = 0
            return wait_for_bytes(http, c)
        return lost(http, c)


cdef int yield_turn(http_t* http, connection_t* c) noexcept nogil:
    if store(http, c):
        timer_clear(http, c)
        enqueue(http, c, QUEUE_BULK)
    return WAIT


cdef int next_request(http_t* http, connection_t* c, int action) noexcept nogil:
    """After a response: the bytes that are here already come first, since no edge will tell of them."""
    if action != DO_READ:
        return action
    if c.bulk:
        c.bulk = 0
        http.sending -= 1
    http.answered += 1
    if c.timer == TIMER_HEAD:        # of the head that was answered: the next one has its own
        timer_clear(http, c)
    if http.have == 0:
        return DO_READ
    if http.answered >= PIPELINE_TURN:
        return yield_turn(http, c)
    return exchange_feed(&c.x, &http.scene, http.input + http.at, http.have)
