# One HTTPS connection: its handshake, then bytes both ways between its client and the HTTP service.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from bootplane.core.deadlines cimport deadline_t
from bootplane.core.http_addresses cimport address_t
from bootplane.core.loop cimport handler_t

cdef enum:
    PLAIN_BYTES = 65536              # read from HTTP, or from the client, and encrypted or passed on, at a time

cdef enum session_state_t:
    SESSION_HELLO = 0                # nothing of ours is spent on it: the client's first record is not here
    SESSION_READY                    # it is here, and there is no place to begin
    SESSION_SHAKE                    # handshake under way
    SESSION_OPEN                     # HTTP has the other end
    SESSION_LINGER                   # our side is shut down; what the client still sends is thrown away

cdef struct session_t:               # 136 bytes; one in HELLO or READY owns nothing else
    handler_t outer_handler          # first: of the client's socket
    handler_t inner_handler          # second: the session is found by sizeof(handler_t)
    void* ssl                        # owned; from SHAKE to the end of OPEN
    uint8_t* up                      # malloc'd: bytes of the client that HTTP's socket did not take
    uint8_t* down                    # malloc'd: bytes of HTTP that the client's socket did not take
    address_t* address               # of its client, taken from the service's counts
    uint32_t up_n                    # bytes in up
    uint32_t up_at                   # of them passed on
    uint32_t down_n
    uint32_t down_at
    int outer                        # owned: the client's socket; -1 when free
    int inner                        # owned: our end of the pair; -1: none
    int far                          # the number of the other end, which is HTTP's, or Python's
    uint8_t state                    # session_state_t
    uint8_t outer_event              # 1: a look may find something (HELLO, LINGER)
    uint8_t read_wait                # tls_wait_t: what tls_accept and tls_read wait for; 0: call
    uint8_t write_wait               # the same of tls_write
    uint8_t inner_empty              # 1: a recv of HTTP's bytes found nothing
    uint8_t inner_full               # 1: HTTP's socket took no more
    uint8_t up_ended                 # 1: the client's end was passed on
    uint8_t down_ended               # 1: all that HTTP has sent before it ended is read
    uint8_t ending                   # 1: HTTP has closed, or shut down, its end; what it sent may not be read yet
    uint8_t half                     # 1: the client sends no more, so what is here is all
    uint8_t away                     # 1: the other end is Python's, and this one does not hold up a drain
    uint8_t queued
    uint8_t timer                    # session_timer_t of the service
    deadline_t deadline              # of `timer`
    int64_t mark                     # bytes its client had yet to get when the deadline of the last ones was set
    session_t* queue_next            # also the free list

cdef enum hello_t:
    HELLO_WAIT = 0
    HELLO_HERE                       # the first record is here, whole
    HELLO_PLAIN                      # text: somebody speaks HTTP to this port
    HELLO_BAD                        # no TLS
    HELLO_GONE                       # the client has closed

cdef hello_t session_hello(session_t* s) noexcept nogil
cdef bint session_refuse_plain(session_t* s) noexcept nogil      # tells it 400; False: it takes nothing

# Passes on up to *budget* bytes in either direction; *spent* grows by what was. ST_OK: it waits for an event. ST_AGAIN:
# it has more to do. ST_CLOSED: HTTP has ended, and the client has everything. ST_BAD: no more can be said; end it.
cdef int session_pump(session_t* s, uint8_t* scratch, int64_t budget, int64_t* spent) noexcept nogil
cdef void session_drop(session_t* s) noexcept nogil              # frees what OPEN owns, and closes HTTP's end of it
