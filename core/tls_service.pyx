"""The HTTPS listeners of one reactor: who is let in, whose turn it is, and when patience ends.

    HELLO ──first record whole──▶ READY ──a place──▶ SHAKE ──done──▶ OPEN ──HTTP has ended──▶ LINGER ──▶ closed
      │ text: 400; else no TLS          │                │                │ the client is gone, or broke TLS
      ▼                                 ▼ deadlines      ▼                ▼
    closed                            closed           closed           closed

A client costs 136 bytes until its first record is here as a whole, so that ten thousand that connect and say nothing,
or half a ClientHello, are 1.4 MB and a deadline.

Events only take notes, as in http_service: all work is done in the tick, in the order in which sessions were queued, a
bounded round at a time. So nothing ends while events for it may still be delivered.

Leaves to others: memory, lists and ends of sessions (tls_sessions), who may begin a handshake (tls_handshakes), the
bytes of a session (tls_session), what HTTP asks about one (tls_far), and what clients ask for (HTTP).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from bootplane.core.counters cimport (
    C_TLS_CLOSED, C_TLS_CONNECTIONS, C_TLS_FAILED_GONE, C_TLS_FAILED_TIMEOUT, C_TLS_REFUSED, count,
)
from bootplane.core.http_addresses cimport addresses_release, addresses_take, address_t
from bootplane.core.linux cimport (
    EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOMEM, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN,
    EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, SHUT_RDWR, SOCK_CLOEXEC, SOCK_NONBLOCK, TCP_NODELAY, accept4, bp_load_int,
    close, errno, monotonic_ns, setsockopt, shutdown, sockaddr, sockaddr_storage, socklen_t,
)
from bootplane.core.loop cimport NEVER, handler_t, loop_add, loop_add_ticker, loop_remove, loop_t, ticker_t
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_NOMEM, ST_OK
from bootplane.core.tls cimport TLS_READY, TLS_WAITS_IN, TLS_WAITS_OUT
from bootplane.core.tls_far cimport left_for_client, tls_addresses, tls_away, tls_socket, tls_unsent
from bootplane.core.tls_handshakes cimport begin_handshake, greet, shake
from bootplane.core.tls_session cimport (
    SESSION_HELLO, SESSION_LINGER, SESSION_OPEN, SESSION_READY, SESSION_SHAKE, session_pump, session_t,
)
from bootplane.core.tls_sessions cimport (
    TIMER_COUNT, TIMER_FLUSH, TIMER_HELLO, TIMER_LINGER, TIMER_NONE, TIMER_READY, TIMER_SHAKE, aged_ns, dequeue, end,
    enqueue, fail, is_aged, linger, linger_on, listener_t, service_t, session_new, sessions_free, timer_set,
)

cdef extern from "<errno.h>" nogil:
    enum: ENOBUFS
    enum: EPROTO

cdef enum:
    TURN_BYTES = 262144              # of one session before others get their turn
    ROUND_BYTES = 2097152            # of all between two looks at new events: about 1 ms of AES
    LINGER_NS = 2000000000
    ACCEPT_AGAIN_NS = 100000000      # when the process had no descriptor left


# -- events ----------------------------------------------------------------------------------------------------------

cdef void on_listener(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil:
    (<listener_t*>self).pending = 1
    (<service_t*>loop.tls).ticker.due_ns = 0


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
    if s.timer != TIMER_NONE and s.due_ns <= t.loop.now_ns:
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
    cdef session_t* s = t.timers[<int>TIMER_HELLO].first
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


cdef int listen_on(service_t* t, listener_t* listener) noexcept nogil:
    return loop_add(t.loop, listener.fd, &listener.handler,
                    EPOLLIN | EPOLLET | (EPOLLEXCLUSIVE if t.options.inherited else 0))


cdef void accept_all(service_t* t, listener_t* listener) noexcept nogil:
    cdef sockaddr_storage peer
    cdef socklen_t n
    cdef int fd
    cdef bint accepted = False
    while True:
        n = sizeof(peer)
        fd = accept4(listener.fd, <sockaddr*>&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            accepted = True
            count(t.loop.counters, C_TLS_CONNECTIONS)
            admit(t, fd, &peer)
        elif errno == EAGAIN:
            listener.pending = 0
            if accepted and t.options.inherited:
                loop_remove(t.loop, listener.fd)         # to the end of the line, see http_service
                listen_on(t, listener)
            return
        elif errno == EMFILE or errno == ENFILE or errno == ENOMEM or errno == ENOBUFS:
            if errno == EMFILE and make_room(t):
                continue
            t.accept_again_ns = t.loop.now_ns + ACCEPT_AGAIN_NS      # they stay in the backlog; no edge will come
            return
        elif errno != EINTR and errno != ECONNABORTED and errno != EPROTO:
            listener.pending = 0
            return


cdef void accept_pending(service_t* t) noexcept nogil:
    cdef int i
    if t.options.hold and not t.loop.opened:
        return
    if t.loop.now_ns >= t.accept_again_ns:
        t.accept_again_ns = NEVER
    for i in range(t.listener_n):
        if t.listeners[i].pending and t.accept_again_ns == NEVER:
            accept_all(t, &t.listeners[i])


# -- the tick --------------------------------------------------------------------------------------------------------

cdef void begin_drain(service_t* t) noexcept nogil:
    """Who has not finished a handshake has asked for nothing; the others are HTTP's to finish or to end."""
    cdef session_t* s
    cdef session_t* after
    cdef int i
    cdef int timer
    t.drain_asked = 0
    for i in range(t.listener_n):
        if not t.options.inherited:
            shutdown(t.listeners[i].fd, SHUT_RDWR)
        t.listeners[i].pending = 0
        loop_remove(t.loop, t.listeners[i].fd)
    for timer in range(<int>TIMER_HELLO, <int>TIMER_SHAKE + 1):
        s = t.timers[timer].first
        while s != NULL:
            after = s.timer_next
            if not s.queued:         # else its turn comes: step ends it then
                fail(t, s, C_TLS_FAILED_GONE)
            s = after


