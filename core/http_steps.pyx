"""Carrying out what an exchange wants done, one action after the other, until the connection waits.

It waits for an event, a turn, a deadline, the cache or Python, or it is gone. Leaves to others: bytes in (http_input),
bytes out (http_output), how it ends (http_close), whose turn it is (http_service).
"""

from bootplane.core.counters cimport C_HTTP_HANDED_OVER, count
from bootplane.core.http_close cimport WAIT, close_cleanly, end, linger, lost, reset
from bootplane.core.http_connection cimport (
    QUEUE_BULK, QUEUE_HOT, TIMER_HEAD, TIMER_LINGER, TIMER_PROBE, TIMER_SEND, connection_free, connection_t,
    enqueue, http_t, running, timer_clear, timer_set,
)
from bootplane.core.http_exchange cimport (
    DEADLINE_HEAD, DEADLINE_IDLE, DEADLINE_SEND, DO_ASK, DO_CLOSE, DO_HAND_OVER, DO_MEND, DO_PARK, DO_READ, DO_SEND,
    DO_TEXT, EXCHANGE_ASKED, EXCHANGE_HEAD, EXCHANGE_PARKED, EXCHANGE_TEXT, exchange_answer, exchange_expire,
    exchange_feed, exchange_handed_over, exchange_parked, exchange_refuse, exchange_wake,
)
from bootplane.core.http_input cimport load, read_more, store
from bootplane.core.http_output cimport send_body, send_text
from bootplane.core.http_readers cimport still_reads
from bootplane.core.linux cimport (
    AF_UNIX, EAGAIN, EINTR, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, MSG_DONTWAIT, errno, getpeername, getsockname, recv,
    sockaddr, sockaddr_storage, socklen_t,
)
from bootplane.core.loop cimport PROTO_HTTP, handler_t, loop_add, loop_ask, loop_hand_over, loop_park, loop_t
from bootplane.core.segments cimport CHUNK_BYTES, blob_release, blob_retain, blob_t
from bootplane.core.status cimport ST_OK

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_PEEK


# -- waiting for the cache or for Python -----------------------------------------------------------------------------

