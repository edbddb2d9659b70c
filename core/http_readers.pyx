"""How fast the other end takes what a connection owes it.

A full socket says nothing about its reader: with megabytes in the kernel's buffer, which asks for more only when a
third of it is free, a reader of 10 kB/s gives us no sign for minutes. So the kernel is asked how much of what it took
is still there (SIOCOUTQ); what is gone was acknowledged by the reader's machine. That is a system call, made when a
deadline is due or places are short, and never on the way of a transfer that moves.
"""

from libc.stdint cimport int64_t, uint32_t
from bootplane.core.http_connection cimport connection_t, http_t

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    enum: SIOCOUTQ


cdef int64_t reached(http_t* http, connection_t* c) noexcept nogil:
    """The place in what is owed that its reader's machine has: it grows by what that acknowledges, head included."""
    cdef int left = 0
    ioctl(c.fd, SIOCOUTQ, &left)
    if http.loop.tls != NULL:
        left += http.loop.tls_unsent(http.loop, c.fd)    # not the client's socket: what lies between is unread, too
    return <int64_t>c.x.offset + c.rest_at - left


cdef void mark(http_t* http, connection_t* c, int64_t at) noexcept nogil:
    c.mark_at = at
    c.mark_s = <uint32_t>(http.loop.now_ns // 1000000000) | 1    # 0 is never; a second more or less is no matter


cdef bint still_reads(http_t* http, connection_t* c) noexcept nogil:
    cdef int64_t at = reached(http, c)
    cdef bint reads = not c.stalled or at != c.mark_at
    c.stalled = 1
    mark(http, c, at)
    return reads


cdef bint is_slow(http_t* http, connection_t* c) noexcept nogil:
    cdef int64_t at = reached(http, c)
    cdef int64_t taken = at - c.mark_at
    cdef int64_t seconds = http.loop.now_ns // 1000000000 - c.mark_s
    if c.mark_s == 0 or taken < 0:   # taken < 0: the mark is of an earlier response
        mark(http, c, at)
        return False
    if seconds < http.options.min_over_s:
        return False
    if taken < seconds * http.options.min_bytes_s:
        return True
    if not c.stalled:                # else the deadline's mark stays
        mark(http, c, at)
    return False
