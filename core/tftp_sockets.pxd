# Sockets of the TFTP service: opened, read in batches, and asked which client an ICMP error was about.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from bootplane.core.linux cimport iovec, mmsghdr, sockaddr_in6, sockaddr_storage
from bootplane.core.tftp_sessions cimport path_t

cdef enum:
    CONTROL_BYTES = 128              # ancillary data of one received datagram: pktinfo of both families

cdef struct inbox_t:                 # what one recvmmsg brings
    mmsghdr* messages                # all owned, `room` of each
    iovec* iovecs
    sockaddr_storage* senders
    uint8_t* data                    # `bytes` of each
    uint8_t* control                 # NULL when not wanted
    uint32_t room
    uint32_t bytes
    uint32_t used                    # by the last call: to be made ready again

cdef int inbox_init(inbox_t* in_, uint32_t room, uint32_t bytes, bint control) noexcept nogil    # ST_OK or ST_NOMEM
cdef void inbox_free(inbox_t* in_) noexcept nogil  # safe on a zeroed struct
cdef int inbox_receive(inbox_t* in_, int fd) noexcept nogil  # datagrams, 0 = none left

# Makes a request socket tell which address was asked; *local and *wildcard say how it is bound. ST_OK or -errno.
cdef int request_socket(int fd, sockaddr_storage* local, uint8_t* wildcard) noexcept nogil
cdef void grow_buffers(int fd) noexcept nogil                 # as far as the kernel allows
cdef bint is_any(const sockaddr_in6* address) noexcept nogil  # ::
cdef bint is_v6only(int fd) noexcept nogil                   # of an IPv6 socket: it has no IPv4 clients
# Makes a socket keep ICMP errors for next_unreachable(). ST_OK or -errno.
cdef int keep_errors(int fd) noexcept nogil
cdef int tid_socket(int request_fd, const sockaddr_storage* local) noexcept nogil                # descriptor or -errno

cdef void path_to(const sockaddr_storage* peer, path_t* out) noexcept nogil
# Adds the address that datagram *i* was sent to. False when that is nobody's own: broadcast or multicast (RFC 1123,
# 4.2.3.5).
cdef bint path_from(const inbox_t* in_, uint32_t i, path_t* out) noexcept nogil
# The next client at whose port nobody listens any more: True and *peer, until there is none.
cdef bint next_unreachable(int fd, sockaddr_storage* peer) noexcept nogil
