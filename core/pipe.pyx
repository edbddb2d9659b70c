"""Pages of a file to a socket through a large pipe of our own: splice in, splice out.

sendfile does the same through a pipe of 16 pages and looks the file up again for each 64 KiB. A pipe of 256 costs 4 to
5 % less for a large body, and two or three calls for each MiB: nothing for a small one (ADR 27).

Invariant: the pipe is empty between two calls, so that no byte of one body can come into another's. No more goes in
than the socket seems to have room for; what it does not take all the same goes nowhere, and is spliced in again in its
next turn. The pages in it are the kernel's references, as those in a socket are, and are gone with the call.

Left to others: which bodies are worth it (http_output), everything that sendfile says about files (sender).
"""

from bootplane.core.linux cimport EAGAIN, EINTR, O_CLOEXEC, SOL_SOCKET, close, errno, off_t, socklen_t, ssize_t
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_OK

cdef extern from "<fcntl.h>" nogil:
    enum: O_NONBLOCK
    enum: O_WRONLY
    enum: F_SETPIPE_SZ
    enum: SPLICE_F_NONBLOCK
    enum: SPLICE_F_MORE
    int open(const char* path, int flags)
    int fcntl(int fd, int command, int value)
    ssize_t splice(int source, off_t* source_at, int sink, off_t* sink_at, size_t n, unsigned int flags)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int* ends, int flags)

cdef extern from "<sys/ioctl.h>" nogil:
    enum: FIONREAD
    int ioctl(int fd, unsigned long request, int* value)

cdef extern from "<sys/socket.h>" nogil:
    enum: SO_MEMINFO
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)

cdef extern from "<linux/sock_diag.h>" nogil:
    enum: SK_MEMINFO_SNDBUF
    enum: SK_MEMINFO_WMEM_QUEUED
    enum: SK_MEMINFO_VARS

cdef enum:
    LEAST_BYTES = 262144             # with less room than that sendfile is as good


cdef void pipe_open(pipe_t* p) noexcept nogil:
    cdef int ends[2]
    p.inlet = p.outlet = p.nowhere = -1
    if pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0:
        return
    p.outlet = ends[0]
    p.inlet = ends[1]
    p.nowhere = open(b"/dev/null", O_WRONLY | O_CLOEXEC)
    if p.nowhere < 0 or fcntl(p.inlet, F_SETPIPE_SZ, PIPE_BYTES) < PIPE_BYTES:   # a user may have so many large ones
        pipe_close(p)


cdef void pipe_close(pipe_t* p) noexcept nogil:
    if p.inlet >= 0:
        close(p.inlet)
        close(p.outlet)
    if p.nowhere >= 0:
        close(p.nowhere)
    p.inlet = p.outlet = p.nowhere = -1


cdef int room_of(int sock) noexcept nogil:
    """Bytes that the socket would take now, roughly."""
    cdef unsigned int memory[SK_MEMINFO_VARS]
    cdef socklen_t length = sizeof(memory)
    if getsockopt(sock, SOL_SOCKET, SO_MEMINFO, memory, &length) != 0:
        return 0
    return <int>memory[<int>SK_MEMINFO_SNDBUF] - <int>memory[<int>SK_MEMINFO_WMEM_QUEUED]


cdef void empty(pipe_t* p, size_t left) noexcept nogil:
    cdef ssize_t gone
    while left:
        gone = splice(p.outlet, NULL, p.nowhere, NULL, left, 0)
        if gone > 0:
            left -= <size_t>gone
        elif gone == 0 or errno != EINTR:
            pipe_close(p)            # whatever the reason is: nothing of it may be sent
            return


cdef int pipe_send(pipe_t* p, int sock, int fd, off_t offset, size_t n, size_t* sent) noexcept nogil:
    cdef size_t piece, left
    cdef ssize_t done
    cdef off_t at
    cdef int room
    cdef bint is_full
    sent[0] = 0
    while sent[0] < n and p.inlet >= 0:
        room = room_of(sock)
        piece = min(n - sent[0], <size_t>PIPE_BYTES)
        if room < LEAST_BYTES or piece < LEAST_BYTES:
            return ST_OK
        at = offset + <off_t>sent[0]
        done = splice(fd, &at, p.inlet, NULL, min(piece, <size_t>room), SPLICE_F_NONBLOCK)
        if done <= 0:
            if done < 0 and errno == EINTR:
                continue
            return ST_OK
        left = <size_t>done
        while left:
            done = splice(p.outlet, NULL, sock, NULL, left,
                          SPLICE_F_NONBLOCK | (SPLICE_F_MORE if sent[0] + left < n else 0))
            if done > 0:
                left -= <size_t>done
                sent[0] += <size_t>done
            elif done == 0 or errno != EINTR:
                is_full = done == 0 or errno == EAGAIN
                empty(p, left)
                return ST_AGAIN if is_full else ST_CLOSED
    return ST_OK


cdef class Pipe:
    """One for Python."""

    def __cinit__(self):
        pipe_open(&self.p)

    def __dealloc__(self):
        pipe_close(&self.p)

    @property
    def is_there(self) -> bool:
        return self.p.inlet >= 0

    def waiting(self) -> int:
        """Bytes in it."""
        cdef int n = 0
        if self.p.inlet >= 0:
            ioctl(self.p.outlet, FIONREAD, &n)
        return n
