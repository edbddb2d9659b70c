"""Turns of large bodies by groups of clients, while shares are active.

Each group has a queue of its own here; whose turn it is, and how much it may send, is said by the table that all
reactors share (shares), and within a group it goes in turn. Answers that are not queued for a turn (small files, heads,
refusals) are neither counted nor held up.

A connection's group is looked up when it first wants a turn, and again after the groups were changed; what waits in a
queue then is moved at once. With nothing set, none of this is on anybody's way.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from bootplane.core.http_connection cimport (
    QUEUE_BULK, connection_t, fifo_pop, fifo_push, fifo_t, http_t,
)
from bootplane.core.http_steps cimport step
from bootplane.core.linux cimport SOL_SOCKET, SO_MAX_PACING_RATE, bp_load_int, setsockopt
from bootplane.core.shares cimport (
    SHARE_GROUPS, SHARE_OTHERS, shares_group, shares_pace, shares_ready, shares_settle, shares_t, shares_turn,
    shares_unready, turn_t,
)

cdef enum:
    TURN_COST = 4096                 # what a turn costs besides its bytes


cdef inline uint16_t version_of(shares_t* s) noexcept nogil:
    return <uint16_t>(bp_load_int(&s.version) & 0x7fff) | 0x8000         # never 0


cdef void set_pace(http_t* http, connection_t* c, uint64_t bytes_s) noexcept nogil:
    """*bytes_s* 0: as fast as it goes."""
    cdef uint64_t pace = bytes_s if bytes_s else <uint64_t>-1
    setsockopt(c.fd if http.loop.tls == NULL else http.loop.tls_socket(http.loop, c.fd), SOL_SOCKET,
               SO_MAX_PACING_RATE, &pace, sizeof(pace))


cdef void find_group(http_t* http, connection_t* c) noexcept nogil:
    cdef shares_t* s = http.options.shares
    cdef uint16_t version = version_of(s)
    cdef uint64_t pace
    if c.grouped == version:
        return
    c.group = <unsigned char>(shares_group(s, c.address.ip) if c.address != NULL else SHARE_OTHERS)
    pace = shares_pace(s, c.group)
    if pace or c.grouped:            # what was set before must not stay
        set_pace(http, c, pace)
    c.grouped = version


cdef void group_forget(http_t* http, connection_t* c) noexcept nogil:
    c.grouped = 0
    set_pace(http, c, 0)


cdef void group_enqueue(http_t* http, connection_t* c) noexcept nogil:
    find_group(http, c)
    fifo_push(&http.groups[c.group], c)
    http.waiting |= <uint64_t>1 << c.group
    shares_ready(http.options.shares, c.group, http.loop.now_ns)


cdef connection_t* leave(http_t* http, int group) noexcept nogil:
    cdef fifo_t* q = &http.groups[group]
    cdef connection_t* c = fifo_pop(q)
    if q.first == NULL:
        http.waiting &= ~(<uint64_t>1 << group)
    if c != NULL:
        shares_unready(http.options.shares, group)
    return c


cdef void move(http_t* http) noexcept nogil:
    """The groups have changed: who waits goes where it belongs now; to the common queue when there are none."""
    cdef fifo_t all
    cdef connection_t* c
    cdef int group
    all.first = NULL
    all.last = NULL
    for group in range(SHARE_GROUPS):
        c = leave(http, group)
        while c != NULL:
            fifo_push(&all, c)
            c = leave(http, group)
    c = fifo_pop(&all)
    while c != NULL:
        c.queue = QUEUE_BULK
        if bp_load_int(&http.options.shares.active):
            group_enqueue(http, c)
        else:
            group_forget(http, c)
            fifo_push(&http.queues[<int>QUEUE_BULK], c)
        c = fifo_pop(&all)


cdef void group_round(http_t* http, int64_t most) noexcept nogil:
    cdef shares_t* s = http.options.shares
    cdef connection_t* c
    cdef turn_t turn
    cdef int64_t before
    if not bp_load_int(&s.active) or http.grouped != version_of(s):
        http.grouped = version_of(s)
        move(http)
    while http.waiting and http.spent < most:
        if not shares_turn(s, http.waiting, http.options.turn_bytes, http.loop.now_ns, &turn):
            http.turn_ns = turn.retry_ns
            break
        c = leave(http, turn.group)
        before = http.spent
        if c != NULL:                # it is there: `waiting` says so
            http.turn_bytes = <uint32_t>turn.bytes
            step(http, c, QUEUE_BULK)
        shares_settle(s, &turn, http.spent - before)
        http.spent += TURN_COST
    http.turn_bytes = http.options.turn_bytes
    if http.waiting and http.spent >= most:
        http.turn_ns = 0


cdef void groups_leave(http_t* http) noexcept nogil:
    cdef int group
    if http.options.shares == NULL:
        return
    for group in range(SHARE_GROUPS):
        while leave(http, group) != NULL:
            pass
