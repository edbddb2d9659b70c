"""The HTTPS listeners of one reactor: who is let in, whose turn it is, and when patience ends.

    HELLO ──first record whole──▶ READY ──a place──▶ SHAKE ──done──▶ OPEN ──HTTP has ended──▶ LINGER ──▶ closed
      │ text: 400; else no TLS          │                │                │ the client is gone, or broke TLS
      ▼                                 ▼ deadlines      ▼                ▼
    closed                            closed           closed           closed

A client costs 136 bytes until its first record is here as a whole, so that ten thousand that connect and say nothing,
or half a ClientHello, are 1.4 MB and a deadline.

Events only take notes, as in http_service: all work is done in the tick, in the order in which sessions were queued, a
bounded round at a time. So nothing ends while events for it may still be delivered.

Leaves to others: listening sockets (listeners), memory, lists and ends of sessions (tls_sessions), who may begin a
handshake (tls_handshakes), the bytes of a session (tls_session), what HTTP asks about one (tls_far), and what clients
ask for (HTTP).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from bootplane.core.counters cimport (
    C_TLS_CLOSED, C_TLS_CONNECTIONS, C_TLS_FAILED_GONE, C_TLS_FAILED_TIMEOUT, C_TLS_REFUSED, count,
)
from bootplane.core.deadlines cimport deadlines_next
from bootplane.core.http_addresses cimport addresses_release, addresses_take, address_t
from bootplane.core.linux cimport (
    EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, bp_load_int, close, monotonic_ns, sockaddr_storage,
)
from bootplane.core.listeners cimport listeners_accept, listeners_end, listeners_free, listeners_start
from bootplane.core.loop cimport NEVER, handler_t, loop_add, loop_add_ticker, loop_t, ticker_t
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_NOMEM, ST_OK
from bootplane.core.tls cimport TLS_READY, TLS_WAITS_IN, TLS_WAITS_OUT
from bootplane.core.tls_far cimport left_for_client, tls_addresses, tls_away, tls_socket, tls_unsent
from bootplane.core.tls_handshakes cimport begin_handshake, greet, shake
from bootplane.core.tls_session cimport (
    SESSION_HELLO, SESSION_LINGER, SESSION_OPEN, SESSION_READY, SESSION_SHAKE, session_pump, session_t,
)
from bootplane.core.tls_sessions cimport (
    TIMER_COUNT, TIMER_FLUSH, TIMER_HELLO, TIMER_LINGER, TIMER_NONE, TIMER_READY, TIMER_SHAKE, aged_ns, dequeue, end,
    enqueue, fail, is_aged, linger, linger_on, service_t, session_at, session_new, sessions_free, timer_set,
)

cdef enum:
    TURN_BYTES = 262144              # of one session before others get their turn
    ROUND_BYTES = 2097152            # of all between two looks at new events: about 1 ms of AES
    LINGER_NS = 2000000000


# -- events ----------------------------------------------------------------------------------------------------------

cdef void on_outer(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil:
    cdef session_t* s = <session_t*>self
    cdef uint8_t ready = 0
    if s.outer < 0:
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        ready |= TLS_WAITS_IN
        s.outer_event = 1
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        s.half = 1
    if events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
        ready |= TLS_WAITS_OUT
    if s.state >= SESSION_SHAKE and s.state <= SESSION_OPEN:
        if not ((s.read_wait & ready) or (s.write_wait & ready)):
            return                   # it is queued, or neither direction waits for this
        if s.read_wait & ready:
            s.read_wait = TLS_READY
        if s.write_wait & ready:
            s.write_wait = TLS_READY
    elif not s.outer_event:
        return
    if s.state != SESSION_READY:     # its place comes with another one's end
        enqueue(<service_t*>loop.tls, s)


cdef void on_inner(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil:
    cdef session_t* s = <session_t*>(<char*>self - sizeof(handler_t))
    if s.outer < 0 or s.state != SESSION_OPEN:
        return
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        s.inner_empty = 0
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        s.ending = 1
    if events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
        s.inner_full = 0
    enqueue(<service_t*>loop.tls, s)


# -- turns -----------------------------------------------------------------------------------------------------------
cdef void pump(service_t* t, session_t* s, int64_t* spent) noexcept nogil:
    cdef int64_t moved = 0
    cdef int status = session_pump(s, t.loop.scratch, TURN_BYTES, &moved)
    spent[0] += moved + 4096         # what a turn costs besides its bytes
    if status == ST_CLOSED and s.read_wait == TLS_WAITS_IN:
        end(t, s, False)             # nothing of the client's is unread
    elif status == ST_CLOSED:
        linger(t, s)
    elif status == ST_AGAIN:
        enqueue(t, s)
    elif status != ST_OK:
        end(t, s, False)
    elif s.ending and s.timer == TIMER_NONE:
        s.mark = left_for_client(s)
        timer_set(t, s, TIMER_FLUSH)


cdef void expire(service_t* t, session_t* s) noexcept nogil:
    cdef int64_t left
    if s.timer == TIMER_LINGER:
        end(t, s, False)
    elif s.timer == TIMER_FLUSH:
        left = left_for_client(s)
        if left == s.mark:
            end(t, s, True)
        else:
            s.mark = left
            timer_set(t, s, TIMER_FLUSH)
    else:
        fail(t, s, C_TLS_FAILED_TIMEOUT)


cdef void step(service_t* t, session_t* s, int64_t* spent) noexcept nogil:
    if s.timer != TIMER_NONE and s.deadline.due_ns <= t.loop.now_ns:
        expire(t, s)                 # it stood in the queue then
    elif s.state == SESSION_OPEN:
        pump(t, s, spent)
    elif s.state == SESSION_LINGER:
        linger_on(t, s)
    elif t.loop.draining:            # it has asked for nothing yet
        fail(t, s, C_TLS_FAILED_GONE)
    elif s.state == SESSION_HELLO:
        greet(t, s, spent)
    elif s.state == SESSION_READY:
        begin_handshake(t, s, spent)
    else:
        shake(t, s, spent)


# -- clients come ----------------------------------------------------------------------------------------------------

cdef bint make_room(service_t* t) noexcept nogil:
    """The one that has said nothing for longest leaves, when it has had a second."""
    cdef session_t* s = session_at(t.timers[<int>TIMER_HELLO].first)
    if not is_aged(t, s):
        return False
    fail(t, s, C_TLS_FAILED_TIMEOUT)
    return True


cdef void turn_away(service_t* t, int fd) noexcept nogil:
    count(t.loop.counters, C_TLS_REFUSED)
    count(t.loop.counters, C_TLS_CLOSED)
    close(fd)


cdef void admit(service_t* t, int fd, const sockaddr_storage* peer) noexcept nogil:
    cdef session_t* s
    cdef address_t* address
    cdef uint32_t held = 0
    while <int64_t>bp_load_int(&t.options.addresses.open) >= t.options.max_sessions:
        if not make_room(t):
            turn_away(t, fd)
            return
    address = addresses_take(t.options.addresses, peer, &held)       # released in end
    if address == NULL or (t.options.max_per_address and held > t.options.max_per_address):
        if address != NULL:
            addresses_release(t.options.addresses, address)
        turn_away(t, fd)
        return
    s = session_new(t, fd)
    if s == NULL:
        addresses_release(t.options.addresses, address)
        turn_away(t, fd)
        return
    s.address = address
    s.outer_handler.on_event = on_outer
    s.inner_handler.on_event = on_inner
    if loop_add(t.loop, fd, &s.outer_handler, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) != ST_OK:
        fail(t, s, C_TLS_FAILED_GONE)
        return
    timer_set(t, s, TIMER_HELLO)


cdef void tls_admit(loop_t* loop, int fd, const sockaddr_storage* peer) noexcept nogil:
    count(loop.counters, C_TLS_CONNECTIONS)
    admit(<service_t*>loop.tls, fd, peer)


cdef bint make_room_for_descriptor(loop_t* loop) noexcept nogil:
    return make_room(<service_t*>loop.tls)


# -- the tick --------------------------------------------------------------------------------------------------------

cdef void begin_drain(service_t* t) noexcept nogil:
    """Who has not finished a handshake has asked for nothing; the others are HTTP's to finish or to end."""
    cdef session_t* s
    cdef session_t* after
    cdef int timer
    t.drain_asked = 0
    listeners_end(&t.listeners, False)
    for timer in range(<int>TIMER_HELLO, <int>TIMER_SHAKE + 1):
        s = session_at(t.timers[timer].first)
        while s != NULL:
            after = session_at(s.deadline.after)
            if not s.queued:         # else its turn comes: step ends it then
                fail(t, s, C_TLS_FAILED_GONE)
            s = after


