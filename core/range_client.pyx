"""RangeClient: one kept connection to a source, from which ranges come straight into the caller's memory.

A fill is a request, a head of 200 bytes and some MiB of body. The body is received without the GIL and without a copy of
ours, and the thread is woken once for LOW_WATER bytes, not once for each packet: at 250 Mbit/s that is the difference
between 60 and some thousand wake-ups for 16 MiB.

Invariant: not a byte beyond the answer is taken for its body, and a connection that has one to give is not used again.

Left to others: which answer is right and what is said about a wrong one (dataplane.upstream), connecting, retries.
"""

from typing import NamedTuple

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset
from bootplane.core.http_reply cimport http_reply_parse
from bootplane.core.linux cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, POLLIN, POLLOUT, SOL_SOCKET, errno, monotonic_ns, poll, pollfd, recv, send,
    setsockopt, ssize_t,
)
from bootplane.core.status cimport ST_BAD, ST_CLOSED, ST_OK, ST_TIMEOUT, check

from bootplane.core.status import RemoteError

cdef extern from "<sys/socket.h>" nogil:
    enum: SO_RCVLOWAT
    enum: MSG_PEEK

cdef enum:
    LOW_WATER = 262144           # bytes the kernel gathers before it wakes us; less when less is owed


class Reply(NamedTuple):
    """What the head of an answer says."""

    status: int
    length: int  # Content-Length in bytes; -1: none, or the body is coded
    first: int  # of Content-Range; -1: there is none
    last: int
    total: int  # -1: unknown
    keeps: bool  # the connection can be used again after the body


cdef int await_event(range_client_t* c, short event) noexcept nogil:
    """ST_OK when it may have come, ST_TIMEOUT or -errno."""
    cdef pollfd p
    cdef int n
    p.fd = c.fd
    p.events = event
    while True:
        n = poll(&p, 1, c.stall_ms)
        if n > 0:
            return ST_OK
        if n == 0:
            return ST_TIMEOUT
        if errno != EINTR:           # begins the wait again: no signal comes to a fill thread
            return -errno


cdef void gather(range_client_t* c, int n) noexcept nogil:
    if c.low_water != n:
        c.low_water = n              # a kernel that refuses wakes us more often, no more
        setsockopt(c.fd, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof(n))


cdef ssize_t receive_some(range_client_t* c, uint8_t* out, size_t n) noexcept nogil:
    """How many bytes were received; 0: the source has closed; -EAGAIN: it sent nothing for stall_ms; else -errno."""
    cdef ssize_t got
    cdef int status
    while True:
        status = await_event(c, POLLIN)
        if status < 0:
            return status
        got = recv(c.fd, out, n, MSG_DONTWAIT)     # after the time-out, too: there may be less than gather() waits for
        if got > 0:
            return got
        if got == 0:
            return 0
        if errno != EAGAIN and errno != EINTR:
            return -errno
        if status == ST_TIMEOUT:
            return -EAGAIN


cdef int status_of(ssize_t got) noexcept nogil:
    """The status for what receive_some() returned when it received nothing."""
    return ST_CLOSED if got == 0 else ST_TIMEOUT if got == -EAGAIN else <int>got


cdef int range_ask(range_client_t* c, const char* request, size_t n) noexcept nogil:
    cdef size_t at, sent = 0
    cdef ssize_t got
    cdef int status
    c.filled = c.taken = 0
    c.left = 0
    c.trouble.text[0] = 0
    while sent < n:
        got = send(c.fd, request + sent, n - sent, MSG_NOSIGNAL)
        if got > 0:
            sent += got
        elif errno == EAGAIN:
            status = await_event(c, POLLOUT)
            if status != ST_OK:
                return status
        elif errno != EINTR:
            return -errno
    gather(c, 1)
    while True:
        at = c.filled - 3 if c.filled > 3 else 0
        got = receive_some(c, c.room + c.filled, RANGE_HEAD_ROOM - c.filled)
        if got <= 0:
            return status_of(got)
        c.filled += got
        while at + 4 <= c.filled:
            if (c.room[at] == c"\r" and c.room[at + 1] == c"\n" and c.room[at + 2] == c"\r"
                    and c.room[at + 3] == c"\n"):
                c.taken = at + 4
                status = http_reply_parse(<const char*>c.room, c.taken, &c.reply, &c.trouble)
                c.left = c.reply.length if status == ST_OK and not c.reply.coded else -1
                return status
            at += 1
        if c.filled == RANGE_HEAD_ROOM:
            return ST_BAD


