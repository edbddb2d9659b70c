"""Handshakes of the HTTPS listeners of one reactor: who may begin one, and what comes of it.

Only max_handshakes are under way at a time, with what OpenSSL holds for each; the next one waits for a place, and who
has had one for a second while others wait leaves it. A handshake with a 2048-bit RSA key takes as long as a megabyte of
body; so it counts as one.

Leaves to others: turns and deadlines (tls_service), how a session ends (tls_sessions), the bytes after it
(tls_session).
"""

from libc.stdint cimport int64_t
from libc.string cimport memset
from bootplane.core.counters cimport (
    C_TLS_FAILED_GONE, C_TLS_FAILED_PLAIN, C_TLS_FAILED_PROTOCOL, C_TLS_FAILED_TIMEOUT, C_TLS_HANDSHAKES, count,
)
from bootplane.core.http_service cimport http_admit
from bootplane.core.linux cimport (
    AF_UNIX, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM,
    TCP_NOTSENT_LOWAT, close, getpeername, setsockopt, sockaddr, sockaddr_storage, socketpair, socklen_t,
)
from bootplane.core.loop cimport loop_add
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_OK
from bootplane.core.tls cimport TLS_READY, tls_accept, tls_new
from bootplane.core.tls_far cimport remember_far
from bootplane.core.tls_session cimport (
    HELLO_BAD, HELLO_GONE, HELLO_HERE, HELLO_PLAIN, SESSION_OPEN, SESSION_READY, SESSION_SHAKE, session_hello,
    session_refuse_plain, session_t,
)
from bootplane.core.tls_sessions cimport (
    TIMER_READY, TIMER_SHAKE, call_next, end, enqueue, fail, is_aged, leave_handshake, linger, service_t, session_at,
    timer_clear, timer_set,
)

cdef enum:
    HANDSHAKE_COST = 1048576
    LOW_BYTES = 131072               # what the kernel keeps unsent for a client


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
    elif s.read_wait == TLS_READY:
        enqueue(t, s)


cdef void begin_handshake(service_t* t, session_t* s, int64_t* spent) noexcept nogil:
    cdef session_t* oldest = session_at(t.timers[<int>TIMER_SHAKE].first)
    if t.shaking >= t.options.max_handshakes and is_aged(t, oldest):
        timer_clear(t, s)            # it waits no longer: the place that comes free is not to queue it once more
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
    call_next(t)                     # of several places that came free at once only the first one called somebody
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
