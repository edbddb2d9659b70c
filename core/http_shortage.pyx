"""Who leaves when there is no place for who comes: nobody is told 503 while a connection is open that nobody uses.

    always           heads that are not finished in time (408), readers that take nothing (http_steps)
    no place left    the newest comes in, and leaves: one that lingers; the one idle longest; the one whose head was
                     begun first, a second ago or more
    1/8 left         readers of less than min_bytes_s are reset (http_readers)

So 10,000 idle connections keep no machine from booting, and as long as there are places a reader may be as slow as it
likes. One that looks idle and has sent a request meanwhile gets its answer instead.

A reactor ends its own only. The places are those of all reactors together; with several, one that has nothing to end
refuses although another might have had something.
"""

from libc.stdint cimport int64_t
from bootplane.core.counters cimport C_HTTP_SHED, count
from bootplane.core.http_close cimport end
from bootplane.core.http_connection cimport (
    QUEUE_HOT, QUEUE_NONE, TIMER_HEAD, TIMER_IDLE, TIMER_LINGER, TIMER_PROBE, TIMER_SEND, connection_at, connection_t,
    enqueue, http_t,
)
from bootplane.core.http_readers cimport is_slow
from bootplane.core.http_steps cimport cut_reader
from bootplane.core.linux cimport MSG_DONTWAIT, bp_load_int, recv
from bootplane.core.loop cimport NEVER

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_PEEK

cdef enum:
    LOOKS = 64                       # connections looked at for one that may go
    HEAD_AGE_NS = 1000000000
    PATROLS = 4                      # looks at all slow readers in min_over_s: 16,000 are about 5 ms


cdef bint has_sent(connection_t* c) noexcept nogil:
    cdef char byte
    return recv(c.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0


cdef bint end_first(http_t* http, int timer, int64_t age_ns) noexcept nogil:
    cdef connection_t* c = connection_at(http.timers[timer].first)
    cdef connection_t* after
    cdef int64_t due_ns = http.loop.now_ns + http.timers[timer].span_ns - age_ns     # of one that is just old enough
    cdef int looks = 0
    while c != NULL and looks < LOOKS and c.deadline.due_ns <= due_ns:
        after = connection_at(c.deadline.after)
        if c.queue == QUEUE_NONE:
            if timer == TIMER_LINGER or not has_sent(c):
                count(http.loop.counters, C_HTTP_SHED)
                end(http, c)
                return True
            c.readable = 1           # its request came after the last look at events
            enqueue(http, c, QUEUE_HOT)
        c = after
        looks += 1
    return False


cdef bint make_room(http_t* http, int64_t age_ns) noexcept nogil:
    return (end_first(http, TIMER_LINGER, 0) or end_first(http, TIMER_IDLE, age_ns)
            or end_first(http, TIMER_HEAD, HEAD_AGE_NS))


cdef bint are_short(http_t* http) noexcept nogil:
    return <int64_t>bp_load_int(&http.options.addresses.open) * 8 >= <int64_t>http.options.max_connections * 7


cdef void mind_places(http_t* http) noexcept nogil:
    if http.patrol_ns == NEVER and are_short(http):
        http.patrol_ns = http.loop.now_ns


cdef void patrol(http_t* http) noexcept nogil:
    cdef connection_t* c
    cdef connection_t* after
    cdef int timer
    if not are_short(http):
        http.patrol_ns = NEVER
        return
    http.patrol_ns = http.loop.now_ns + <int64_t>http.options.min_over_s * 1000000000 // PATROLS
    for timer in range(<int>TIMER_PROBE, <int>TIMER_SEND + 1):
        c = connection_at(http.timers[timer].first)
        while c != NULL:
            after = connection_at(c.deadline.after)
            if c.queue == QUEUE_NONE and is_slow(http, c):
                count(http.loop.counters, C_HTTP_SHED)
                cut_reader(http, c)
            c = after