cdef int64_t tick(loop_t* loop, ticker_t* self) noexcept nogil:
    cdef service_t* t = <service_t*>loop.tls
    cdef session_t* s
    cdef session_t* after
    cdef int64_t spent = 0
    cdef int64_t due = NEVER
    cdef int timer
    accept_pending(t)
    while spent < ROUND_BYTES:
        s = dequeue(t)
        if s == NULL:
            break
        step(t, s, &spent)
    if spent > ROUND_BYTES // 2:
        loop.now_ns = monotonic_ns()
    for timer in range(1, <int>TIMER_COUNT):
        s = t.timers[timer].first
        while s != NULL and s.due_ns <= loop.now_ns:
            after = s.timer_next     # what expires touches its own links alone, or goes to the end
            if not s.queued:         # else it expires when its turn comes
                expire(t, s)
            s = after
    if t.drain_asked:
        begin_drain(t)
    if t.timers[<int>TIMER_READY].first != NULL and is_aged(t, t.timers[<int>TIMER_SHAKE].first):
        enqueue(t, t.timers[<int>TIMER_READY].first)
    if t.first != NULL:
        return 0
    for timer in range(1, <int>TIMER_COUNT):
        if t.timers[timer].first != NULL and t.timers[timer].first.due_ns < due:
            due = t.timers[timer].first.due_ns
    s = t.timers[<int>TIMER_SHAKE].first
    if t.timers[<int>TIMER_READY].first != NULL and s != NULL and aged_ns(t, s) < due:
        due = aged_ns(t, s)
    return due if due < t.accept_again_ns else t.accept_again_ns


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
    cdef int one = 1
    cdef int i
    cdef int status
    if t == NULL:
        return ST_NOMEM
    t.listeners = <listener_t*>calloc(n if n else 1, sizeof(listener_t))
    if t.listeners == NULL:
        free(t)
        return ST_NOMEM
    t.loop = loop
    t.options = options[0]
    t.timers[<int>TIMER_HELLO].span_ns = options.hello_timeout_ns
    t.timers[<int>TIMER_READY].span_ns = options.hello_timeout_ns
    t.timers[<int>TIMER_SHAKE].span_ns = options.hello_timeout_ns
    t.timers[<int>TIMER_FLUSH].span_ns = options.send_timeout_ns
    t.timers[<int>TIMER_LINGER].span_ns = LINGER_NS
    t.accept_again_ns = NEVER
    t.ticker.tick = tick
    t.ticker.due_ns = NEVER
    loop.tls = t
    loop.drain_tls = drain
    loop.tls_addresses = tls_addresses
    loop.tls_socket = tls_socket
    loop.tls_unsent = tls_unsent
    loop.tls_away = tls_away
    for i in range(n):
        t.listeners[i].handler.on_event = on_listener
        t.listeners[i].fd = fds[i]
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))      # accepted sockets inherit it
        status = listen_on(t, &t.listeners[i])
        if status != ST_OK:
            while i > 0:
                i -= 1
                loop_remove(loop, fds[i])
            detach(loop)
            free(t.listeners)
            free(t)
            return status
        t.listener_n = i + 1
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
    free(t.listeners)
    free(t)
    detach(loop)


# -- for Python ------------------------------------------------------------------------------------------------------

def session_bytes():
    """User memory of one client that has not sent its hello."""
    return sizeof(session_t)
