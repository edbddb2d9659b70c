"""The HTTPS listeners of one reactor: who is let in, whose turn it is, and when patience ends.

    HELLO ──first record whole──▶ READY ──a place──▶ SHAKE ──done──▶ OPEN ──HTTP has ended──▶ LINGER ──▶ closed
      │ text: 400; else no TLS          │                │                │ the client is gone, or broke TLS
      ▼                                 ▼ deadlines      ▼                ▼
    closed                            closed           closed           closed

A client costs 136 bytes until its first record is here as a whole, so that ten thousand that connect and say nothing, or
half a ClientHello, are 1.4 MB and a deadline. Only max_handshakes are under way at a time, with what OpenSSL holds for
each; the next one waits for a place, and who has had one for a second while others wait leaves it.

Events only take notes, as in http_service: all work is done in the tick, in the order in which sessions were queued, a
bounded round at a time. A handshake with a 2048-bit RSA key takes as long as a megabyte of body; so it counts as one.

Leaves to others: the bytes of a session (tls_session), what they ask for (HTTP).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from bootplane.core.counters cimport (
    C_TLS_CLOSED, C_TLS_CONNECTIONS, C_TLS_FAILED_GONE, C_TLS_FAILED_PLAIN, C_TLS_FAILED_PROTOCOL,
    C_TLS_FAILED_TIMEOUT, C_TLS_HANDSHAKES, C_TLS_REFUSED, count,
)
from bootplane.core.http_addresses cimport addresses_release, addresses_take, address_t
from bootplane.core.http_connection cimport http_t
from bootplane.core.http_service cimport http_admit
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, AF_UNIX, EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOMEM, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE,
    EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, MSG_DONTWAIT, SHUT_RDWR, SHUT_WR, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_DOMAIN, TCP_NODELAY, TCP_NOTSENT_LOWAT, accept4, bp_add_int, bp_load_int, close,
    errno, getpeername, getsockname, getsockopt, monotonic_ns, recv, setsockopt, shutdown, sockaddr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socketpair, socklen_t, ssize_t,
)
from bootplane.core.loop cimport NEVER, handler_t, loop_add, loop_add_ticker, loop_remove, loop_t, ticker_t
from bootplane.core.sender cimport socket_reset
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_NOMEM, ST_OK
from bootplane.core.tls cimport TLS_READY, TLS_WAITS_IN, TLS_WAITS_OUT, tls_accept, tls_new
from bootplane.core.tls_session cimport (
    HELLO_BAD, HELLO_GONE, HELLO_HERE, HELLO_PLAIN, PLAIN_BYTES, SESSION_HELLO, SESSION_LINGER, SESSION_OPEN,
    SESSION_READY, SESSION_SHAKE, session_drop, session_hello, session_pump, session_refuse_plain, session_t,
)

cdef extern from "<errno.h>" nogil:
    enum: ENOBUFS
    enum: EPROTO

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    enum: FIONREAD

cdef extern from "<linux/sockios.h>" nogil:
    enum: SIOCOUTQ

cdef enum:
    SLAB = 128                       # sessions per allocation
    TURN_BYTES = 262144              # of one session before others get their turn
    ROUND_BYTES = 2097152            # of all between two looks at new events: about 1 ms of AES
    HANDSHAKE_COST = 1048576
    LINGER_NS = 2000000000
    AGED_NS = 1000000000             # what others wait for may go when it is as old
    ACCEPT_AGAIN_NS = 100000000      # when the process had no descriptor left
    LINGER_READS = 4
    LOW_BYTES = 131072               # what the kernel keeps unsent for a client

cdef enum session_timer_t:           # every session is in at most one list, in the order in which they are due
    TIMER_NONE = 0
    TIMER_HELLO
    TIMER_READY
    TIMER_SHAKE
    TIMER_FLUSH                      # HTTP has ended; the client has not got everything
    TIMER_LINGER
    TIMER_COUNT

cdef struct slab_t:
    slab_t* next
    session_t items[SLAB]

cdef struct list_t:
    session_t* first
    session_t* last
    int64_t span_ns

cdef struct listener_t:
    handler_t handler                # first
    int fd                           # borrowed
    uint8_t pending

cdef struct service_t:
    loop_t* loop
    ticker_t ticker
    tls_options_t options
    slab_t* slabs
    session_t* unused
    session_t* first                 # those that want a turn
    session_t* last
    list_t timers[6]                 # by session_timer_t
    uint32_t shaking                 # sessions in SHAKE
    uint32_t open                    # sessions alive
    session_t** by_far               # by the number of HTTP's end; owned
    uint32_t by_far_n
    listener_t* listeners            # owned array
    int listener_n
    int64_t accept_again_ns
    uint8_t drain_asked


# -- lists -----------------------------------------------------------------------------------------------------------

cdef void timer_clear(service_t* t, session_t* s) noexcept nogil:
    cdef list_t* list_ = &t.timers[s.timer]
    if s.timer == TIMER_NONE:
        return
    if s.timer_prev != NULL:
        s.timer_prev.timer_next = s.timer_next
    else:
        list_.first = s.timer_next
    if s.timer_next != NULL:
        s.timer_next.timer_prev = s.timer_prev
    else:
        list_.last = s.timer_prev
    s.timer = TIMER_NONE


cdef void timer_set(service_t* t, session_t* s, int timer) noexcept nogil:
    cdef list_t* list_ = &t.timers[timer]
    timer_clear(t, s)
    s.timer = <uint8_t>timer
    s.due_ns = t.loop.now_ns + list_.span_ns
    s.timer_prev = list_.last
    s.timer_next = NULL
    if list_.last != NULL:
        list_.last.timer_next = s
    else:
        list_.first = s
    list_.last = s


cdef void enqueue(service_t* t, session_t* s) noexcept nogil:
    if s.queued:
        return
    s.queued = 1
    s.queue_next = NULL
    if t.last != NULL:
        t.last.queue_next = s
    else:
        t.first = s
    t.last = s
    t.ticker.due_ns = 0


cdef session_t* dequeue(service_t* t) noexcept nogil:
    cdef session_t* s = t.first
    if s != NULL:
        t.first = s.queue_next
        if t.first == NULL:
            t.last = NULL
        s.queued = 0
    return s


cdef session_t* session_new(service_t* t, int fd) noexcept nogil:
    cdef slab_t* slab
    cdef session_t* s
    cdef int i
    if t.unused == NULL:
        slab = <slab_t*>calloc(1, sizeof(slab_t))
        if slab == NULL:
            return NULL
        slab.next = t.slabs
        t.slabs = slab
        for i in range(SLAB):
            slab.items[i].outer = -1
            slab.items[i].queue_next = t.unused
            t.unused = &slab.items[i]
    s = t.unused
    t.unused = s.queue_next
    memset(s, 0, sizeof(session_t))
    s.outer = fd
    s.inner = -1
    s.far = -1
    s.outer_handler.on_event = on_outer
    s.inner_handler.on_event = on_inner
    t.open += 1
    bp_add_int(&t.options.addresses.open, 1)
    t.loop.busy += 1                 # taken back in end, or while away
    return s


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


# -- ends ------------------------------------------------------------------------------------------------------------

cdef void leave_handshake(service_t* t, session_t* s) noexcept nogil:
    cdef session_t* waiting
    if s.state == SESSION_SHAKE:
        t.shaking -= 1
        waiting = t.timers[<int>TIMER_READY].first
        if waiting != NULL and not t.loop.stopping:
            enqueue(t, waiting)


cdef void forget_far(service_t* t, session_t* s) noexcept nogil:
    if s.far >= 0 and <uint32_t>s.far < t.by_far_n and t.by_far[s.far] == s:
        t.by_far[s.far] = NULL       # else it is another one's by now
    s.far = -1


cdef void end(service_t* t, session_t* s, bint with_reset) noexcept nogil:
    """It must not be in the queue, or have events of this wake-up still to come."""
    leave_handshake(t, s)
    timer_clear(t, s)
    forget_far(t, s)
    session_drop(s)
    if with_reset:
        socket_reset(s.outer)
    else:
        close(s.outer)               # leaves epoll by itself
    count(t.loop.counters, C_TLS_CLOSED)
    if s.address != NULL:
        addresses_release(t.options.addresses, s.address)
    s.address = NULL
    s.outer = -1
    s.state = SESSION_HELLO
    s.queue_next = t.unused
    t.unused = s
    t.open -= 1
    bp_add_int(&t.options.addresses.open, -1)
    if not s.away:
        t.loop.busy -= 1             # counted in session_new


cdef void fail(service_t* t, session_t* s, int why) noexcept nogil:
    """No handshake came of it. *why*: the counter."""
    count(t.loop.counters, why)
    end(t, s, False)


cdef void linger(service_t* t, session_t* s) noexcept nogil:
    """Our last words are with the kernel. A close over unread bytes would reset them away."""
    if shutdown(s.outer, SHUT_WR) < 0:
        end(t, s, False)
        return
    leave_handshake(t, s)
    s.state = SESSION_LINGER
    forget_far(t, s)
    session_drop(s)
    timer_set(t, s, TIMER_LINGER)
    s.outer_event = 1
    enqueue(t, s)


cdef void linger_on(service_t* t, session_t* s) noexcept nogil:
    cdef ssize_t n
    s.outer_event = 0
    for _ in range(LINGER_READS):
        n = recv(s.outer, t.loop.scratch, PLAIN_BYTES, MSG_DONTWAIT)
        if n < 0 and errno == EAGAIN:
            return
        if n == 0 or (n < 0 and errno != EINTR):
            end(t, s, False)
            return
    s.outer_event = 1
    enqueue(t, s)                    # it still sends; its timer runs


# -- handshakes ------------------------------------------------------------------------------------------------------

cdef bint remember_far(service_t* t, session_t* s) noexcept nogil:
    cdef uint32_t n = t.by_far_n
    cdef session_t** grown
    if <uint32_t>s.far >= n:
        n = (<uint32_t>s.far // 1024 + 1) * 1024
        grown = <session_t**>realloc(t.by_far, n * sizeof(session_t*))
        if grown == NULL:
            return False
        memset(grown + t.by_far_n, 0, (n - t.by_far_n) * sizeof(session_t*))
        t.by_far = grown
        t.by_far_n = n
    t.by_far[s.far] = s
    return True


cdef void open_session(service_t* t, session_t* s) noexcept nogil:
    """The handshake is done: the other end of a pair becomes HTTP's connection."""
    cdef sockaddr_storage peer
    cdef socklen_t n = sizeof(peer)
    cdef int pair[2]
    cdef int low = LOW_BYTES
    count(t.loop.counters, C_TLS_HANDSHAKES)
    memset(&peer, 0, sizeof(peer))
    if getpeername(s.outer, <sockaddr*>&peer, &n) < 0:
        end(t, s, False)             # gone meanwhile
        return
    if socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0:
        end(t, s, False)             # no descriptor left, and a client that will come again
        return
    s.inner = pair[0]
    s.far = pair[1]
    if (not remember_far(t, s)
            or loop_add(t.loop, s.inner, &s.inner_handler, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) != ST_OK):
        close(pair[1])
        end(t, s, False)
        return
    leave_handshake(t, s)
    timer_clear(t, s)
    s.state = SESSION_OPEN
    s.read_wait = TLS_READY          # its first request may be with OpenSSL already
    s.write_wait = TLS_READY
    s.inner_empty = 1
    setsockopt(s.outer, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, sizeof(low))   # else megabytes for a slow reader
    http_admit(t.loop, pair[1], &peer)
    enqueue(t, s)


