"""The listening TCP sockets of one service on one reactor.

A listening socket of our own is ours to shut down when we drain. An inherited one is not, and several reactors may
listen on it: the kernel then wakes one of them for a connection (EPOLLEXCLUSIVE), always the first in the line that has
nothing to do, so whoever has accepted goes to the end of the line.

An event takes a note; connections are accepted in the service's tick, a bounded number of them: a flood must not keep
those that are in from their turns. While the process has no descriptor left they stay in the backlog. No further edge
will tell of them: it is looked at again after ACCEPT_AGAIN_NS, as after every error but that of a closed listener
(accept(2) passes on what the network said of a single client).

Leaves to others: whom to let in, who leaves for it (the service).
"""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from bootplane.core.linux cimport (
    EAGAIN, ECONNABORTED, EINTR, EINVAL, EMFILE, EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, IPPROTO_TCP, SHUT_RDWR, SOCK_CLOEXEC,
    SOCK_NONBLOCK, TCP_NODELAY, accept4, errno, setsockopt, shutdown, sockaddr, sockaddr_storage,
    socklen_t,
)
from bootplane.core.loop cimport NEVER, handler_t, loop_add, loop_remove, loop_t
from bootplane.core.status cimport ST_NOMEM, ST_OK

cdef extern from "<errno.h>" nogil:
    enum: EBADF

cdef enum:
    ACCEPT_AGAIN_NS = 100000000
    ACCEPT_ROUND = 256               # of one listener between two looks at events: about 2 ms
    ACCEPT_REST = 65536              # at a drain: more than any backlog holds


cdef void on_listener(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil:
    cdef listener_t* listener = <listener_t*>self
    listener.pending = 1
    listener.all.ticker.due_ns = 0


cdef int listen_on(listener_t* listener) noexcept nogil:
    return loop_add(listener.all.loop, listener.fd, &listener.handler,
                    EPOLLIN | EPOLLET | (EPOLLEXCLUSIVE if listener.all.inherited else 0))


cdef void accept_some(listener_t* listener, int most) noexcept nogil:
    cdef listeners_t* l = listener.all
    cdef sockaddr_storage peer
    cdef socklen_t n
    cdef int fd, error
    cdef int accepted = 0
    while accepted < most:
        n = sizeof(peer)
        fd = accept4(listener.fd, <sockaddr*>&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            accepted += 1
            l.admit(l.loop, fd, &peer)
            continue
        error = errno                # making room may change it
        if error == EAGAIN:
            listener.pending = 0
            if accepted and l.inherited:
                loop_remove(l.loop, listener.fd)         # to the end of the line; what came meanwhile is told at once
                listen_on(listener)
            return
        if error == EINVAL or error == EBADF:
            listener.pending = 0     # it listens no more
            return
        if error == EINTR or error == ECONNABORTED or (error == EMFILE and l.make_room(l.loop)):
            continue
        l.again_ns = l.loop.now_ns + ACCEPT_AGAIN_NS     # no descriptor, no memory, an error of one client's network
        return
    l.ticker.due_ns = 0              # still pending: goes on after a look at events


cdef void listeners_accept(listeners_t* l) noexcept nogil:
    cdef int i
    if l.hold and not l.loop.opened:
        return                       # they stay in the backlog, and pending: the doors open with a tick
    if l.loop.now_ns >= l.again_ns:
        l.again_ns = NEVER
    for i in range(l.n):
        if l.items[i].pending and l.again_ns == NEVER:
            accept_some(&l.items[i], ACCEPT_ROUND)


cdef void listeners_end(listeners_t* l, bint rest) noexcept nogil:
    cdef int i
    for i in range(l.n):
        if not l.inherited:
            if rest:
                accept_some(&l.items[i], ACCEPT_REST)
            shutdown(l.items[i].fd, SHUT_RDWR)
        l.items[i].pending = 0
        loop_remove(l.loop, l.items[i].fd)


cdef int listeners_start(listeners_t* l, const int* fds, int n) noexcept nogil:
    cdef int one = 1
    cdef int status
    l.again_ns = NEVER
    l.n = 0
    l.items = <listener_t*>calloc(n if n else 1, sizeof(listener_t))
    if l.items == NULL:
        return ST_NOMEM
    while l.n < n:
        l.items[l.n].handler.on_event = on_listener
        l.items[l.n].all = l
        l.items[l.n].fd = fds[l.n]
        setsockopt(fds[l.n], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))    # accepted sockets inherit it
        status = listen_on(&l.items[l.n])
        if status != ST_OK:
            while l.n > 0:
                l.n -= 1
                loop_remove(l.loop, fds[l.n])
            listeners_free(l)
            return status
        l.n += 1
    return ST_OK


cdef void listeners_free(listeners_t* l) noexcept nogil:
    free(l.items)
    l.items = NULL
    l.n = 0
