# What one reactor thread owns, and what its services (HTTP, TFTP) may ask of it. No Python object anywhere in here.
#
# A service registers handlers (first member of anything it puts in epoll), one ticker for its deadlines, and parks
# waiters. It never blocks, never allocates on a hit, and touches only its own loop_t.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bootplane.core.counters cimport counters_t
from bootplane.core.linux cimport sockaddr_storage
from bootplane.core.mailbox cimport mail_t, mailbox_t
from bootplane.core.records cimport records_t
from bootplane.core.segments cimport blob_t
from bootplane.core.table cimport table_t

cdef struct loop_t
cdef struct handler_t
cdef struct ticker_t
cdef struct waiter_t

cdef enum:
    PARK_BUCKETS = 1024
    SCRATCH_BYTES = 262144
    NEVER = 0x7fffffffffffffff

cdef enum mail_kind_t:
    # to a reactor
    MAIL_STOP = 1
    MAIL_DRAIN                   # stop accepting, finish what runs
    MAIL_SNAPSHOT                # p: table_t*, one reference passes
    MAIL_CHUNK                   # p: blob_t*, one reference passes; a: chunk; status: ST_OK or why it cannot be had
    MAIL_ANSWER                  # a: request id; p: blob_t* with one reference or NULL; status
    MAIL_ADOPT                   # status: descriptor that comes back; p: malloc'd bytes already read, a: their count
    MAIL_OPEN                    # let clients in, snapshot or not
    # to Python
    MAIL_MISS                    # a: blob id; b: chunk
    MAIL_DAMAGED                 # the same: PRESENT, and its file cannot be read there, or in the chunk that follows
    MAIL_ASK                     # p: ask_t*, owned by the receiver
    MAIL_HANDOVER                # p: handover_t*, owned by the receiver
    MAIL_RETIRED                 # p: table_t*, the reference of the snapshot this reactor no longer uses
    MAIL_DRAINED                 # no connection and no transfer is left

cdef enum proto_t:
    PROTO_HTTP = 1
    PROTO_TFTP = 2

cdef struct ask_t:               # a dynamic name somebody wants; malloc'd
    uint64_t id                  # answer with this
    int proto                    # proto_t
    sockaddr_storage peer
    sockaddr_storage local       # the address that was asked
    uint16_t name_len
    char name[512]

cdef struct handover_t:          # a connection that is not ours to answer; malloc'd
    int fd                       # owned by the receiver
    sockaddr_storage peer
    sockaddr_storage local
    size_t length                # bytes read so far
    uint8_t* data                # malloc'd

cdef struct handler_t:           # first member of everything in epoll: data.ptr points here
    void (*on_event)(loop_t* loop, handler_t* self, uint32_t events) noexcept nogil

cdef struct ticker_t:            # a service's deadlines
    # Called when now >= due_ns; returns the next due time or NEVER. A service may lower due_ns itself at any time.
    int64_t (*tick)(loop_t* loop, ticker_t* self) noexcept nogil
    int64_t due_ns
    ticker_t* next

cdef struct waiter_t:            # embedded in a connection or transfer; zeroed at birth
    # Called once, with the waiter already unparked. For a chunk: status ST_OK means try blob_span again (it may be
    # absent again: park again). For an answer: blob is borrowed for the call (retain it to keep it) or NULL with a
    # status. ST_TIMEOUT: the deadline passed. The callee may free the waiter's owner.
    void (*on_wake)(loop_t* loop, waiter_t* self, int status, blob_t* blob) noexcept nogil
    blob_t* blob                 # retained while parked on a chunk; NULL while waiting for an answer
    uint64_t chunk
    uint64_t request             # id of the question while waiting for an answer
    int64_t deadline_ns
    waiter_t* prev
    waiter_t* next
    uint32_t bucket
    uint8_t parked               # 1 while in a list
    uint8_t posted               # 1 once its mail reached the ring; else the loop's tick posts again
    uint8_t followed             # set by loop_park: 1 when another waiter's mail asks for the chunk already
    uint8_t damaged              # what loop_park was told
    ask_t* unposted              # owned; a question that found the ring full

