"""One HTTPS connection after its handshake: bytes both ways between its client and the HTTP service.

    client ══TCP, TLS══ outer │ session │ inner ══AF_UNIX pair══ far │ HTTP service, or Python after a hand-over
                     tls_read ──▶ up ──▶ send
                    tls_write ◀── down ◀── recv

HTTP knows nothing of TLS: it has a socket like any other, sends files with sendfile, and is held up by a client that
does not read because nobody empties that socket. What neither side takes is kept here, one read of each direction at
most; the next read waits until it is gone.

**No close_notify is ever sent.** HTTP's end of the pair looks the same whether HTTP ended a connection in order or cut
a body that cannot be had; a clean end of TLS after a short body would vouch for it. Every response has a
Content-Length, so whoever has all of it needs no word about the end; who has not is told by TLS that it was cut. A
client's own close_notify, like the plain FIN of one that does not care, ends its side alone: what it asked for is still
answered.

Leaves to others: when a session gets its turn, deadlines, limits (tls_service), its end (tls_sessions), cryptography
(tls).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strlen
from bootplane.core.linux cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, close, errno, recv, send, shutdown, ssize_t,
)
from bootplane.core.status cimport ST_AGAIN, ST_BAD, ST_CLOSED, ST_OK
from bootplane.core.tls cimport TLS_READY, tls_free, tls_read, tls_write

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_PEEK

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
    enum: FIONREAD

cdef enum:
    RECORD_HEAD = 5                  # type, version, length (RFC 8446, 5.1)
    RECORD_MAX = 16384
    NO_DATA_COST = 1048576           # bytes of a turn: OpenSSL takes a buffer of such messages, 600 new keys, at once
    HANDSHAKE = 22

cdef const char* PLAIN_REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 60\r\nConnection: close\r\n\r\n"
    b"expected TLS on this port, got plain HTTP: ask for https://\n")


# -- before a handshake ----------------------------------------------------------------------------------------------

cdef hello_t session_hello(session_t* s) noexcept nogil:
    """Looks at the first bytes without taking them."""
    cdef uint8_t head[5]
    cdef int here = 0
    cdef uint32_t length
    cdef ssize_t n = recv(s.outer, head, RECORD_HEAD, MSG_DONTWAIT | MSG_PEEK)
    if n == 0:
        return HELLO_GONE
    if n < 0:
        return HELLO_WAIT if errno == EAGAIN or errno == EINTR else HELLO_GONE
    if b'A' <= head[0] <= b'Z':
        return HELLO_PLAIN
    if head[0] != HANDSHAKE or (n > 1 and head[1] != 3):
        return HELLO_BAD
    if n < RECORD_HEAD:
        return HELLO_WAIT
    length = (<uint32_t>head[3] << 8) | head[4]
    if length > RECORD_MAX or length == 0:
        return HELLO_BAD
    if ioctl(s.outer, FIONREAD, &here) < 0:
        return HELLO_GONE
    return HELLO_HERE if <uint32_t>here >= RECORD_HEAD + length else HELLO_WAIT


cdef bint session_refuse_plain(session_t* s) noexcept nogil:
    return send(s.outer, PLAIN_REFUSAL, strlen(PLAIN_REFUSAL), MSG_DONTWAIT | MSG_NOSIGNAL) > 0


# -- bytes of the client ---------------------------------------------------------------------------------------------

cdef uint8_t* kept(const uint8_t* data, uint32_t n) noexcept nogil:
    cdef uint8_t* copy = <uint8_t*>malloc(n)
    if copy != NULL:
        memcpy(copy, data, n)
    return copy


cdef int pass_on(session_t* s, const uint8_t* data, uint32_t n, uint32_t* passed) noexcept nogil:
    """To HTTP. ST_OK, ST_AGAIN, or ST_CLOSED: nobody reads there any more."""
    cdef ssize_t done
    passed[0] = 0
    while passed[0] < n:
        done = send(s.inner, data + passed[0], n - passed[0], MSG_DONTWAIT | MSG_NOSIGNAL)
        if done >= 0:
            passed[0] += <uint32_t>done
        elif errno == EAGAIN:
            s.inner_full = 1
            return ST_AGAIN
        elif errno != EINTR:
            return ST_CLOSED
    return ST_OK


cdef int pump_up(session_t* s, uint8_t* scratch, int64_t budget, int64_t* spent) noexcept nogil:
    cdef int status
    cdef int got = 0
    cdef uint32_t passed
    while not s.inner_full:
        if s.up != NULL:
            status = pass_on(s, s.up + s.up_at, s.up_n - s.up_at, &passed)
            s.up_at += passed
            if status == ST_AGAIN:
                return ST_OK
            free(s.up)
            s.up = NULL
        if s.up_ended or s.read_wait != TLS_READY:
            return ST_OK
        if spent[0] >= budget:
            return ST_AGAIN
        status = tls_read(s.ssl, scratch, PLAIN_BYTES, &got, &s.read_wait)
        if status == ST_AGAIN:       # and read_wait still TLS_READY: keys were renewed, or the like
            spent[0] += NO_DATA_COST
            continue
        if status == ST_CLOSED:      # the client's side alone: what it has asked for is still answered
            s.up_ended = 1
            shutdown(s.inner, SHUT_WR)
            return ST_OK
        if status != ST_OK:
            return ST_BAD
        spent[0] += got
        status = pass_on(s, scratch, <uint32_t>got, &passed)
        if status == ST_AGAIN:
            s.up_n = <uint32_t>got - passed
            s.up_at = 0
            s.up = kept(scratch + passed, s.up_n)
            if s.up == NULL:
                return ST_BAD
        # ST_CLOSED: HTTP has ended and wants no more; the client's bytes are read and thrown away until it has noticed
    return ST_OK


# -- bytes of HTTP ---------------------------------------------------------------------------------------------------

cdef int encrypt(session_t* s, const uint8_t* data, uint32_t n, uint32_t* sent) noexcept nogil:
    cdef int done = 0
    cdef int status = tls_write(s.ssl, data, <int>n, &done, &s.write_wait)
    sent[0] = <uint32_t>done
    return status


cdef int pump_down(session_t* s, uint8_t* scratch, int64_t budget, int64_t* spent) noexcept nogil:
    cdef int status
    cdef ssize_t n
    cdef uint32_t sent = 0
    while s.write_wait == TLS_READY:
        if s.down != NULL:
            status = encrypt(s, s.down + s.down_at, s.down_n - s.down_at, &sent)
            s.down_at += sent
            spent[0] += sent
            if status == ST_AGAIN:
                return ST_OK
            if status != ST_OK:
                return ST_BAD
            free(s.down)
            s.down = NULL
        if s.down_ended:
            return ST_CLOSED
        if s.inner_empty:
            return ST_OK
        if spent[0] >= budget:
            return ST_AGAIN
        n = recv(s.inner, scratch, PLAIN_BYTES, MSG_DONTWAIT)
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and errno == EAGAIN:
            s.inner_empty = 1
            return ST_OK
        if n <= 0:                   # an error too: HTTP closed its end with something unread in it
            s.down_ended = 1
            continue
        spent[0] += n
        status = encrypt(s, scratch, <uint32_t>n, &sent)
        if status == ST_AGAIN:
            s.down_n = <uint32_t>n - sent
            s.down_at = 0
            s.down = kept(scratch + sent, s.down_n)
            if s.down == NULL:
                return ST_BAD
        elif status != ST_OK:
            return ST_BAD
    return ST_OK


cdef int session_pump(session_t* s, uint8_t* scratch, int64_t budget, int64_t* spent) noexcept nogil:
    cdef int64_t up_spent = 0
    cdef int64_t down_spent = 0
    cdef int up = pump_up(s, scratch, budget, &up_spent)
    cdef int down = ST_OK
    if up != ST_BAD:
        down = pump_down(s, scratch, budget, &down_spent)
    spent[0] += up_spent + down_spent
    if up == ST_BAD or down == ST_BAD or down == ST_CLOSED:
        return ST_BAD if up == ST_BAD else down
    return ST_AGAIN if up == ST_AGAIN or down == ST_AGAIN else ST_OK


cdef void session_drop(session_t* s) noexcept nogil:
    tls_free(s.ssl)
    s.ssl = NULL
    free(s.up)
    free(s.down)
    s.up = NULL
    s.down = NULL
    if s.inner >= 0:
        close(s.inner)
        s.inner = -1