cdef void shake(service_t* t, session_t* s, int64_t* spent) noexcept nogil:
    cdef int status = tls_accept(s.ssl, &s.read_wait)
    spent[0] += HANDSHAKE_COST
    if status == ST_OK:
        open_session(t, s)
    elif status == ST_CLOSED:
        fail(t, s, C_TLS_FAILED_GONE)
    elif status != ST_AGAIN:
        count(t.loop.counters, C_TLS_FAILED_PROTOCOL)
        linger(t, s)                 # OpenSSL has sent an alert


cdef int64_t aged_ns(service_t* t, session_t* s) noexcept nogil:
    """When it may go for the sake of others."""
    return s.due_ns - t.timers[s.timer].span_ns + AGED_NS


cdef bint is_aged(service_t* t, session_t* s) noexcept nogil:
    return s != NULL and not s.queued and aged_ns(t, s) <= t.loop.now_ns


cdef void begin_handshake(service_t* t, session_t* s, int64_t* spent) noexcept nogil:
    cdef session_t* oldest = t.timers[<int>TIMER_SHAKE].first
    if t.shaking >= t.options.max_handshakes and is_aged(t, oldest):
        fail(t, oldest, C_TLS_FAILED_TIMEOUT)
    if t.shaking >= t.options.max_handshakes:
        if s.state != SESSION_READY:
            s.state = SESSION_READY
            timer_set(t, s, TIMER_READY)
        return
    s.ssl = tls_new(t.options.context, s.outer)
    if s.ssl == NULL:
        fail(t, s, C_TLS_FAILED_GONE)
        return
    s.state = SESSION_SHAKE
    t.shaking += 1                   # taken back in leave_handshake
    timer_set(t, s, TIMER_SHAKE)
    shake(t, s, spent)


