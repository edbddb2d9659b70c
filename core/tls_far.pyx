"""HTTP's end of a session's pair: whose it is, by its number, and what HTTP asks about it.

HTTP, or Python after a hand-over, owns that end and closes it without a word here; its number may be another one's soon
after. So a number leads to a session only while the socket that has it is of a pair, the last session that gave it away
holds the entry, and one that ends takes its entry along unless it has passed to another.

Leaves to others: who asks, and when (the HTTP service, by the loop's pointers).
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memset
from bootplane.core.http_connection cimport http_t
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, AF_UNIX, SOL_SOCKET, SO_DOMAIN, getpeername, getsockname, getsockopt, sockaddr, sockaddr_in,
    sockaddr_in6, sockaddr_storage, socklen_t,
)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    enum: FIONREAD

cdef extern from "<linux/sockios.h>" nogil:
    enum: SIOCOUTQ


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


cdef void forget_far(service_t* t, session_t* s) noexcept nogil:
    if s.far >= 0 and <uint32_t>s.far < t.by_far_n and t.by_far[s.far] == s:
        t.by_far[s.far] = NULL       # else it is another one's by now
    s.far = -1


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


# -- what HTTP asks --------------------------------------------------------------------------------------------------
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
    if http.listeners.n and getsockname(http.listeners.items[0].fd, <sockaddr*>&plain, &n) == 0:
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
