# What the HTTPS listeners of one reactor keep: sessions, their memory, queue and timers, and how one ends.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from bootplane.core.deadlines cimport deadline_t, deadlines_t
from bootplane.core.http_addresses cimport addresses_t
from bootplane.core.listeners cimport listeners_t
from bootplane.core.loop cimport loop_t, ticker_t
from bootplane.core.tls cimport tls_context_t
from bootplane.core.tls_session cimport session_t

cdef struct tls_options_t:
    tls_context_t* context           # borrowed
    addresses_t* addresses           # borrowed: the counts for the next two; others than HTTP's
    uint32_t max_sessions            # above it the oldest that has sent no hello leaves, or the new one is closed
    uint32_t max_per_address
    uint32_t max_handshakes          # under way at a time on this reactor: each holds 43 KiB
    int64_t hello_timeout_ns         # from accept to a whole first record; the same again for the rest of the handshake
    int64_t send_timeout_ns          # no progress with the last bytes of a connection that HTTP has ended
    uint32_t hold                    # as HTTP's
    uint32_t inherited               # as HTTP's

cdef enum session_timer_t:           # every session is in at most one list, in the order in which they are due
    TIMER_NONE = 0
    TIMER_HELLO
    TIMER_READY
    TIMER_SHAKE
    TIMER_FLUSH                      # HTTP has ended; the client has not got everything
    TIMER_LINGER
    TIMER_COUNT

cdef struct slab_t

cdef struct service_t:
    loop_t* loop
    ticker_t ticker
    tls_options_t options
    slab_t* slabs
    session_t* unused
    session_t* first                 # those that want a turn
    session_t* last
    deadlines_t timers[6]            # by session_timer_t
    uint32_t shaking                 # sessions in SHAKE
    uint32_t open                    # sessions alive
    session_t** by_far               # by the number of HTTP's end; owned
    uint32_t by_far_n
    listeners_t listeners
    uint8_t drain_asked

cdef session_t* session_new(service_t* t, int fd) noexcept nogil            # without handlers; NULL: no memory
cdef void sessions_free(service_t* t) noexcept nogil                        # ends all, and gives back the slabs

cdef void timer_set(service_t* t, session_t* s, int timer) noexcept nogil   # moves it to the end of a list
cdef void timer_clear(service_t* t, session_t* s) noexcept nogil
cdef inline session_t* session_at(deadline_t* d) noexcept nogil:            # whose it is; NULL: nobody's
    if d == NULL:
        return NULL
    return <session_t*>(<char*>d - <size_t>&(<session_t*>NULL).deadline)

cdef int64_t aged_ns(service_t* t, session_t* s) noexcept nogil
cdef bint is_aged(service_t* t, session_t* s) noexcept nogil                # False for NULL

cdef void enqueue(service_t* t, session_t* s) noexcept nogil                # stays where it is if it is queued
cdef session_t* dequeue(service_t* t) noexcept nogil                        # or NULL

cdef void call_next(service_t* t) noexcept nogil                        # who waits longest, to a place if one is free
cdef void leave_handshake(service_t* t, session_t* s) noexcept nogil        # its place is the next one's
cdef void end(service_t* t, session_t* s, bint with_reset) noexcept nogil
cdef void fail(service_t* t, session_t* s, int why) noexcept nogil
cdef void linger(service_t* t, session_t* s) noexcept nogil
cdef void linger_on(service_t* t, session_t* s) noexcept nogil              # its turn
