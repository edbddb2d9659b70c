"""The HTTP service of one reactor: who gets its turn, and when.

Events only take notes and put connections into queues; all work is done in the tick that follows each batch of
events. So nothing is freed while events for it may still be delivered, and the order is ours: new connections first,
then requests and small answers, then one bounded round of turns of large bodies, then deadlines. A fast reader of a
large file costs the others one turn.

Leaves to others: listening sockets (listeners), what a connection says (http_exchange), what it does on its socket
(http_steps).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from bootplane.core.counters cimport C_HTTP_ADOPTED, C_HTTP_CLOSED, C_HTTP_CONNECTIONS, C_HTTP_REFUSED, count
from bootplane.core.http_addresses cimport addresses_take, port_of
from bootplane.core.http_close cimport end
from bootplane.core.http_connection cimport (
    INPUT_BYTES, OUT_AT, QUEUE_BULK, QUEUE_HOT, QUEUE_NONE, TIMER_COUNT, TIMER_FIRST, TIMER_HEAD, TIMER_IDLE,
    TIMER_LINGER, TIMER_PROBE, TIMER_SEND, connection_at, connection_new, connection_t, connections_free, dequeue,
    enqueue, http_t, timer_clear, timer_due, timer_next, timer_set,
)
from bootplane.core.http_groups cimport group_round, groups_leave
from bootplane.core.http_exchange cimport EXCHANGE_BODY, EXCHANGE_HEAD, EXCHANGE_TEXT
from bootplane.core.http_shortage cimport make_room, mind_places, patrol
from bootplane.core.http_steps cimport expire, on_wake, refuse, step
from bootplane.core.linux cimport (
    AF_UNIX, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, bp_load_int, close, getpeername, monotonic_ns,
    sockaddr, sockaddr_storage, socklen_t,
)
from bootplane.core.listeners cimport listeners_accept, listeners_end, listeners_free, listeners_start
from bootplane.core.loop cimport NEVER, handler_t, loop_add, loop_add_ticker, loop_t, ticker_t
from bootplane.core.pipe cimport pipe_close, pipe_open
from bootplane.core.status cimport ST_NOMEM, ST_OK

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int cmd, ...)
    enum: F_SETFL
    enum: O_NONBLOCK

cdef enum:
    ROUND_BYTES = 8388608            # of large bodies between two looks at new events: about 1 ms
    REFUSED_AT_ONCE = 256            # connections beyond the limit that are told so; further ones are just closed
    PROBE_NS = 1000000000
    LINGER_NS = 2000000000
    FIRST_NS = 1000000000
    FRESH_NS = 1000000000            # idle for less: ended for want of a place, and not for want of a descriptor


# -- events ----------------------------------------------------------------------------------------------------------

cdef void on_connection(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil:
    cdef connection_t* c = <connection_t*>self
    cdef http_t* http = <http_t*>loop.http
    cdef int state = c.x.state
    if c.fd < 0:
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        c.readable = 1
    if events & EPOLLRDHUP:
        c.half = 1
    if events & (EPOLLHUP | EPOLLERR):
        c.failed = 1
        enqueue(http, c, QUEUE_HOT)
    elif c.lingering or state == EXCHANGE_HEAD:
        if c.readable:               # a new connection's first event says only that it can be written to
            enqueue(http, c, QUEUE_HOT)
    elif events & EPOLLOUT:
        if state == EXCHANGE_TEXT:
            enqueue(http, c, QUEUE_HOT)
        elif state == EXCHANGE_BODY:
            enqueue(http, c, QUEUE_BULK)


# -- connections come ------------------------------------------------------------------------------------------------

cdef void turn_away(http_t* http, int fd) noexcept nogil:
    count(http.loop.counters, C_HTTP_CLOSED)
    close(fd)


cdef void admit(http_t* http, int fd, const sockaddr_storage* peer, char* data, size_t n) noexcept nogil:
    """Takes over a connected socket, with bytes already read from it (malloc'd, may be NULL)."""
    cdef connection_t* c
    cdef uint32_t held = 0
    cdef int64_t others = bp_load_int(&http.options.addresses.open)
    cdef bint crowded
    while others >= http.options.max_connections and make_room(http, 0):
        others = bp_load_int(&http.options.addresses.open)       # who left may have been one above the limit
    crowded = others >= http.options.max_connections
    if (crowded and others >= <int64_t>http.options.max_connections + REFUSED_AT_ONCE) or n > INPUT_BYTES:
        count(http.loop.counters, C_HTTP_REFUSED)
        free(data)
        turn_away(http, fd)
        return
    c = connection_new(http, fd)
    if c == NULL:
        free(data)
        turn_away(http, fd)
        return
    c.handler.on_event = on_connection
    c.waiter.on_wake = on_wake
    c.data = data
    c.data_n = <uint32_t>n
    c.port = port_of(peer)
    c.address = addresses_take(http.options.addresses, peer, &held)      # released in connection_free
    mind_places(http)
    if c.address == NULL or loop_add(http.loop, fd, &c.handler, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) != ST_OK:
        end(http, c)
    elif crowded:
        count(http.loop.counters, C_HTTP_REFUSED)
        refuse(http, c, b"this server holds as many connections as it may")
    elif http.options.max_per_address and held > http.options.max_per_address:
        count(http.loop.counters, C_HTTP_REFUSED)
        refuse(http, c, b"your address holds as many connections as it may")
    else:
        timer_set(http, c, TIMER_IDLE)
        if n:
            enqueue(http, c, QUEUE_HOT)


cdef bint make_room_for_descriptor(loop_t* loop) noexcept nogil:
    return make_room(<http_t*>loop.http, FRESH_NS)


cdef void adopt(loop_t* loop, int fd, uint8_t* data, size_t n) noexcept nogil:
    cdef http_t* http = <http_t*>loop.http
    cdef sockaddr_storage peer
    cdef sockaddr_storage local
    cdef socklen_t length = sizeof(peer)
    peer.ss_family = 0
    getpeername(fd, <sockaddr*>&peer, &length)
    if peer.ss_family == AF_UNIX and loop.tls != NULL:
        peer.ss_family = 0
        loop.tls_addresses(loop, fd, &peer, &local)
        loop.tls_away(loop, fd, False)
    fcntl(fd, F_SETFL, O_NONBLOCK)   # sendfile has no flag for it, and a thread that waits serves nobody
    count(loop.counters, C_HTTP_ADOPTED)
    if n == 0:
        free(data)
        data = NULL
    set_scene(http)                  # this runs before the tick
    admit(http, fd, &peer, <char*>data, n)


cdef void http_admit(loop_t* loop, int fd, const sockaddr_storage* peer) noexcept nogil:
    cdef http_t* http = <http_t*>loop.http
    count(loop.counters, C_HTTP_CONNECTIONS)
    set_scene(http)                  # HTTPS calls this outside our tick
    admit(http, fd, peer, NULL, 0)


# -- turns -----------------------------------------------------------------------------------------------------------

cdef void set_scene(http_t* http) noexcept nogil:
    http.scene.table = http.loop.table
    http.scene.draining = http.loop.draining


cdef void begin_drain(http_t* http) noexcept nogil:
    cdef connection_t* c
    cdef connection_t* after
    http.drain_asked = 0
    listeners_end(&http.listeners, True)     # who was let in before has the last look below
    c = connection_at(http.timers[<int>TIMER_IDLE].first)
    while c != NULL:
        after = connection_at(c.deadline.after)
        c.readable = 1               # a last look: a request that is here already is answered, else the connection ends
        step(http, c, QUEUE_HOT)
        c = after


cdef int64_t tick(loop_t* loop, ticker_t* self) noexcept nogil:
    cdef http_t* http = <http_t*>loop.http
    cdef connection_t* c
    cdef int timer
    set_scene(http)
    listeners_accept(&http.listeners)
    c = dequeue(http, QUEUE_HOT)
    while c != NULL:                 # ends: a connection that wants a further turn goes to the other queue
        step(http, c, QUEUE_HOT)
        c = dequeue(http, QUEUE_HOT)
    http.spent = 0
    http.turn_ns = NEVER
    if http.waiting:
        group_round(http, ROUND_BYTES)
    while http.spent < ROUND_BYTES:
        c = dequeue(http, QUEUE_BULK)
        if c == NULL:
            break
        http.spent += 4096           # what a turn costs besides its bytes
        step(http, c, QUEUE_BULK)
    if http.spent > ROUND_BYTES // 2:
        loop.now_ns = monotonic_ns()
    for timer in range(1, <int>TIMER_COUNT):
        c = timer_due(http, timer)
        while c != NULL:
            if c.queue == QUEUE_NONE:
                expire(http, c)
            else:
                timer_clear(http, c)         # its turn is near and decides
            c = timer_due(http, timer)
    if loop.now_ns >= http.patrol_ns:
        patrol(http)
    if http.drain_asked:
        begin_drain(http)
    if http.queues[<int>QUEUE_HOT].first != NULL or http.queues[<int>QUEUE_BULK].first != NULL:
        return 0
    cdef int64_t due = timer_next(http)
    if http.turn_ns < due:
        due = http.turn_ns
    if http.patrol_ns < due:
        due = http.patrol_ns
    return due if due < http.listeners.again_ns else http.listeners.again_ns


cdef void drain(loop_t* loop) noexcept nogil:
    cdef http_t* http = <http_t*>loop.http
    http.drain_asked = 1
    http.ticker.due_ns = 0


# -- start and stop --------------------------------------------------------------------------------------------------

cdef void detach(loop_t* loop) noexcept nogil:
    loop.http = NULL
    loop.adopt = NULL
    loop.drain = NULL


cdef int http_start(loop_t* loop, const int* fds, int n, const http_options_t* options) noexcept nogil:
    cdef http_t* http = <http_t*>calloc(1, sizeof(http_t))
    cdef int status
    if http == NULL:
        return ST_NOMEM
    http.loop = loop
    http.options = options[0]
    if http.options.turn_bytes == 0:
        http.options.turn_bytes = 2 << 20
    http.turn_bytes = http.options.turn_bytes
    http.timers[<int>TIMER_IDLE].span_ns = options.idle_timeout_ns + options.idle_timeout_ns // 7    # see timer_touch
    http.timers[<int>TIMER_HEAD].span_ns = options.head_timeout_ns
    http.timers[<int>TIMER_PROBE].span_ns = PROBE_NS if PROBE_NS < options.send_timeout_ns else options.send_timeout_ns
    # by halves: the first is over when its reader is looked at, the second when it has taken nothing since
    http.timers[<int>TIMER_SEND].span_ns = (options.send_timeout_ns + options.send_timeout_ns // 7) // 2
    http.timers[<int>TIMER_LINGER].span_ns = LINGER_NS
    http.timers[<int>TIMER_FIRST].span_ns = FIRST_NS
    http.patrol_ns = NEVER
    http.input = <char*>loop.scratch
    http.scene.counters = loop.counters
    http.scene.date = loop.date
    http.scene.journal.records = loop.records
    http.scene.journal.counters = loop.counters
    http.scene.journal.now_ns = &loop.now_ns
    http.scene.control = options.control != 0
    http.scene.out = <char*>loop.scratch + OUT_AT
    http.ticker.tick = tick
    http.ticker.due_ns = NEVER
    loop.http = http
    loop.adopt = adopt
    loop.drain = drain
    http.listeners.loop = loop
    http.listeners.ticker = &http.ticker
    http.listeners.admit = http_admit
    http.listeners.make_room = make_room_for_descriptor
    http.listeners.hold = options.hold
    http.listeners.inherited = options.inherited
    status = listeners_start(&http.listeners, fds, n)
    if status != ST_OK:
        detach(loop)
        free(http)
        return status
    pipe_open(&http.pipe)            # closed in http_stop
    loop_add_ticker(loop, &http.ticker)
    return ST_OK


cdef void http_stop(loop_t* loop) noexcept nogil:
    cdef http_t* http = <http_t*>loop.http
    if http == NULL:
        return
    groups_leave(http)
    connections_free(http)
    listeners_free(&http.listeners)
    pipe_close(&http.pipe)
    free(http)
    detach(loop)
