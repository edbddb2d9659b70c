# A connection, and what the HTTP service of one reactor keeps: its connections' memory, queues and timers.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bootplane.core.deadlines cimport deadline_t, deadlines_t
from bootplane.core.http_addresses cimport address_t, addresses_t
from bootplane.core.http_exchange cimport exchange_t, scene_t
from bootplane.core.listeners cimport listeners_t
from bootplane.core.loop cimport handler_t, loop_t, ticker_t, waiter_t
from bootplane.core.pipe cimport pipe_t
from bootplane.core.segments cimport blob_t
from bootplane.core.shares cimport shares_t

cdef struct http_options_t:
    shares_t* shares                 # borrowed: groups of clients; NULL: there are none
    addresses_t* addresses           # borrowed: the counts for the next two, with those of other reactors
    uint32_t max_connections         # above it one must leave for each that comes, or that one gets 503 and a close
    uint32_t max_per_address         # open connections of one client address
    int64_t head_timeout_ns          # from the first byte of a head to its end
    int64_t idle_timeout_ns          # keep-alive without a request
    int64_t send_timeout_ns          # no progress while we owe bytes
    uint32_t min_bytes_s             # a reader that takes less is reset while places are short; 0: none is
    uint32_t min_over_s              # measured over that many seconds
    uint32_t turn_bytes              # most a connection sends before others get their turn
    uint32_t control                 # 1: hand over /MAAS/, /api/, /metrics, other methods; 0: 404 and 405 (bulk port)
    uint32_t hold                    # 1: nobody is let in before loop.opened: without names all we have is a 503
    uint32_t inherited               # 1: others have the listening sockets, too: reactors, and whoever started us

cdef enum:
    INPUT_BYTES = 131072             # of loop.scratch: an adopted connection may bring more than one head
    OUT_AT = 131072                  # where replies are written in loop.scratch

cdef enum timer_t:                   # every connection is in at most one list, ordered by when it is due
    TIMER_NONE = 0
    TIMER_IDLE                       # no byte of a request is here
    TIMER_HEAD                       # a head was begun
    TIMER_PROBE                      # the kernel took part of a sendfile: look again soon, the file may be cut
    TIMER_SEND                       # the kernel takes nothing
    TIMER_LINGER                     # we have ended; the peer may still be reading
    TIMER_FIRST                      # we drain, and its first request may be on its way
    TIMER_COUNT

cdef enum queue_t:
    QUEUE_NONE = 0
    QUEUE_HOT                        # requests to read, small answers, failures: always emptied
    QUEUE_BULK                       # turns of large bodies, followers of a fill, pipelines: a bounded round at a time
    QUEUE_COUNT

cdef enum water_t:                   # how much the kernel may keep unsent of a large body (TCP_NOTSENT_LOWAT)
    WATER_UNSET = 0                  # there was none yet
    WATER_LOW                        # 64 KiB: nobody knows how fast its reader is
    WATER_FREE                       # as much as the kernel wants: it has shown that it is fast
    WATER_MANY                       # 128 KiB: it has, but so have many

cdef struct connection_t:            # 256 bytes; an idle one owns nothing else
    handler_t handler                # first: epoll's data.ptr points here
    waiter_t waiter                  # second: on_wake finds the connection by sizeof(handler_t)
    exchange_t x
    int fd                           # owned; -1 when free
    uint8_t readable                 # 1: a recv may find something
    uint8_t half                     # 1: the peer sends no more, so a short read does not prove that nothing is left
    uint8_t failed                   # 1: EPOLLERR or EPOLLHUP came
    uint8_t woken                    # 1: wake_status and answer are news
    uint8_t lingering                # 1: our side is shut down
    uint8_t bulk                     # 1: counted in http_t.sending
    uint8_t water                    # water_t
    uint8_t corked                   # 1: TCP_CORK is set
    uint8_t stalled                  # 1: TIMER_SEND was due, and mark_at is where the reader was then
    uint8_t timer                    # timer_t
    uint8_t queue                    # queue_t
    uint8_t group                    # of shares
    uint16_t grouped                 # low bits of the version of shares that said so; 0: none
    uint16_t port                    # of the peer
    int wake_status
    uint32_t data_n                  # bytes in data
    uint32_t rest_n                  # bytes in rest
    uint32_t rest_at                 # of them sent
    uint32_t rest_head               # bytes at the front of rest that are response head (the others: a refusal's text)
    blob_t* answer                   # retained from on_wake until it is handled
    char* data                       # malloc'd: bytes read that no response has begun to answer
    char* rest                       # malloc'd: what is left of a head or refusal the kernel took only part of
    deadline_t deadline              # of `timer`
    connection_t* queue_next         # also the free list
    address_t* address               # released in connection_free
    int64_t mark_at                  # place in the body that its reader had reached, in bytes ...
    uint32_t taken                   # body bytes the kernel has taken ...
    uint32_t taken_ms                # ... since this millisecond of the loop's clock, while WATER_LOW
    uint32_t mark_s                  # ... at this second of the loop's clock; 0: never looked

