"""One client connection of HTTP/1.1: a request out, its reply in, as firmware does it.

The machine owns its socket and never waits: http_client_step() goes on until the kernel has no more, and the caller
polls. It is strict where a boot loader would stumble: no chunked bodies, no bytes past Content-Length, a 206 exactly as
asked. Which status is right, deadlines and what to fetch next are the caller's part.

Invariant: after a failure the connection is closed and ``trouble`` holds the facts.
"""

import os

from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from bootplane.core.client cimport authority, body_begin, body_free, body_take, trouble_set, trouble_t
from bootplane.core.http_reply cimport http_reply_parse, http_reply_t
from bootplane.core.linux cimport (
    EAGAIN, EINPROGRESS, EINTR, IPPROTO_TCP, MSG_NOSIGNAL, POLLIN, POLLOUT, SO_ERROR, SO_RCVBUF,
    SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY, bind, close, connect, discard, errno, getsockopt,
    recv, send, setsockopt, sockaddr, socket, socklen_t, ssize_t,
)
from bootplane.core.status cimport (
    ST_AGAIN, ST_BAD, ST_CLOSED, ST_MISMATCH, ST_NOMEM, ST_OK, ST_REMOTE, ST_TIMEOUT, check,
)

from bootplane.core.status import DigestMismatch, RemoteError, Timeout

USER_AGENT = "bootplane-load/0.1"

cdef enum:
    DISCARD_MOST = 16777216      # one discarding recv; the kernel gives what it has
    FIRST_RECV = 16384           # when discarding: head and a small body in one call, little of a large one copied


cdef int http_client_init(http_client_t* c) noexcept nogil:
    c.fd = -1
    c.ask_first = -1
    c.ask_last = -1
    c.head = <char*>malloc(HEAD_ROOM)             # freed in http_client_free
    return ST_OK if c.head is not NULL else ST_NOMEM


cdef void http_client_free(http_client_t* c) noexcept nogil:
    if c.head is NULL:
        return                   # never begun: its fd of 0 is not ours
    http_client_close(c)
    body_free(&c.body)
    free(c.head)
    c.head = NULL


cdef void http_client_close(http_client_t* c) noexcept nogil:
    if c.fd >= 0:
        close(c.fd)
    c.fd = -1
    c.reused = 0
    c.state = HC_IDLE


cdef int fail(http_client_t* c, int status, int cause, int err, int64_t expected, int64_t got) noexcept nogil:
    trouble_set(&c.trouble, cause, err, expected, got)
    http_client_close(c)
    return status


cdef int open_connection(http_client_t* c) noexcept nogil:
    cdef int one = 1
    c.generation += 1
    # Closed in http_client_close.
    c.fd = socket((<sockaddr*>&c.server.addr).sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if c.fd < 0:
        return fail(c, -errno, HX_LOCAL, errno, -1, 0)
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if c.receive_buffer:
        setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &c.receive_buffer, sizeof(c.receive_buffer))
    if c.source is not NULL and c.source.length and bind(c.fd, <sockaddr*>&c.source.addr, c.source.length) < 0:
        return fail(c, -errno, HX_LOCAL, errno, -1, 0)
    if connect(c.fd, <sockaddr*>&c.server.addr, c.server.length) == 0:
        c.state = HC_SENDING
    elif errno == EINPROGRESS or errno == EINTR:  # interrupted: the kernel connects on all the same
        c.state = HC_CONNECTING
    else:
        return fail(c, ST_REMOTE, HX_CONNECT, errno, -1, 0)
    return ST_AGAIN


cdef int http_client_begin(http_client_t* c, int64_t now_ns) noexcept nogil:
    cdef int status
    c.sent = 0
    c.head_size = 0
    c.received = 0
    c.first_ns = 0
    c.started_ns = now_ns
    c.progress_ns = now_ns
    c.trouble.cause = 0
    status = body_begin(&c.body)
    if status != ST_OK:
        return fail(c, status, HX_LOCAL, 0, -1, 0)
    if c.fd >= 0:
        c.state = HC_SENDING
        return ST_AGAIN
    return open_connection(c)


cdef int try_again(http_client_t* c) noexcept nogil:
    """A kept connection that died before a byte of the reply: its server had closed it. RFC 9112, 9.3.1: send again."""
    http_client_close(c)
    c.sent = 0
    return open_connection(c)


cdef int http_client_step(http_client_t* c, uint8_t* scratch, size_t room, int64_t now_ns) noexcept nogil:
    cdef int status = ST_OK
    cdef int err = 0
    cdef socklen_t length = sizeof(err)
    if c.state == HC_CONNECTING:
        if getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &err, &length) < 0:
            err = errno
        if err:
            return fail(c, ST_REMOTE, HX_CONNECT, err, -1, 0)
        c.state = HC_SENDING
    if c.state == HC_SENDING:
        status = send_request(c, now_ns)
        if status != ST_OK:
            return status
    if c.state == HC_HEAD:
        status = receive_head(c, scratch, room, now_ns)
    elif c.state == HC_BODY:
        status = receive_body(c, scratch, room, now_ns)
    return status


