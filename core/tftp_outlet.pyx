"""The socket that a TID sends from, and how wide the way to a client is.

    TID, port 40123    hears  <--ACK--   unconnected, in epoll
                       sends  --DATA-->  connected to its own discard port, in epoll only while it has no room

Why two: each datagram that leaves wakes whoever waits for room on its socket, and epoll counts as one who waits even
where it was asked for EPOLLIN alone; and what arrives on another CPU writes to the lines of memory that sending reads.
sock_wfree() was 9 % of a lockstep's cost, and is 0.5 % this way (docs/adr/0014).

The kernel gives a datagram to the socket whose remote address matches best: the discard port (RFC 863) of our own
address sends nothing, everybody else matches the socket that hears. ICMP errors go there, too.

An outlet does not fragment: without that the kernel numbers each datagram, so that its fragments could be told from
others', by a counter that the CPUs of both ends fight for. Blocks are agreed on so that they fit their path (RFC 2348
wants just that); for a path that becomes narrower meanwhile allow_fragments() is called.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET, SO_REUSEADDR,
    bind, close, connect, errno, getsockname, getsockopt, htons, setsockopt, sockaddr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socket, socklen_t,
)
from bootplane.core.status cimport ST_OK
from bootplane.core.tftp_packet cimport BLKSIZE_DEFAULT, BLKSIZE_MAX, DATA_HEADER
from bootplane.core.tftp_sockets cimport grow_buffers, is_any, is_v6only

cdef extern from "<netinet/in.h>" nogil:
    enum: INADDR_LOOPBACK
    enum: IPV6_MTU
    enum: IPV6_V6ONLY
    enum: IP_MTU
    enum: IP_MTU_DISCOVER
    enum: IP_PMTUDISC_DO
    enum: IP_PMTUDISC_WANT
    uint32_t htonl(uint32_t value)

cdef extern from "<unistd.h>" nogil:
    int dup(int fd)

cdef enum:
    DISCARD = 9
    IPV4_UDP = 28                    # bytes of both headers
    IPV6_UDP = 48


cdef bint share_port(int fd, int out, const sockaddr_storage* address, socklen_t n) noexcept nogil:
    cdef int on = 1
    cdef int off = 0
    cdef bint bound = (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0
                       and setsockopt(out, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0
                       and bind(out, <const sockaddr*>address, n) == 0)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &off, sizeof(off))      # the port is for these two, and no third
    setsockopt(out, SOL_SOCKET, SO_REUSEADDR, &off, sizeof(off))
    return bound


cdef bint aim_at_discard(int out, sockaddr_storage* address, socklen_t n) noexcept nogil:
    cdef sockaddr_in* v4 = <sockaddr_in*>address
    cdef sockaddr_in6* v6 = <sockaddr_in6*>address
    v4.sin_port = htons(DISCARD)                     # the same place in both families
    if address.ss_family == AF_INET and v4.sin_addr.s_addr == 0:
        v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK)
    elif address.ss_family == AF_INET6 and is_any(v6):
        v6.sin6_addr.s6_addr[15] = 1                 # ::1
    return connect(out, <sockaddr*>address, n) == 0


cdef int outlet_socket(int fd) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t n = sizeof(sockaddr_storage)
    cdef int v6only
    cdef bint ready = True
    cdef int out
    memset(&address, 0, sizeof(address))
    if getsockname(fd, <sockaddr*>&address, &n) < 0:
        return -errno
    out = socket(address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if out < 0:
        return -errno
    if address.ss_family == AF_INET6:
        v6only = is_v6only(fd)
        ready = setsockopt(out, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) == 0
    if not (ready and share_port(fd, out, &address, n) and aim_at_discard(out, &address, n)):
        close(out)
        out = dup(fd)                                # no loopback interface, or no such kernel: one socket for both
        return out if out >= 0 else -errno
    grow_buffers(out)
    allow_fragments(out, False)                      # where that is refused they stay allowed
    return out


cdef int allow_fragments(int fd, bint allow) noexcept nogil:
    cdef int value = IP_PMTUDISC_WANT if allow else IP_PMTUDISC_DO
    return ST_OK if setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &value, sizeof(value)) == 0 else -errno


# -- how wide the way is ---------------------------------------------------------------------------------------------

cdef bint is_mapped(const sockaddr_in6* address) noexcept nogil:
    """Whether it is IPv4 on a socket of both families: ::ffff:0:0/96."""
    cdef int i
    for i in range(10):
        if address.sin6_addr.s6_addr[i] != 0:
            return False
    return address.sin6_addr.s6_addr[10] == 0xff and address.sin6_addr.s6_addr[11] == 0xff


cdef unsigned int path_blksize(const path_t* path) noexcept nogil:
    # A new socket for each question: one that was connected before keeps the source address of that route.
    cdef int fd = socket(path.family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    cdef socklen_t n = sizeof(int)
    cdef int mtu = 0
    cdef int headers = IPV4_UDP + DATA_HEADER
    cdef int status = -1
    if fd < 0:
        return BLKSIZE_MAX
    if connect(fd, <const sockaddr*>&path.to, path.to_len) == 0:
        if path.family == AF_INET:
            status = getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &n)
        else:
            status = getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &n)
            if not is_mapped(&path.to):
                headers = IPV6_UDP + DATA_HEADER
    close(fd)
    if status < 0 or mtu - headers >= BLKSIZE_MAX:
        return BLKSIZE_MAX
    return BLKSIZE_DEFAULT if mtu - headers < BLKSIZE_DEFAULT else <unsigned int>(mtu - headers)
