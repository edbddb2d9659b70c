# One client connection of HTTP/1.1: a GET or HEAD out, its reply in, as a state machine over a non-blocking socket.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.client cimport body_t, endpoint_t, trouble_t
from bootplane.core.http_reply cimport http_reply_t

cdef enum:
    HEAD_ROOM = 8192             # longest reply head taken, bytes

cdef enum http_client_state_t:
    HC_IDLE = 0                  # no request under way; fd may be an open keep-alive connection
    HC_CONNECTING
    HC_SENDING
    HC_HEAD
    HC_BODY

cdef enum http_cause_t:
    HX_CONNECT = 1               # err
    HX_SEND                      # err
    HX_RECEIVE                   # err; got: body bytes so far
    HX_NO_REPLY                  # ended before the head was complete; err, 0: closed; got: head bytes
    HX_SHORT                     # closed within the body; expected, got
    HX_EXTRA                     # more bytes than Content-Length; expected, got
    HX_MALFORMED                 # text: the line
    HX_LONG_HEAD
    HX_CODED                     # Transfer-Encoding; text
    HX_RANGE                     # Content-Range is not what was asked; text
    HX_SINK                      # err
    HX_LOCAL                     # err: no descriptor, no memory
    HX_STATUS                    # expected, got
    HX_DIGEST                    # text: hex of what came
    HX_TIMEOUT                   # err: http_client_state_t it was in; expected, got: body bytes
    HX_LOST                      # an idle connection ended; err, 0: closed

cdef struct http_client_t:
    int fd                       # owned; -1: closed
    uint32_t generation          # connections opened so far: a new one may have the old one's descriptor number
    int state
    const endpoint_t* server     # borrowed
    const endpoint_t* source     # borrowed; NULL: any local address
    const char* request          # borrowed; whole request head
    size_t request_size
    uint8_t head_only            # HEAD: no body follows
    uint8_t discard              # body bytes are dropped by the kernel, never copied
    uint8_t reused               # the connection has already carried a reply
    int64_t ask_first            # Range asked; -1: none
    int64_t ask_last             # -1: to the end
    int sink_status              # the body goes to body.sink_fd when the reply has this status; 0: never
    uint64_t take_most           # most bytes one step receives, 0: no limit (pacing)
    int receive_buffer           # bytes asked of the kernel before connecting, 0: its own choice
    size_t sent                  # bytes of the request
    char* head                   # owned, HEAD_ROOM
    size_t head_size             # bytes of it so far; once in HC_BODY: its length with the empty line
    http_reply_t reply
    int64_t left                 # body bytes owed; -1: until the connection closes
    uint64_t received            # body bytes of this exchange
    body_t body
    int64_t started_ns           # of this exchange
    int64_t progress_ns          # last time a byte moved
    int64_t first_ns             # first body byte, or end of the head when there is no body; 0: not yet
    trouble_t trouble

cdef int http_client_init(http_client_t* c) noexcept nogil        # on a zeroed struct; ST_OK or ST_NOMEM
cdef void http_client_free(http_client_t* c) noexcept nogil
cdef void http_client_close(http_client_t* c) noexcept nogil      # the connection only
# Begins an exchange, on the open connection if there is one. ST_AGAIN, or a failure as below.
cdef int http_client_begin(http_client_t* c, int64_t now_ns) noexcept nogil
# Moves the exchange on; not before an event when it is HC_CONNECTING. ST_OK: complete. ST_AGAIN: wait for
# http_client_events(c). Any other: failed, facts in trouble.
cdef int http_client_step(http_client_t* c, uint8_t* scratch, size_t room, int64_t now_ns) noexcept nogil
cdef int http_client_expire(http_client_t* c) noexcept nogil     # its deadline has passed: closes, returns ST_TIMEOUT
cdef short http_client_events(const http_client_t* c) noexcept nogil   # POLLIN or POLLOUT (EPOLLIN, EPOLLOUT alike)
# A request head without its empty line. ValueError for what would not be one.
cdef bytes http_request_head(str method, str host, int port, str path, dict fields)
cdef str http_sentence(http_client_t* c, str what, str promised=*)     # the failure in one sentence
cdef object http_raise(http_client_t* c, int status, str what)         # raises it as the type of whose fault it is