cdef int send_request(http_client_t* c, int64_t now_ns) noexcept nogil:
    """ST_OK only when there may be something to receive: the request of this very step is not answered yet."""
    cdef ssize_t n
    while c.sent < c.request_size:
        n = send(c.fd, c.request + c.sent, c.request_size - c.sent, MSG_NOSIGNAL)
        if n > 0:
            c.sent += n
            c.progress_ns = now_ns
        elif n < 0 and errno == EINTR:
            continue
        elif n < 0 and errno == EAGAIN:
            return ST_AGAIN
        elif c.reused:
            return try_again(c)
        else:
            return fail(c, ST_REMOTE, HX_SEND, errno, -1, 0)
    c.state = HC_HEAD
    return ST_AGAIN


cdef int receive_head(http_client_t* c, uint8_t* scratch, size_t room, int64_t now_ns) noexcept nogil:
    cdef size_t known = c.head_size
    cdef size_t at, k
    cdef ssize_t n
    cdef int status
    if c.discard:
        room = min(room, <size_t>FIRST_RECV)
    if c.take_most:
        room = min(room, c.take_most)
    n = recv(c.fd, scratch, room, 0)
    if n < 0:
        if errno == EAGAIN or errno == EINTR:
            return ST_AGAIN
        if c.reused and known == 0:
            return try_again(c)
        return fail(c, ST_REMOTE, HX_NO_REPLY, errno, -1, known)
    if n == 0:
        if c.reused and known == 0:
            return try_again(c)
        return fail(c, ST_CLOSED, HX_NO_REPLY, 0, -1, known)
    c.progress_ns = now_ns
    k = min(<size_t>n, HEAD_ROOM - known)
    memcpy(c.head + known, scratch, k)
    c.head_size += k
    at = known - 3 if known > 3 else 0
    while at + 4 <= c.head_size:
        if c.head[at] == c"\r" and c.head[at + 1] == c"\n" and c.head[at + 2] == c"\r" and c.head[at + 3] == c"\n":
            c.head_size = at + 4
            status = head_complete(c, now_ns)
            if status != ST_OK:
                return status
            k = c.head_size - known               # bytes of scratch that were head
            return body_bytes(c, scratch + k, <size_t>n - k, now_ns)
        at += 1
    if c.head_size == HEAD_ROOM:
        return fail(c, ST_BAD, HX_LONG_HEAD, 0, HEAD_ROOM, 0)
    return ST_AGAIN


cdef int head_complete(http_client_t* c, int64_t now_ns) noexcept nogil:
    """The head is here: is it one a boot loader can use, and how long is the body?"""
    cdef http_reply_t* reply = &c.reply
    cdef trouble_t seen
    cdef int64_t last
    memset(&seen, 0, sizeof(seen))
    if http_reply_parse(c.head, c.head_size, reply, &seen) != ST_OK or reply.coded:
        fail(c, ST_BAD, HX_CODED if reply.coded else HX_MALFORMED, 0, -1, 0)
        memcpy(c.trouble.text, seen.text, sizeof(seen.text))
        return ST_BAD
    if reply.status == 206:
        last = c.ask_last                         # a file that ends earlier ends the range, too
        if reply.range_total >= 0 and (last < 0 or last >= reply.range_total):
            last = reply.range_total - 1
        if c.ask_first < 0 or reply.range_first != c.ask_first or (last >= 0 and reply.range_last != last):
            return fail(c, ST_BAD, HX_RANGE, 0, reply.range_first, reply.range_last if reply.ranged else -1)
        if reply.length >= 0 and reply.length != reply.range_last - reply.range_first + 1:
            return fail(c, ST_BAD, HX_RANGE, 0, reply.range_first, reply.range_last)
    c.state = HC_BODY
    c.body.sinking = reply.status == c.sink_status
    c.left = reply.length
    if c.head_only or reply.status == 204 or reply.status == 304:
        c.left = 0
    elif c.left < 0:
        reply.close = 1                           # the end of the connection is the end of the body
    if c.left == 0:
        c.first_ns = now_ns
    return ST_OK


cdef int body_bytes(http_client_t* c, const uint8_t* data, size_t n, int64_t now_ns) noexcept nogil:
    """*n* bytes of body are in *data* (NULL when the kernel dropped them). ST_OK when it was the last of them."""
    cdef int status
    if c.left >= 0 and <int64_t>n > c.left:
        return fail(c, ST_BAD, HX_EXTRA, 0, <int64_t>c.received + c.left, <int64_t>(c.received + n))
    if n:
        if c.first_ns == 0:
            c.first_ns = now_ns
        c.received += n
        if data is not NULL:
            status = body_take(&c.body, data, n)
            if status != ST_OK:
                return fail(c, status, HX_SINK if c.body.sink_failed else HX_LOCAL, -status, -1, 0)
        if c.left > 0:
            c.left -= n
    if c.left != 0:
        return ST_AGAIN
    if c.reply.close:
        http_client_close(c)
    c.state = HC_IDLE
    c.reused = c.fd >= 0
    return ST_OK