cdef void greet(service_t* t, session_t* s, int64_t* spent) noexcept nogil:
    cdef int hello
    s.outer_event = 0
    hello = session_hello(s)
    if hello == HELLO_HERE:
        begin_handshake(t, s, spent)
    elif hello == HELLO_PLAIN:
        count(t.loop.counters, C_TLS_FAILED_PLAIN)
        if session_refuse_plain(s):
            linger(t, s)
        else:
            end(t, s, False)
    elif hello == HELLO_BAD:
        fail(t, s, C_TLS_FAILED_PROTOCOL)
    elif hello == HELLO_GONE or s.half:
        fail(t, s, C_TLS_FAILED_GONE)


# -- turns -----------------------------------------------------------------------------------------------------------

cdef int64_t left_for_client(session_t* s) noexcept nogil:
    """All that it has not got."""
    cdef int unread = 0
    ioctl(s.inner, FIONREAD, &unread)
    return held_by_client(s) + unread


cdef int64_t held_by_client(session_t* s) noexcept nogil:
    """What the client has not got of what was read from HTTP: it shrinks by what the client's machine acknowledges."""
    cdef int left = 0
    ioctl(s.outer, SIOCOUTQ, &left)
    return <int64_t>left + (s.down_n - s.down_at if s.down != NULL else 0)


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


