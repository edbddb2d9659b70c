"""Connections of one reactor: their memory, the two queues they wait in for a turn, the lists their deadlines stand in.

A connection that is idle between requests owns its struct and nothing else. Everything that costs a lookup elsewhere is
a link in the struct itself.

Leaves to others: when to set which timer (http_steps), who gets a turn (http_service).
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from bootplane.core.counters cimport C_HTTP_CLOSED, count
from bootplane.core.deadlines cimport deadline_t, deadlines_append, deadlines_next, deadlines_remove
from bootplane.core.http_addresses cimport addresses_release
from bootplane.core.http_exchange cimport EXCHANGE_ENDED, EXCHANGE_HEAD, exchange_drop, exchange_record
from bootplane.core.http_record cimport journal_free
from bootplane.core.http_groups cimport group_enqueue, group_forget
from bootplane.core.linux cimport bp_add_int, bp_load_int, close
from bootplane.core.loop cimport NEVER, loop_unpark
from bootplane.core.records cimport OUTCOME_CUT
from bootplane.core.segments cimport blob_release
from bootplane.core.sender cimport socket_reset

cdef enum:
    SLAB = 128                       # connections per allocation: 30 KiB

cdef struct slab_t:
    slab_t* next
    connection_t items[SLAB]


cdef connection_t* connection_new(http_t* http, int fd) noexcept nogil:
    cdef slab_t* slab
    cdef connection_t* c
    cdef int i
    if http.unused == NULL:
        slab = <slab_t*>calloc(1, sizeof(slab_t))
        if slab == NULL:
            return NULL
        slab.next = http.slabs
        http.slabs = slab
        for i in range(SLAB):
            slab.items[i].fd = -1
            slab.items[i].queue_next = http.unused
            http.unused = &slab.items[i]
    c = http.unused
    http.unused = c.queue_next
    memset(c, 0, sizeof(connection_t))
    c.fd = fd
    http.open += 1
    bp_add_int(&http.options.addresses.open, 1)
    http.loop.busy += 1              # taken back in connection_free
    return c


cdef void connection_free(http_t* http, connection_t* c) noexcept nogil:
    loop_unpark(http.loop, &c.waiter)
    running(http, c)
    exchange_drop(&c.x, &http.scene)
    timer_clear(http, c)
    if c.answer != NULL:
        blob_release(c.answer)       # retained in on_wake
        c.answer = NULL
    if c.address != NULL:
        addresses_release(http.options.addresses, c.address)
        c.address = NULL
    if c.bulk:
        http.sending -= 1
        c.bulk = 0
    free(c.data)
    free(c.rest)
    c.data = NULL
    c.rest = NULL
    c.fd = -1
    c.queue_next = http.unused
    http.unused = c
    http.open -= 1
    bp_add_int(&http.options.addresses.open, -1)
    http.loop.busy -= 1              # counted in connection_new


cdef void connections_free(http_t* http) noexcept nogil:
    cdef slab_t* slab = http.slabs
    cdef int i
    while slab != NULL:              # first all connections: freeing one touches its neighbours in the lists
        for i in range(SLAB):
            if slab.items[i].fd >= 0:
                if slab.items[i].x.state == EXCHANGE_HEAD or slab.items[i].x.state == EXCHANGE_ENDED:
                    close(slab.items[i].fd)
                else:                # it is owed bytes: an orderly end would pass for the end of them
                    socket_reset(slab.items[i].fd)
                running(http, &slab.items[i])
                exchange_record(&slab.items[i].x, &http.scene, OUTCOME_CUT)
                count(http.loop.counters, C_HTTP_CLOSED)
                connection_free(http, &slab.items[i])
        slab = slab.next
    while http.slabs != NULL:
        slab = http.slabs
        http.slabs = slab.next
        free(slab)
    http.unused = NULL
    journal_free(&http.scene.journal)


# -- timers ----------------------------------------------------------------------------------------------------------

cdef void timer_clear(http_t* http, connection_t* c) noexcept nogil:
    if c.timer != TIMER_NONE:
        deadlines_remove(&http.timers[c.timer], &c.deadline)
        c.timer = TIMER_NONE


cdef void timer_set(http_t* http, connection_t* c, int timer) noexcept nogil:
    timer_clear(http, c)
    c.timer = <unsigned char>timer
    deadlines_append(&http.timers[timer], &c.deadline, http.loop.now_ns)


cdef void timer_touch(http_t* http, connection_t* c, int timer) noexcept nogil:
    # Sixty answers a millisecond need not move links sixty times: one that was put in its place within the last
    # eighth of the span stays there. So it may end an eighth early; http_start makes the spans of these lists that
    # much longer. When places are short, who was idle longest has to be right.
    cdef int64_t span_ns = http.timers[timer].span_ns
    if c.timer != timer or http.patrol_ns != NEVER or c.deadline.due_ns - http.loop.now_ns < span_ns - (span_ns >> 3):
        timer_set(http, c, timer)


cdef connection_t* timer_due(http_t* http, int timer) noexcept nogil:
    cdef deadline_t* d = http.timers[timer].first
    return connection_at(d) if d != NULL and d.due_ns <= http.loop.now_ns else NULL


cdef int64_t timer_next(http_t* http) noexcept nogil:
    return deadlines_next(&http.timers[1], TIMER_COUNT - 1, NEVER)      # not of TIMER_NONE


# -- queues ----------------------------------------------------------------------------------------------------------

cdef void fifo_push(fifo_t* q, connection_t* c) noexcept nogil:
    c.queue_next = NULL
    if q.last != NULL:
        q.last.queue_next = c
    else:
        q.first = c
    q.last = c


cdef connection_t* fifo_pop(fifo_t* q) noexcept nogil:
    cdef connection_t* c = q.first
    if c != NULL:
        q.first = c.queue_next
        if q.first == NULL:
            q.last = NULL
        c.queue = QUEUE_NONE
    return c


cdef inline bint are_shares_active(http_t* http) noexcept nogil:
    return http.options.shares != NULL and bp_load_int(&http.options.shares.active) != 0


cdef void enqueue(http_t* http, connection_t* c, int queue) noexcept nogil:
    if c.queue != QUEUE_NONE:
        return
    c.queue = <unsigned char>queue
    if queue == QUEUE_BULK and are_shares_active(http):
        group_enqueue(http, c)
    else:
        if c.grouped and not are_shares_active(http):    # else its pace is that of small answers, too
            group_forget(http, c)
        fifo_push(&http.queues[queue], c)
    http.ticker.due_ns = 0           # the tick after this batch of events, without waiting


cdef connection_t* dequeue(http_t* http, int queue) noexcept nogil:
    return fifo_pop(&http.queues[queue])


# -- for Python ------------------------------------------------------------------------------------------------------

def connection_bytes():
    """User memory of one connection that is idle between requests."""
    return sizeof(connection_t)
