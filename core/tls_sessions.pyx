"""HTTPS sessions of one reactor: memory, the queue for turns, the lists their deadlines stand in, and their ends.

A session that has not begun its handshake owns its struct and a socket, nothing else. An end touches neighbours in the
lists alone, gives back what the session counted for (places, addresses, the loop's `busy`), and queues the first one
that waits for its place.

Leaves to others: when to set which timer, who gets a turn (tls_service), handshakes (tls_handshakes), the numbers by
which HTTP knows a session (tls_far).
"""

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from bootplane.core.counters cimport C_TLS_CLOSED, C_TLS_FAILED_GONE, count
from bootplane.core.deadlines cimport deadlines_append, deadlines_remove
from bootplane.core.http_addresses cimport addresses_release
from bootplane.core.linux cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, SHUT_WR, bp_add_int, close, errno, recv, shutdown, ssize_t,
)
from bootplane.core.loop cimport NEVER
from bootplane.core.sender cimport socket_reset
from bootplane.core.tls_far cimport forget_far
from bootplane.core.tls_session cimport (
    PLAIN_BYTES, SESSION_HELLO, SESSION_LINGER, SESSION_OPEN, SESSION_SHAKE, session_drop, session_pump, session_t,
)

cdef enum:
    SLAB = 128                       # sessions per allocation
    AGED_NS = 1000000000             # what others wait for may go when it is as old
    LINGER_READS = 4

cdef struct slab_t:
    slab_t* next
    session_t items[SLAB]


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
    t.open += 1
    bp_add_int(&t.options.addresses.open, 1)
    t.loop.busy += 1                 # taken back in end, or while away
    return s


cdef void sessions_free(service_t* t) noexcept nogil:
    cdef slab_t* slab = t.slabs
    cdef session_t* s
    cdef int64_t moved
    cdef int i
    while slab != NULL:
        for i in range(SLAB):
            s = &slab.items[i]
            if s.outer < 0:
                continue
            if s.state == SESSION_OPEN:  # HTTP's last bytes, as far as the client's socket takes them
                s.inner_empty = 0
                s.up_ended = 1           # what it still sends, nobody reads: it must not keep us
                moved = 0
                session_pump(s, t.loop.scratch, NEVER, &moved)
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


# -- timers ----------------------------------------------------------------------------------------------------------

cdef void timer_clear(service_t* t, session_t* s) noexcept nogil:
    if s.timer != TIMER_NONE:
        deadlines_remove(&t.timers[s.timer], &s.deadline)
        s.timer = TIMER_NONE


cdef void timer_set(service_t* t, session_t* s, int timer) noexcept nogil:
    timer_clear(t, s)
    s.timer = <uint8_t>timer
    deadlines_append(&t.timers[timer], &s.deadline, t.loop.now_ns)


cdef int64_t aged_ns(service_t* t, session_t* s) noexcept nogil:
    """When it may go for the sake of others."""
    return s.deadline.due_ns - t.timers[s.timer].span_ns + AGED_NS


cdef bint is_aged(service_t* t, session_t* s) noexcept nogil:
    return s != NULL and not s.queued and aged_ns(t, s) <= t.loop.now_ns


# -- the queue -------------------------------------------------------------------------------------------------------

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


# -- ends ------------------------------------------------------------------------------------------------------------

cdef void call_next(service_t* t) noexcept nogil:
    cdef session_t* waiting = session_at(t.timers[<int>TIMER_READY].first)
    if waiting != NULL and t.shaking < t.options.max_handshakes and not t.loop.stopping:
        enqueue(t, waiting)


cdef void leave_handshake(service_t* t, session_t* s) noexcept nogil:
    if s.state == SESSION_SHAKE:
        t.shaking -= 1
        call_next(t)


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