cdef struct loop_t:
    int epfd
    uint32_t index               # which reactor of the process
    int64_t now_ns               # monotonic, read once per wake-up and after long turns
    table_t* table               # current snapshot, one reference; NULL until the first arrives
    counters_t* counters         # this thread's block
    mailbox_t* inbox             # Python -> reactor
    mailbox_t* outbox            # reactor -> Python
    records_t* records           # transfers that have ended, for Python to poll
    ticker_t* tickers
    waiter_t* parked[1024]       # by blob id or request id, PARK_BUCKETS lists
    uint32_t parked_count
    int64_t park_limit_ns        # how long a cold miss may wait (20 s)
    uint64_t next_request
    uint8_t opened               # 1: a snapshot is here, or MAIL_OPEN came
    uint8_t draining
    uint8_t stopping
    uint32_t busy                # connections and transfers alive, counted by the services: += 1 at birth, -= 1 at end
    uint8_t* scratch             # SCRATCH_BYTES, free for use within one callback
    char date[32]                # "Sat, 21 Nov 2026 20:57:00 GMT", renewed by the loop each second
    # services
    void* http                   # http_t*, NULL when this reactor serves no HTTP
    void* tftp                   # tftp_t*
    void* tls                    # service_t* of tls_sessions, NULL when this reactor serves no HTTPS
    void (*adopt)(loop_t* loop, int fd, uint8_t* data, size_t n) noexcept nogil    # set by the HTTP service
    void (*drain)(loop_t* loop) noexcept nogil                                     # set by the HTTP service
    void (*drain_tftp)(loop_t* loop) noexcept nogil                                # set by the TFTP service
    # Set with `tls`: HTTP asks about a connection whose socket is AF_UNIX, for its client speaks TLS to another one.
    bint (*tls_addresses)(loop_t* loop, int fd, sockaddr_storage* peer, sockaddr_storage* local) noexcept nogil
    int (*tls_socket)(loop_t* loop, int fd) noexcept nogil                         # its client's socket; fd: not TLS
    int (*tls_unsent)(loop_t* loop, int fd) noexcept nogil                         # bytes its client has not got yet
    void (*tls_away)(loop_t* loop, int fd, bint away) noexcept nogil               # 1: Python's now; 0: HTTP's again
    void (*drain_tls)(loop_t* loop) noexcept nogil
    void (*stop_http)(loop_t* loop) noexcept nogil                                 # set by attach.pyx
    void (*stop_tftp)(loop_t* loop) noexcept nogil                                 # set by attach.pyx
    void (*stop_tls)(loop_t* loop) noexcept nogil                                  # set by attach.pyx
    # private to loop.pyx and reactor.pyx
    handler_t inbox_handler
    ticker_t park_ticker
    waiter_t* cursor             # next waiter of the walk in progress; loop_unpark moves it on
    int64_t date_second          # which second `date` shows
    uint8_t inbox_ready          # the inbox is read after the other events of a wake-up: it may free their owners
    uint8_t drained              # MAIL_DRAINED has been sent

cdef int loop_add(loop_t* loop, int fd, handler_t* handler, uint32_t events) noexcept nogil   # ST_OK or -errno
cdef void loop_remove(loop_t* loop, int fd) noexcept nogil
cdef void loop_add_ticker(loop_t* loop, ticker_t* ticker) noexcept nogil

# Parks *w* until (blob, chunk) is present, cannot be had, or park_limit_ns has passed. One MISS mail per (blob, chunk)
# of this reactor, however many wait. w.on_wake must be set. Retains the blob. *damaged*: the chunk is here, but its
# file cannot be read; the mail is DAMAGED.
cdef void loop_park(loop_t* loop, waiter_t* w, blob_t* blob, uint64_t chunk, bint damaged) noexcept nogil
# Tells of a file that cannot be read and that nobody can fetch again. The mail is lost when the ring is full.
cdef void loop_tell_damaged(loop_t* loop, blob_t* blob, uint64_t chunk) noexcept nogil
# Asks Python for a dynamic name; on_wake gets the answer. ST_OK or ST_NOMEM.
cdef int loop_ask(loop_t* loop, waiter_t* w, int proto, const char* name, size_t n,
                  const sockaddr_storage* peer, const sockaddr_storage* local) noexcept nogil
cdef void loop_unpark(loop_t* loop, waiter_t* w) noexcept nogil       # when the owner dies first; safe when not parked
# Gives a descriptor and a copy of the bytes read so far to Python, which owns the descriptor from then on: ST_OK. With
# ST_FULL or ST_NOMEM it is still the caller's, but has left epoll: answer 503 and close.
cdef int loop_hand_over(loop_t* loop, int fd, const uint8_t* data, size_t n,
                        const sockaddr_storage* peer, const sockaddr_storage* local) noexcept nogil

# For reactor.pyx.
cdef int loop_init(loop_t* loop, uint32_t index, counters_t* counters, mailbox_t* inbox, mailbox_t* outbox,
                   records_t* records, int64_t park_limit_ns) noexcept nogil
cdef void loop_run(loop_t* loop) noexcept nogil           # until MAIL_STOP; then stops the services
cdef void loop_free(loop_t* loop) noexcept nogil          # after the thread has ended
cdef void mail_drop(const mail_t* mail) noexcept nogil    # frees what an undelivered mail owns
