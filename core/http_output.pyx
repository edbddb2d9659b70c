"""Bytes to a connection: replies, heads, bodies, and what the kernel did not take of them.

A small body goes with its head in one sendmsg. A large one waits for its turn in QUEUE_BULK, then sends its head with
MSG_MORE and up to turn_bytes of the file, through the reactor's pipe (pipe) when more turns follow and its reader has
shown that it is fast. Whatever the kernel takes only in part is waited for on the next edge; after part of a sendfile
there may be none (the file may be cut), so that one is tried again after a second.

A body of more than one turn is corked: what a turn, or a full socket, leaves of a segment waits for the next turn's
bytes instead of going alone (0.77 x the packets). The kernel waits no longer than 200 ms, which is for whoever waits
for a fill; its end uncorks it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from bootplane.core.counters cimport C_HTTP_BODY_BYTES, C_HTTP_HEAD_BYTES, count_n
from bootplane.core.http_close cimport WAIT, lost
from bootplane.core.http_connection cimport (
    QUEUE_HOT, TIMER_PROBE, TIMER_SEND, WATER_FREE, WATER_LOW, WATER_MANY, WATER_UNSET, connection_t, http_t,
    timer_touch,
)
from bootplane.core.http_exchange cimport (
    DO_SEND, EXCHANGE_BEGUN, EXCHANGE_BODY, exchange_absent, exchange_cut, exchange_damaged, exchange_head,
    exchange_sent, exchange_take_back, exchange_text_sent,
)
from bootplane.core.http_input cimport drop_head, next_request, store, yield_turn
from bootplane.core.linux cimport IPPROTO_TCP, TCP_CORK, TCP_NOTSENT_LOWAT, off_t, setsockopt
from bootplane.core.loop cimport loop_tell_damaged
from bootplane.core.segments cimport CHUNK_BYTES, SMALL_BYTES, blob_span, segment_release, segment_t
from bootplane.core.sender cimport is_damage, send_blob, send_parts
from bootplane.core.status cimport ST_ABSENT, ST_AGAIN, ST_OK

cdef enum:
    GO_ON = 101                      # the head is with the kernel: an answer between two functions of this file
    MANY_SENDERS = 256               # large bodies under way from which on nobody's socket holds as much as it wants
    LOW_BYTES = 65536
    MANY_BYTES = 131072
    FREE_BYTES = -1                  # the system's default
    PROOF_BYTES = 262144             # who takes that within ...
    PROOF_MS = 100                   # ... is no slow reader


cdef void account(http_t* http, size_t sent, size_t head) noexcept nogil:
    count_n(http.loop.counters, C_HTTP_HEAD_BYTES, sent if sent < head else head)
    if sent > head:
        count_n(http.loop.counters, C_HTTP_BODY_BYTES, sent - head)


cdef inline uint32_t milliseconds(http_t* http) noexcept nogil:
    return <uint32_t>(http.loop.now_ns // 1000000)


cdef void set_water(http_t* http, connection_t* c, int water) noexcept nogil:
    cdef int n = LOW_BYTES if water == WATER_LOW else (MANY_BYTES if water == WATER_MANY else FREE_BYTES)
    setsockopt(c.fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &n, sizeof(n))      # room this makes comes as an edge
    c.water = <uint8_t>water
    c.taken = 0
    c.taken_ms = milliseconds(http)


cdef void set_cork(connection_t* c, bint on) noexcept nogil:
    cdef int value = on
    setsockopt(c.fd, IPPROTO_TCP, TCP_CORK, &value, sizeof(value))
    c.corked = on


cdef void mind_memory(http_t* http, connection_t* c) noexcept nogil:
    """Left to itself the kernel keeps up to 4 MB for each reader, however slow, and thousands take all TCP may have.

    Fast ones need that: so it is theirs once they have taken PROOF_BYTES in PROOF_MS, unless many want it.
    """
    if c.water == WATER_LOW and c.taken >= PROOF_BYTES:
        if milliseconds(http) - c.taken_ms <= PROOF_MS:
            set_water(http, c, WATER_FREE)
        else:
            c.taken = 0
            c.taken_ms = milliseconds(http)
    if c.water == WATER_FREE and http.sending > MANY_SENDERS:
        set_water(http, c, WATER_MANY)


cdef int blocked(http_t* http, connection_t* c, int timer) noexcept nogil:
    if not store(http, c):
        return WAIT
    if c.bulk:
        mind_memory(http, c)
    if timer == TIMER_PROBE:         # the kernel took some: a new stretch without any begins later
        c.stalled = 0
    timer_touch(http, c, timer)
    return WAIT


cdef int keep_rest(http_t* http, connection_t* c, const char* rest, size_t n, size_t head) noexcept nogil:
    """Keeps what the kernel did not take of a head or refusal; *head* of its bytes are response head."""
    c.rest = <char*>malloc(n)
    if c.rest == NULL:
        return lost(http, c)
    memcpy(c.rest, rest, n)
    c.rest_n = <uint32_t>n
    c.rest_at = 0
    c.rest_head = <uint32_t>head
    return blocked(http, c, TIMER_SEND)


cdef int send_rest(http_t* http, connection_t* c) noexcept nogil:
    """ST_OK, or what the caller has to do about it."""
    cdef size_t sent = 0
    cdef int status = send_parts(c.fd, c.rest + c.rest_at, c.rest_n - c.rest_at, NULL, 0,
                                 c.x.state == EXCHANGE_BODY, &sent)
    account(http, sent, c.rest_head - c.rest_at if c.rest_at < c.rest_head else 0)
    c.rest_at += <uint32_t>sent
    if status == ST_OK:
        free(c.rest)
        c.rest = NULL
    return status


cdef int send_text(http_t* http, connection_t* c) noexcept nogil:
    cdef size_t sent = 0
    cdef size_t head = http.scene.head_length
    cdef int status
    if c.rest != NULL:
        status = send_rest(http, c)
        if status == ST_AGAIN:
            return blocked(http, c, TIMER_SEND)
    else:
        drop_head(http, c)
        status = send_parts(c.fd, http.scene.out, http.scene.length, NULL, 0, False, &sent)
        account(http, sent, head)
        if status == ST_AGAIN:
            return keep_rest(http, c, http.scene.out + sent, http.scene.length - sent,
                             head - sent if sent < head else 0)
    if status != ST_OK:
        return lost(http, c)
    return next_request(http, c, exchange_text_sent(&c.x, &http.scene))


cdef int broken(http_t* http, connection_t* c, int status) noexcept nogil:
    """A send of body bytes failed: is it the file's fault or the peer's? A file of the cache is fetched again."""
    if not is_damage(status):
        return lost(http, c)
    if c.x.blob.registered:
        return exchange_damaged(&c.x)
    loop_tell_damaged(http.loop, c.x.blob, <unsigned long long>(c.x.offset // CHUNK_BYTES))
    return exchange_cut(&c.x, &http.scene)


cdef int send_small(http_t* http, connection_t* c, segment_t* seg) noexcept nogil:
    """Head and body in one call, the body from the mapping; *seg* holds all of it and is released here."""
    cdef size_t sent = 0
    cdef size_t body = <size_t>(c.x.end - c.x.offset)
    cdef size_t head
    cdef int status
    exchange_head(&c.x, &http.scene)
    drop_head(http, c)
    head = http.scene.length
    status = send_parts(c.fd, http.scene.out, head, seg.map + (c.x.offset - seg.base), body, False, &sent)
    segment_release(seg)             # taken by blob_span in send_body
    count_n(http.loop.counters, C_HTTP_HEAD_BYTES, sent if sent < head else head)
    if status == ST_OK:
        return next_request(http, c, exchange_sent(&c.x, &http.scene, body))
    if status != ST_AGAIN:
        if is_damage(status):
            exchange_take_back(&c.x, &http.scene)        # if nobody can give the bytes, that can still be told
        return broken(http, c, status)
    if sent < head:
        return keep_rest(http, c, http.scene.out + sent, head - sent, head - sent)
    exchange_sent(&c.x, &http.scene, sent - head)        # less than body: it is not the end
    return blocked(http, c, TIMER_PROBE)


cdef int begin_body(http_t* http, connection_t* c, int queue) noexcept nogil:
    """The head of a body whose first byte is here. GO_ON: it is with the kernel, the body follows."""
    cdef segment_t* seg
    cdef off_t run
    cdef size_t sent = 0
    cdef int status = blob_span(c.x.blob, c.x.offset, http.loop.now_ns, &seg, &run)
    if status == ST_ABSENT:
        return exchange_absent(&c.x)
    if status != ST_OK:
        return exchange_cut(&c.x, &http.scene)
    if c.x.end - c.x.offset <= SMALL_BYTES and run >= c.x.end - c.x.offset and seg.map != NULL:
        return send_small(http, c, seg)
    segment_release(seg)             # sending takes it again: this was only a look
    if not c.bulk:
        c.bulk = 1
        http.sending += 1            # taken back in next_request or connection_free
    if queue == QUEUE_HOT:
        drop_head(http, c)
        return yield_turn(http, c)
    if c.water == WATER_UNSET:
        set_water(http, c, WATER_LOW)
    if c.x.end - c.x.offset > http.options.turn_bytes:
        set_cork(c, True)
    exchange_head(&c.x, &http.scene)
    drop_head(http, c)
    status = send_parts(c.fd, http.scene.out, http.scene.length, NULL, 0, True, &sent)
    account(http, sent, http.scene.length)
    if status == ST_AGAIN:
        return keep_rest(http, c, http.scene.out + sent, http.scene.length - sent, http.scene.length - sent)
    return GO_ON if status == ST_OK else lost(http, c)


cdef int send_body(http_t* http, connection_t* c, int queue) noexcept nogil:
    cdef size_t sent = 0
    cdef int status
    cdef int action
    if c.rest != NULL:
        status = send_rest(http, c)
        if status == ST_AGAIN:
            return blocked(http, c, TIMER_SEND)
        if status != ST_OK:
            return lost(http, c)
    if not c.x.flags & EXCHANGE_BEGUN:
        action = begin_body(http, c, queue)
        if action != GO_ON:
            return action
    status = send_blob(c.fd, c.x.blob, c.x.offset, c.x.end, http.turn_bytes, http.loop.now_ns,
                       &http.pipe if c.corked and c.water == WATER_FREE else NULL, &sent)
    http.spent += <int64_t>sent
    c.taken += <uint32_t>sent
    if sent:
        action = exchange_sent(&c.x, &http.scene, sent)
        if action != DO_SEND:
            if c.corked:
                set_cork(c, False)
            return next_request(http, c, action)
    if status == ST_OK:
        return yield_turn(http, c)
    if status == ST_AGAIN:
        return blocked(http, c, TIMER_PROBE if sent else TIMER_SEND)
    if status == ST_ABSENT:
        return exchange_absent(&c.x)
    return broken(http, c, status)