cdef int64_t tick(loop_t* loop, ticker_t* self) noexcept nogil:
    cdef service_t* t = <service_t*>loop.tls
    cdef session_t* s
    cdef session_t* after
    cdef session_t* oldest
    cdef session_t* waiting
    cdef int64_t spent = 0
    cdef int64_t due
    cdef int timer
    listeners_accept(&t.listeners)
    while spent < ROUND_BYTES:
        s = dequeue(t)
        if s == NULL:
            break
        step(t, s, &spent)
    if spent > ROUND_BYTES // 2:
        loop.now_ns = monotonic_ns()
    for timer in range(1, <int>TIMER_COUNT):
        s = session_at(t.timers[timer].first)
        while s != NULL and s.deadline.due_ns <= loop.now_ns:
            after = session_at(s.deadline.after)         # what expires touches its own links alone, or goes to the end
            if not s.queued:         # else it expires when its turn comes
                expire(t, s)
            s = after
    if t.drain_asked:
        begin_drain(t)
    oldest = session_at(t.timers[<int>TIMER_SHAKE].first)
    waiting = session_at(t.timers[<int>TIMER_READY].first)
    if waiting != NULL and is_aged(t, oldest):
        enqueue(t, waiting)
    if t.first != NULL:
        return 0
    due = deadlines_next(&t.timers[1], TIMER_COUNT - 1, t.listeners.again_ns)         # not of TIMER_NONE
    if waiting != NULL and oldest != NULL and aged_ns(t, oldest) < due:
        due = aged_ns(t, oldest)
    return due