# -- what HTTP asks --------------------------------------------------------------------------------------------------

cdef session_t* session_of(loop_t* loop, int fd) noexcept nogil:
    """Whose other end *fd* is; NULL: nobody's. A number that is a plain connection's by now is AF_INET."""
    cdef service_t* t = <service_t*>loop.tls
    cdef int domain = 0
    cdef socklen_t n = sizeof(domain)
    if fd < 0 or <uint32_t>fd >= t.by_far_n or t.by_far[fd] == NULL:
        return NULL
    if getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 or domain != AF_UNIX:
        return NULL
    return t.by_far[fd]


cdef bint tls_addresses(loop_t* loop, int fd, sockaddr_storage* peer, sockaddr_storage* local) noexcept nogil:
    """The client's address, and the one it asked at with the port of plain HTTP: what is told of it must work without
    our certificate."""
    cdef session_t* s = session_of(loop, fd)
    cdef http_t* http = <http_t*>loop.http
    cdef sockaddr_storage plain
    cdef socklen_t n = sizeof(sockaddr_storage)
    cdef unsigned short port = 0
    peer.ss_family = 0
    local.ss_family = 0
    if s == NULL:
        return False
    getpeername(s.outer, <sockaddr*>peer, &n)
    n = sizeof(sockaddr_storage)
    getsockname(s.outer, <sockaddr*>local, &n)
    n = sizeof(sockaddr_storage)
    plain.ss_family = 0
    if http.listener_n and getsockname(http.listeners[0].fd, <sockaddr*>&plain, &n) == 0:
        port = (<sockaddr_in*>&plain).sin_port           # where both families have it
    if local.ss_family == AF_INET and port:
        (<sockaddr_in*>local).sin_port = port
    elif local.ss_family == AF_INET6 and port:
        (<sockaddr_in6*>local).sin6_port = port
    return True


cdef int tls_socket(loop_t* loop, int fd) noexcept nogil:
    cdef session_t* s = session_of(loop, fd)
    return s.outer if s != NULL else fd


cdef int tls_unsent(loop_t* loop, int fd) noexcept nogil:
    cdef session_t* s = session_of(loop, fd)
    return <int>held_by_client(s) if s != NULL else 0


cdef void tls_away(loop_t* loop, int fd, bint away) noexcept nogil:
    cdef session_t* s = session_of(loop, fd)
    if s != NULL and s.away != away:
        s.away = away                # a hand-over does not hold up a drain: plain ones are not counted either
        if away:
            loop.busy -= 1
        else:
            loop.busy += 1


cdef void drain(loop_t* loop) noexcept nogil:
    cdef service_t* t = <service_t*>loop.tls
    t.drain_asked = 1
    t.ticker.due_ns = 0


# -- start and stop --------------------------------------------------------------------------------------------------

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
    loop_add_ticker(loop, &t.ticker)     # before HTTP's in the list: what a client has sent is with HTTP in the same wake-up
    return ST_OK


cdef void tls_stop(loop_t* loop) noexcept nogil:
    cdef service_t* t = <service_t*>loop.tls
    cdef slab_t* slab
    cdef session_t* s
    cdef int64_t moved
    cdef int i
    if t == NULL:
        return
    while dequeue(t) != NULL:
        pass
    slab = t.slabs
    while slab != NULL:
        for i in range(SLAB):
            s = &slab.items[i]
            if s.outer < 0:
                continue
            if s.state == SESSION_OPEN:  # HTTP's last bytes, as far as the client's socket takes them
                s.inner_empty = 0
                moved = 0
                session_pump(s, loop.scratch, NEVER, &moved)
                end(t, s, False)
            elif s.state == SESSION_LINGER:
                end(t, s, False)
            else:
                fail(t, s, C_TLS_FAILED_GONE)
        slab = slab.next
    while t.slabs != NULL:
        slab = t.slabs
        t.slabs = slab.next
        free(slab)
    free(t.by_far)
    free(t.listeners)
    free(t)
    detach(loop)


# -- for Python ------------------------------------------------------------------------------------------------------

def session_bytes():
    """User memory of one client that has not sent its hello."""
    return sizeof(session_t)