cdef int range_receive(range_client_t* c, uint8_t* out, size_t n, int64_t until_ns) noexcept nogil:
    cdef size_t ready = min(c.filled - c.taken, n)
    cdef ssize_t got
    memcpy(out, c.room + c.taken, ready)
    c.taken += ready
    c.left -= ready
    out += ready
    n -= ready
    while n:
        gather(c, <int>min(n, <size_t>LOW_WATER))
        got = receive_some(c, out, n)
        if got <= 0:
            return status_of(got)
        c.left -= got
        out += got
        n -= <size_t>got
        if n and until_ns and monotonic_ns() > until_ns:
            return ST_TIMEOUT
    return ST_OK


cdef class RangeClient:
    """Takes over *sock*, a connected TCP socket. *stall_s*: longest wait for one byte. One thread at a time."""

    cdef range_client_t c
    cdef object sock

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))
        self.c.fd = -1

    def __init__(self, sock, double stall_s):
        if self.sock is not None:
            raise ValueError("a RangeClient is initialised once")
        if not 0 < stall_s < 1e6:
            raise ValueError(f"stall_s: expected more than 0 seconds, got {stall_s}")
        sock.setblocking(False)
        self.sock = sock
        self.c.fd = sock.fileno()
        self.c.stall_ms = max(<int>(stall_s * 1000), 1)
        self.c.low_water = 1

    @property
    def left(self) -> int:
        """Bytes of the answer's body that have not been received."""
        return self.c.left

    def is_fresh(self) -> bool:
        """Whether the next request may be sent: the last answer was received whole, and the source has neither closed
        nor sent anything since."""
        cdef uint8_t byte
        if self.c.fd < 0 or self.c.left != 0 or self.c.taken != self.c.filled:
            return False
        return recv(self.c.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN

    def ask(self, bytes request not None) -> Reply:
        """Sends a whole request head and receives that of the answer. Raises Timeout, OSError, RemoteError: closed
        before the head's end, or not HTTP. ``begun`` then says whether a byte of it had come."""
        cdef const char* data = request
        cdef size_t n = <size_t>len(request)
        cdef int status
        self.check_open()
        with nogil:
            status = range_ask(&self.c, data, n)
        if status == ST_BAD:
            line = self.c.trouble.text.decode("ascii")
            raise RemoteError(f"expected the head of an HTTP/1 reply, got the line {line!r}" if line else
                              f"expected a reply head of at most {RANGE_HEAD_ROOM} bytes, got more", ST_BAD)
        check(status)
        return Reply(self.c.reply.status, -1 if self.c.reply.coded else self.c.reply.length,
                     self.c.reply.range_first if self.c.reply.ranged else -1, self.c.reply.range_last,
                     self.c.reply.range_total, not self.c.reply.close)

    @property
    def begun(self) -> bool:
        """Whether any byte of the answer that was asked for last has come."""
        return self.c.filled > 0

    def receive(self, out, double patience_s=0.0) -> None:
        """Fills *out*, any writable buffer, with the next bytes of the body, without the GIL. ValueError when it is
        longer than what is left of it. Raises Timeout, OSError, and RemoteError when the source has closed.

        *patience_s*, when it is not 0, is the longest time for all of *out*; it is looked at when some of it has come, so
        that it may be exceeded by stall_s."""
        cdef Py_buffer view
        cdef int status
        cdef int64_t until_ns = monotonic_ns() + <int64_t>(patience_s * 1e9) if patience_s > 0 else 0
        self.check_open()
        PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
        try:
            if view.len > self.c.left:
                raise ValueError(f"expected room for at most the {self.c.left} bytes that are left, got {view.len}")
            with nogil:
                status = range_receive(&self.c, <uint8_t*>view.buf, <size_t>view.len, until_ns)
        finally:
            PyBuffer_Release(&view)
        check(status)

    def close(self) -> None:
        """Closes the connection. Idempotent."""
        self.c.fd = -1
        if self.sock is not None:
            self.sock.close()

    cdef object check_open(self):
        if self.c.fd < 0:
            raise ValueError("the connection has been closed")