cdef int park(http_t* http, connection_t* c, bint damaged) noexcept nogil:
    if store(http, c):
        timer_clear(http, c)         # the loop watches over parked ones
        loop_park(http.loop, &c.waiter, c.x.blob, <unsigned long long>(c.x.offset // CHUNK_BYTES), damaged)
        exchange_parked(&c.x, c.waiter.followed)
    return WAIT


cdef void addresses_of(loop_t* loop, connection_t* c, sockaddr_storage* peer, sockaddr_storage* local) noexcept nogil:
    cdef socklen_t n = sizeof(sockaddr_storage)
    peer.ss_family = 0
    local.ss_family = 0
    getpeername(c.fd, <sockaddr*>peer, &n)
    n = sizeof(sockaddr_storage)
    getsockname(c.fd, <sockaddr*>local, &n)
    if local.ss_family == AF_UNIX and loop.tls != NULL:
        loop.tls_addresses(loop, c.fd, peer, local)


cdef int ask(http_t* http, connection_t* c) noexcept nogil:
    cdef sockaddr_storage peer
    cdef sockaddr_storage local
    cdef int status
    addresses_of(http.loop, c, &peer, &local)
    status = loop_ask(http.loop, &c.waiter, PROTO_HTTP, http.scene.name, http.scene.name_length, &peer, &local)
    if status != ST_OK:
        return exchange_answer(&c.x, &http.scene, http.input + http.at, http.have, status, NULL)
    timer_clear(http, c)
    store(http, c)
    return WAIT


cdef void on_wake(loop_t* loop, waiter_t* w, int status, blob_t* blob) noexcept nogil:
    cdef connection_t* c = <connection_t*>(<char*>w - sizeof(handler_t))
    c.woken = 1
    c.wake_status = status
    if blob != NULL:
        blob_retain(blob)            # released in wake, or in connection_free
        c.answer = blob
    enqueue(<http_t*>loop.http, c, QUEUE_HOT if c.x.state == EXCHANGE_ASKED else QUEUE_BULK)


cdef int wake(http_t* http, connection_t* c) noexcept nogil:
    cdef blob_t* answer = c.answer
    cdef int action
    c.woken = 0
    if c.x.state == EXCHANGE_PARKED:                     # head_bytes 0: dropped before the byte was missed
        return exchange_wake(&c.x, &http.scene, http.input + http.at, http.have if c.x.head_bytes else 0, c.wake_status)
    c.answer = NULL
    action = exchange_answer(&c.x, &http.scene, http.input + http.at, http.have, c.wake_status, answer)
    if answer != NULL:
        blob_release(answer)         # retained in on_wake
    return action


cdef int hand_over(http_t* http, connection_t* c) noexcept nogil:
    cdef sockaddr_storage peer
    cdef sockaddr_storage local
    addresses_of(http.loop, c, &peer, &local)
    timer_clear(http, c)
    if http.loop.tls != NULL:
        http.loop.tls_away(http.loop, c.fd, True)        # before: Python may have closed it afterwards
    if loop_hand_over(http.loop, c.fd, <unsigned char*>http.input + http.at, http.have, &peer, &local) == ST_OK:
        count(http.loop.counters, C_HTTP_HANDED_OVER)
        exchange_handed_over(&c.x, &http.scene)
        connection_free(http, c)
        return WAIT
    if http.loop.tls != NULL:
        http.loop.tls_away(http.loop, c.fd, False)
    if loop_add(http.loop, c.fd, &c.handler, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) != ST_OK:    # it was taken out
        return lost(http, c)
    return exchange_refuse(&c.x, &http.scene, 503, b"too many requests wait to be answered", 1)


# -- turns -----------------------------------------------------------------------------------------------------------

cdef void go_on(http_t* http, connection_t* c, int action, int queue) noexcept nogil:
    while action != WAIT:
        if action == DO_READ:
            action = read_more(http, c)
        elif action == DO_TEXT:
            action = send_text(http, c)
        elif action == DO_SEND:
            action = send_body(http, c, queue)
            queue = QUEUE_HOT        # one turn of bulk; what is pipelined behind it waits for the next
        elif action == DO_PARK or action == DO_MEND:
            action = park(http, c, action == DO_MEND)
        elif action == DO_ASK:
            action = ask(http, c)
        elif action == DO_HAND_OVER:
            action = hand_over(http, c)
        elif action == DO_CLOSE:
            action = close_cleanly(http, c)
        else:
            action = reset(http, c)


cdef bint is_dead(connection_t* c) noexcept nogil:
    """EPOLLERR or EPOLLHUP came for one that waits for the cache. A look: the event may be of an earlier life."""
    cdef char byte
    c.failed = 0
    return recv(c.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 and errno != EAGAIN and errno != EINTR


cdef void step(http_t* http, connection_t* c, int queue) noexcept nogil:
    cdef int action = WAIT
    http.answered = 0
    if c.lingering:
        linger(http, c)
        return
    if (c.x.state == EXCHANGE_PARKED or c.x.state == EXCHANGE_ASKED) and not c.woken:
        if c.failed and is_dead(c):
            lost(http, c)
        return
    running(http, c)
    load(http, c)
    if c.woken:
        action = wake(http, c)
    elif c.x.state == EXCHANGE_HEAD:
        if http.have and c.x.seen < http.have:
            action = exchange_feed(&c.x, &http.scene, http.input, http.have)
        else:
            action = DO_READ
    elif c.x.state == EXCHANGE_TEXT:
        action = DO_TEXT
    else:
        action = DO_SEND
    go_on(http, c, action, queue)


cdef void cut_reader(http_t* http, connection_t* c) noexcept nogil:
    timer_clear(http, c)
    running(http, c)
    http.answered = 0
    load(http, c)
    go_on(http, c, exchange_expire(&c.x, &http.scene, DEADLINE_SEND), QUEUE_HOT)


cdef void expire(http_t* http, connection_t* c) noexcept nogil:
    cdef int timer = c.timer
    timer_clear(http, c)
    running(http, c)
    http.answered = 0
    if timer == TIMER_LINGER:
        end(http, c)
    elif timer == TIMER_SEND and still_reads(http, c):
        timer_set(http, c, TIMER_SEND)
    elif timer == TIMER_SEND:
        cut_reader(http, c)
    elif timer == TIMER_PROBE:       # ask the kernel again: no room starts the longer wait, a cut file is found out
        enqueue(http, c, QUEUE_BULK)
    else:
        load(http, c)
        if timer == TIMER_HEAD:
            c.x.head_bytes = http.have
            go_on(http, c, exchange_expire(&c.x, &http.scene, DEADLINE_HEAD), QUEUE_HOT)
        else:
            go_on(http, c, exchange_expire(&c.x, &http.scene, DEADLINE_IDLE), QUEUE_HOT)


cdef void refuse(http_t* http, connection_t* c, const char* why) noexcept nogil:
    http.at = 0
    http.have = 0
    running(http, c)
    c.readable = 1                   # its request is on the way: read it before closing
    go_on(http, c, exchange_refuse(&c.x, &http.scene, 503, why, 1), QUEUE_HOT)