cdef struct fifo_t:
    connection_t* first
    connection_t* last

cdef struct slab_t

cdef struct http_t:
    loop_t* loop
    ticker_t ticker
    http_options_t options
    scene_t scene
    slab_t* slabs                    # given back when the service stops
    connection_t* unused
    uint32_t open                    # connections in use
    uint32_t sending                 # of them with a large body under way
    deadlines_t timers[7]            # by timer_t
    fifo_t queues[3]                 # by queue_t
    fifo_t groups[64]                # QUEUE_BULK by group, while shares are active
    uint64_t waiting                 # which of them have somebody (bit: group)
    int64_t turn_ns                  # when they may get a turn, none having got one; NEVER: nobody waits
    uint32_t turn_bytes              # of the turn that is running
    uint16_t grouped                 # version of the shares that `groups` are by
    listeners_t listeners
    pipe_t pipe                      # for large bodies and fast readers
    int64_t patrol_ns                # next look at slow readers; NEVER: there are places enough
    uint8_t drain_asked              # the next tick closes what is idle
    char* input                      # in loop.scratch: bytes of the connection that is running, [at, at + have)
    uint32_t at
    uint32_t have
    uint32_t answered                # requests answered in the running turn
    int64_t spent                    # body bytes sent in the running round

cdef inline void running(http_t* http, connection_t* c) noexcept nogil:     # what ends now is a transfer of *c*
    http.scene.journal.ip = c.address.ip if c.address != NULL else NULL
    http.scene.journal.port = c.port

cdef connection_t* connection_new(http_t* http, int fd) noexcept nogil      # zeroed; NULL: no memory
# Frees what it owns but the descriptor. It must not be in a queue, parked, or have events of this wake-up still to
# come.
cdef void connection_free(http_t* http, connection_t* c) noexcept nogil
cdef void connections_free(http_t* http) noexcept nogil                     # closes all, and gives back the slabs

cdef void timer_set(http_t* http, connection_t* c, int timer) noexcept nogil    # moves it to the end of a list
cdef void timer_touch(http_t* http, connection_t* c, int timer) noexcept nogil  # the same, but rarely more than a look
cdef void timer_clear(http_t* http, connection_t* c) noexcept nogil
cdef connection_t* timer_due(http_t* http, int timer) noexcept nogil        # the first of a list if it is due, or NULL
cdef int64_t timer_next(http_t* http) noexcept nogil                        # when one will be due, or NEVER

cdef inline connection_t* connection_at(deadline_t* d) noexcept nogil:      # whose it is; NULL: nobody's
    if d == NULL:
        return NULL
    return <connection_t*>(<char*>d - <size_t>&(<connection_t*>NULL).deadline)

cdef void enqueue(http_t* http, connection_t* c, int queue) noexcept nogil  # stays where it is if it is in one
cdef connection_t* dequeue(http_t* http, int queue) noexcept nogil          # or NULL
cdef void fifo_push(fifo_t* q, connection_t* c) noexcept nogil
cdef connection_t* fifo_pop(fifo_t* q) noexcept nogil                       # or NULL