cdef int receive_body(http_client_t* c, uint8_t* scratch, size_t room, int64_t now_ns) noexcept nogil:
    cdef ssize_t n
    cdef bint drop = c.discard and not c.body.hashing
    if drop:
        room = DISCARD_MOST
    if c.take_most:
        room = min(room, c.take_most)
    if c.left >= 0:
        room = min(room, <size_t>c.left + 1)      # one more, to see a body that is too long
    n = discard(c.fd, room) if drop else recv(c.fd, scratch, room, 0)
    if n > 0:
        c.progress_ns = now_ns
        return body_bytes(c, NULL if drop else scratch, <size_t>n, now_ns)
    if n == 0:
        if c.left > 0:
            return fail(c, ST_CLOSED, HX_SHORT, 0, <int64_t>c.received + c.left, c.received)
        http_client_close(c)
        return ST_OK
    if errno == EAGAIN or errno == EINTR:
        return ST_AGAIN
    return fail(c, ST_REMOTE, HX_RECEIVE, errno, c.received + c.left if c.left >= 0 else -1, c.received)


cdef int http_client_expire(http_client_t* c) noexcept nogil:
    cdef int64_t got = c.received if c.state == HC_BODY else c.head_size
    return fail(c, ST_TIMEOUT, HX_TIMEOUT, c.state, got + c.left if c.state == HC_BODY and c.left >= 0 else -1, got)


cdef short http_client_events(const http_client_t* c) noexcept nogil:
    return POLLOUT if c.state == HC_CONNECTING or c.state == HC_SENDING else POLLIN


# The Python edge.

cdef bytes http_request_head(str method, str host, int port, str path, dict fields):
    """A request head without its empty line."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {authority(host, port)}", f"User-Agent: {USER_AGENT}", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    for text in lines:
        if any(c < " " or c == "\x7f" for c in text):
            raise ValueError(f"expected a request line without control characters, got {text!r}")
    if not path.startswith("/") or " " in path:
        raise ValueError(f"expected a path that begins with / and has no space, got {path!r}")
    return ("\r\n".join(lines) + "\r\n").encode()


cdef str http_sentence(http_client_t* c, str what, str promised=""):
    cdef trouble_t* t = &c.trouble
    reason = os.strerror(t.err)
    text = t.text.decode("ascii")
    ended = reason if t.err else "the end of the connection"
    body = f"{t.expected} bytes" if t.expected >= 0 else "all bytes"
    if t.cause == HX_CONNECT:
        return f"{what}: connecting: {reason}"
    if t.cause == HX_SEND:
        return f"{what}: sending the request: {reason}"
    if t.cause == HX_NO_REPLY:
        return f"{what}: expected a reply, got {t.got} bytes of it and then {ended}"
    if t.cause == HX_SHORT or t.cause == HX_RECEIVE:
        return f"{what}: body: expected {body}, got {t.got} and then {ended}"
    if t.cause == HX_EXTRA:
        return f"{what}: body: expected {body}, got at least {t.got}"
    if t.cause == HX_MALFORMED:
        return f"{what}: expected the head of an HTTP/1 reply, got the line {text!r}"
    if t.cause == HX_LONG_HEAD:
        return f"{what}: reply head: expected at most {t.expected} bytes, got more"
    if t.cause == HX_CODED:
        return f"{what}: expected a body of Content-Length, got Transfer-Encoding: {text}"
    if t.cause == HX_RANGE:
        asked = "no range" if c.ask_first < 0 else f"bytes {c.ask_first}-{c.ask_last if c.ask_last >= 0 else ''}"
        given = "none" if t.got < 0 else f"bytes {t.expected}-{t.got} with Content-Length {c.reply.length}"
        return f"{what}: Content-Range: expected {asked}, got {given}"
    if t.cause == HX_SINK:
        return f"{what}: writing the body to descriptor {c.body.sink_fd}: {reason}"
    if t.cause == HX_LOCAL:
        return f"{what}: {reason}"
    if t.cause == HX_STATUS:
        return f"{what}: status: expected {t.expected}, got {t.got}"
    if t.cause == HX_DIGEST:
        return f"{what}: sha256 differs: expected {promised}, got {text}"
    if t.cause == HX_TIMEOUT:
        if t.err == HC_BODY:
            return f"{what}: timed out: body: expected {body}, got {t.got}"
        if t.err == HC_HEAD:
            return f"{what}: timed out: expected a reply, got {t.got} bytes of it"
        return f"{what}: timed out {'connecting' if t.err == HC_CONNECTING else 'sending the request'}"
    if t.cause == HX_LOST:
        return f"{what}: expected the connection to stay open, got {ended}"
    return f"{what}: failed"


cdef object http_raise(http_client_t* c, int status, str what):
    if status == ST_TIMEOUT:
        raise Timeout(http_sentence(c, what), status)
    if status == ST_MISMATCH:
        raise DigestMismatch(http_sentence(c, what), status)
    if status in (ST_REMOTE, ST_CLOSED, ST_BAD) and c.trouble.cause and c.trouble.cause != HX_LOCAL:
        raise RemoteError(http_sentence(c, what), status)
    if status < 0:
        raise OSError(-status, http_sentence(c, what))
    return check(status, what)
