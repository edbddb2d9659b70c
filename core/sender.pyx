"""Bytes of a blob to a socket: sendmsg from the mapping for what is small or in memory, sendfile or a pipe for others.

A segment is referenced for the time of one call and no longer: the kernel holds its own references on the pages,
which is why a published byte is never rewritten (docs/design.md). EAGAIN, EINTR, zero and an error are four branches
with four outcomes; zero from sendfile means that the file was cut behind our back.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset
from bootplane.core.blob cimport Blob
from bootplane.core.linux cimport (
    EAGAIN, ECONNRESET, EINTR, EIO, EPIPE, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, SOL_SOCKET, SO_LINGER,
    close, errno, iovec, monotonic_ns, msghdr, off_t, sendfile, sendmsg, setsockopt, ssize_t,
)
from bootplane.core.pipe cimport Pipe, pipe_send, pipe_t
from bootplane.core.segments cimport blob_span, blob_t, segment_release, segment_t
from bootplane.core.status cimport ST_AGAIN, ST_CLOSED, ST_OK, ST_TRUNCATED

cdef extern from "<errno.h>" nogil:
    enum: EBADMSG
    enum: EFAULT
    enum: ENODATA
    enum: ESTALE
    enum: EUCLEAN
    enum: ETIMEDOUT
    enum: ENOTCONN

cdef extern from "<sys/socket.h>" nogil:
    cdef struct linger:
        int l_onoff
        int l_linger

cdef int trouble(int error) noexcept nogil:
    if error == EAGAIN:
        return ST_AGAIN
    if error == EPIPE or error == ECONNRESET or error == ETIMEDOUT or error == ENOTCONN:
        return ST_CLOSED
    return -error


cdef bint is_damage(int status) noexcept nogil:
    # What disks and file systems say: I/O error, bad checksum, medium error, gone from the server, damaged structure.
    return (status == ST_TRUNCATED or status == -EIO or status == -EBADMSG or status == -ENODATA or status == -ESTALE
            or status == -EUCLEAN)


cdef int send_parts(int sock, const char* head, size_t head_n, const uint8_t* body, size_t body_n, bint more,
                    size_t* sent) noexcept nogil:
    cdef iovec parts[2]
    cdef msghdr message
    cdef ssize_t n
    parts[0].iov_base = <void*>head
    parts[0].iov_len = head_n
    parts[1].iov_base = <void*>body
    parts[1].iov_len = body_n
    memset(&message, 0, sizeof(message))
    message.msg_iov = &parts[0] if head_n else &parts[1]
    message.msg_iovlen = (1 if head_n else 0) + (1 if body_n else 0)
    sent[0] = 0
    while True:
        n = sendmsg(sock, &message, MSG_NOSIGNAL | MSG_DONTWAIT | (MSG_MORE if more else 0))
        if n >= 0:
            sent[0] = <size_t>n
            return ST_OK if sent[0] == head_n + body_n else ST_AGAIN
        if errno == EINTR:
            continue
        if errno == EFAULT and body_n:           # the file was cut, or cannot be read: where a load would be SIGBUS
            return ST_TRUNCATED
        return trouble(errno)


cdef int send_file(int sock, int fd, off_t offset, size_t n, size_t* sent) noexcept nogil:
    cdef off_t at = offset
    cdef ssize_t done
    sent[0] = 0
    while True:
        done = sendfile(sock, fd, &at, n)
        if done > 0:
            sent[0] = <size_t>done
            return ST_OK if sent[0] == n else ST_AGAIN
        if done == 0:
            return ST_TRUNCATED
        if errno != EINTR:
            return trouble(errno)


cdef int send_run(int sock, int fd, off_t offset, size_t n, pipe_t* pipe, size_t* sent) noexcept nogil:
    """As send_file, through *pipe* as far as that goes."""
    cdef size_t rest
    cdef int status = ST_OK
    sent[0] = 0
    if pipe != NULL:
        status = pipe_send(pipe, sock, fd, offset, n, sent)
    if status == ST_OK and sent[0] < n:
        status = send_file(sock, fd, offset + <off_t>sent[0], n - sent[0], &rest)
        sent[0] += rest
    return status


cdef int send_blob(int sock, blob_t* blob, off_t offset, off_t end, off_t budget, int64_t now_ns,
                   pipe_t* pipe, size_t* sent) noexcept nogil:
    cdef segment_t* seg
    cdef off_t run
    cdef size_t n
    cdef int status
    sent[0] = 0
    if budget < end - offset:
        end = offset + budget
    while offset < end:
        status = blob_span(blob, offset, now_ns, &seg, &run)
        if status != ST_OK:
            return status
        if run > end - offset:
            run = end - offset
        if seg.fd >= 0:
            status = send_run(sock, seg.fd, offset - seg.base, <size_t>run, pipe, &n)
        else:
            status = send_parts(sock, NULL, 0, seg.map + (offset - seg.base), <size_t>run, False, &n)
        segment_release(seg)         # taken by blob_span
        sent[0] += n
        offset += <off_t>n
        if status != ST_OK:
            return status
    return ST_OK


cdef void socket_reset(int sock) noexcept nogil:
    cdef linger now
    now.l_onoff = 1
    now.l_linger = 0
    setsockopt(sock, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
    close(sock)


# -- the same for Python ---------------------------------------------------------------------------------------------

def send_once(int sock, Blob blob not None, off_t offset, off_t end, off_t budget, Pipe pipe=None):
    """One turn of send_blob: (status code, bytes sent). Statuses are those of status.pxd, below zero -errno."""
    cdef size_t sent = 0
    cdef pipe_t* through = NULL if pipe is None else &pipe.p
    cdef blob_t* b = blob.b
    cdef int status
    if not 0 <= offset <= end <= b.size:
        raise ValueError(f"blob of {b.size} bytes: expected a part of it, got [{offset}, {end})")
    with nogil:
        status = send_blob(sock, b, offset, end, budget, monotonic_ns(), through, &sent)
    return status, sent


def send_message(int sock, bytes head not None, bytes body not None, bint more=False):
    """One send_parts: (status code, bytes sent)."""
    cdef size_t sent = 0
    cdef const char* raw = body
    cdef int status = send_parts(sock, head, len(head), <const uint8_t*>raw, len(body), more, &sent)
    return status, sent


def reset(int sock):
    """Closes *sock*, a descriptor the caller gives away, with RST."""
    socket_reset(sock)
