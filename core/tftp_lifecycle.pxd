# The state of one reactor's TFTP service, and how its sessions begin, go on and end.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from bootplane.core.linux cimport sockaddr_storage
from bootplane.core.loop cimport handler_t, loop_t, ticker_t, waiter_t
from bootplane.core.records cimport record_t
from bootplane.core.segments cimport blob_t
from bootplane.core.tftp_deadlines cimport wheel_t
from bootplane.core.tftp_sender cimport sender_t
from bootplane.core.tftp_sessions cimport path_t, session_t, sessions_t, tid_t
from bootplane.core.tftp_shares cimport held_t
from bootplane.core.tftp_sockets cimport inbox_t
from bootplane.core.tftp_tids cimport peer_t, tids_t
from bootplane.core.tftp_transfer cimport limits_t

cdef struct listener_t:              # one request socket with its TIDs
    handler_t handler                # first member
    int fd                           # borrowed
    uint32_t index
    uint8_t wildcard                 # bound to no address in particular: each datagram says which was asked
    sockaddr_storage local
    tid_t* tids                      # owned, tftp.ntids of them

cdef struct tftp_t:
    ticker_t ticker                  # first member
    limits_t limits
    held_t held
    sessions_t sessions
    wheel_t wheel
    tids_t past
    inbox_t requests
    inbox_t packets
    sender_t* sender                 # owned
    listener_t* listeners            # owned
    uint32_t nlisteners
    uint32_t ntids                   # of each
    uint8_t listening                # request sockets are in epoll
    uint8_t hold                     # not before loop.opened
    uint8_t single_port              # 1: its one TID is the request socket

cdef inline tftp_t* tftp_of(loop_t* loop) noexcept nogil:
    return <tftp_t*>loop.tftp

# A record of *peer* to fill in and push, or NULL: the ring is full.
cdef record_t* record_of(loop_t* loop, const peer_t* peer, int outcome, int status) noexcept nogil
# Sends an ERROR from *fd* and counts it; the text is *name* followed by *why*.
cdef void refuse(loop_t* loop, int fd, const path_t* path, int code, const char* name, size_t name_len,
                 const char* why) noexcept nogil
# The ERROR for whoever finds all places taken, or has to leave one.
cdef void refuse_crowd(loop_t* loop, int fd, const path_t* path, const char* name, size_t name_len) noexcept nogil
cdef bint session_make_room(loop_t* loop) noexcept nogil         # ends a stranger's, if one has been so for long enough
cdef void session_begin(loop_t* loop, session_t* s, blob_t* blob) noexcept nogil     # NULL: an empty file. Queues it
# Records how it went (outcome_t, the code of an ERROR received), then frees *s*.
cdef void session_end(loop_t* loop, session_t* s, int outcome, int status) noexcept nogil
cdef void session_fail(loop_t* loop, session_t* s, int status) noexcept nogil  # with an ERROR that says why; frees *s*
cdef void session_error(loop_t* loop, session_t* s, int code) noexcept nogil         # the client's ERROR; frees *s*
cdef void session_act(loop_t* loop, session_t* s, int action) noexcept nogil         # action_t; may free *s*
cdef void session_wake(loop_t* loop, waiter_t* waiter, int status, blob_t* blob) noexcept nogil  # for waiter_t.on_wake