# -- start and stop --------------------------------------------------------------------------------------------------

cdef void drain(loop_t* loop) noexcept nogil:
    cdef service_t* t = <service_t*>loop.tls
    t.drain_asked = 1
    t.ticker.due_ns = 0


cdef void detach(loop_t* loop) noexcept nogil:
    loop.tls = NULL
    loop.drain_tls = NULL
    loop.tls_addresses = NULL
    loop.tls_socket = NULL
    loop.tls_unsent = NULL
    loop.tls_away = NULL


cdef int tls_start(loop_t* loop, const int* fds, int n, const tls_options_t* options) noexcept nogil:
    cdef service_t* t = <service_t*>calloc(1, sizeof(service_t))
    cdef int status
    if t == NULL:
        return ST_NOMEM
    t.loop = loop
    t.options = options[0]
    t.timers[<int>TIMER_HELLO].span_ns = options.hello_timeout_ns
    t.timers[<int>TIMER_READY].span_ns = options.hello_timeout_ns
    t.timers[<int>TIMER_SHAKE].span_ns = options.hello_timeout_ns
    t.timers[<int>TIMER_FLUSH].span_ns = options.send_timeout_ns
    t.timers[<int>TIMER_LINGER].span_ns = LINGER_NS
    t.ticker.tick = tick
    t.ticker.due_ns = NEVER
    loop.tls = t
    loop.drain_tls = drain
    loop.tls_addresses = tls_addresses
    loop.tls_socket = tls_socket
    loop.tls_unsent = tls_unsent
    loop.tls_away = tls_away
    t.listeners.loop = loop
    t.listeners.ticker = &t.ticker
    t.listeners.admit = tls_admit
    t.listeners.make_room = make_room_for_descriptor
    t.listeners.hold = options.hold
    t.listeners.inherited = options.inherited
    status = listeners_start(&t.listeners, fds, n)
    if status != ST_OK:
        detach(loop)
        free(t)
        return status
    # Before HTTP's in the list: what a client has sent is with HTTP in the same wake-up.
    loop_add_ticker(loop, &t.ticker)
    return ST_OK


cdef void tls_stop(loop_t* loop) noexcept nogil:
    cdef service_t* t = <service_t*>loop.tls
    if t == NULL:
        return
    while dequeue(t) != NULL:
        pass
    sessions_free(t)
    free(t.by_far)
    listeners_free(&t.listeners)
    free(t)
    detach(loop)


# -- for Python ------------------------------------------------------------------------------------------------------

def session_bytes():
    """User memory of one client that has not sent its hello."""
    return sizeof(session_t)
