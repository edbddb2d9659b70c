# The transfers of one reactor, found by (client address and port, request socket), and the TID sockets they use.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bootplane.core.deadlines cimport deadline_t, deadlines_t
from bootplane.core.linux cimport sockaddr_in6, sockaddr_storage, socklen_t
from bootplane.core.loop cimport handler_t, waiter_t
from bootplane.core.segments cimport blob_t
from bootplane.core.tftp_deadlines cimport timer_t
from bootplane.core.tftp_packet cimport options_t
from bootplane.core.tftp_tids cimport peer_t
from bootplane.core.tftp_transfer cimport transfer_t

cdef enum queued_t:              # where a session waits
    QUEUED_NOT = 0
    QUEUED_READY                 # in its TID's line
    QUEUED_HELD                  # in tftp_shares

cdef struct session_t
cdef struct tid_t

cdef struct path_t:              # whom to send to, and from which of our addresses
    sockaddr_in6 to              # or a sockaddr_in in its first bytes
    socklen_t to_len
    uint16_t family
    uint8_t from_is_set          # 0: the socket is bound to one address, the kernel knows
    uint32_t from_interface      # of a link-local address, else 0: let the route decide
    uint8_t from_address[16]     # the address that was asked, IPv6 or IPv4 in the first four bytes

cdef struct line_t:              # sessions that wait, linked by before and after; zeroed when empty
    session_t* first
    session_t* last

cdef struct outlet_t:            # the socket a TID sends from; in epoll only while the kernel has refused a packet
    handler_t handler            # first member
    int fd                       # owned
    tid_t* tid
    uint8_t blocked

cdef struct tid_t:               # one TID, shared by many transfers: a socket to hear on, another to send from
    handler_t handler            # first member; of the one that hears
    int fd                       # owned
    outlet_t outlet
    uint32_t listener            # index of its request socket
    uint32_t index               # which TID of that request socket
    uint32_t sessions            # how many use it
    uint8_t gso                  # UDP_SEGMENT works here
    uint8_t fragments            # datagrams larger than their path are sent in pieces
    line_t ready                 # sessions with something to send

cdef struct session_t:
    waiter_t waiter              # first member: on_wake gets it
    timer_t timer
    transfer_t transfer
    deadline_t stranger          # in sessions_t.strangers; due 0: its client has been heard, and it is not there
    session_t* next              # in its bucket, or in the free list
    session_t* before            # in the line where it waits
    session_t* after
    blob_t* blob                 # one reference, from the start of the transfer to session's end; NULL while asking, or
    tid_t* tid                   # when the file is empty because nobody has it
    peer_t peer
    path_t path
    options_t asked
    int64_t began_ns             # when its request was read
    int64_t granted              # bytes that a turn of its shares lets it send (tftp_shares); 0: none
    uint16_t code                # of the ERROR that the client has sent
    uint8_t is_probe             # and that ERROR said that the size was all it wanted
    uint8_t source               # source_t
    uint8_t queued               # queued_t
    uint8_t group                # its shares (tftp_shares)
    uint16_t grouped             # version of the groups in which it was found there; 0: never
    uint8_t asking               # waits for the content of a dynamic name; no transfer yet
    uint8_t gso                  # UDP_SEGMENT works on the route to this client
    uint8_t unreadable           # the kernel could not read the file's mapping: end it with an ERROR
    uint16_t name_len
    char name[512]               # canonical

cdef struct sessions_t:
    session_t* all               # owned, `room` of them
    session_t* free
    session_t** buckets          # owned, mask + 1
    uint64_t mask
    uint64_t seed
    uint32_t room
    uint32_t count               # in use
    deadlines_t strangers        # nothing came from their clients but requests; due when they may be made to leave

cdef int sessions_init(sessions_t* s, uint32_t room, uint64_t seed) noexcept nogil        # ST_OK or ST_NOMEM
cdef void sessions_free(sessions_t* s) noexcept nogil                                     # safe on a zeroed struct
cdef session_t* session_find(const sessions_t* s, const peer_t* peer) noexcept nogil      # or NULL
# Zeroed, and a stranger's; NULL when all are in use.
cdef session_t* session_new(sessions_t* s, const peer_t* peer, int64_t now_ns) noexcept nogil
cdef void session_heard(sessions_t* s, session_t* session) noexcept nogil      # its client lives; safe to say again
cdef session_t* session_strangest(const sessions_t* s, int64_t now_ns) noexcept nogil     # who is to leave, or NULL
cdef void session_drop(sessions_t* s, session_t* session) noexcept nogil                  # out of the table, free again
cdef session_t* session_any(const sessions_t* s) noexcept nogil                           # one in use, or NULL

cdef void peer_of(const sockaddr_storage* address, uint32_t listener, peer_t* out) noexcept nogil

cdef void line_append(line_t* line, session_t* session) noexcept nogil
cdef void line_remove(line_t* line, session_t* session) noexcept nogil     # it stands in that line

cdef void ready_push(session_t* session) noexcept nogil           # at the end of its TID's line; safe when queued
cdef void ready_push_front(session_t* session) noexcept nogil     # the same
cdef void ready_remove(session_t* session) noexcept nogil         # safe when not in its TID's line

cdef inline session_t* session_of(timer_t* timer) noexcept nogil:
    return <session_t*>(<char*>timer - <size_t>&(<session_t*>NULL).timer)
