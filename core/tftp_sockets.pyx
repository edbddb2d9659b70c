"""Sockets of the TFTP service: how they are opened, read in batches, and what their error queue says.

Request sockets belong to the caller and are told to report the address that was asked (IP_PKTINFO), so that the answer
can leave from it. TID sockets are ours, on the same address and a port of the kernel's choice, and keep ICMP errors
(IP_RECVERR) with the address of the client that they are about.

Invariant: no call here waits. Who the client is and what follows is tftp_service's.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, EAGAIN, ECONNREFUSED, EINTR, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, IPV6_RECVERR,
    IPV6_RECVPKTINFO, IP_PKTINFO, IP_RECVERR, MSG_DONTWAIT, MSG_ERRQUEUE, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK,
    SOL_SOCKET, SO_RCVBUF, SO_SNDBUF, bind, close, cmsghdr, errno, getsockname, getsockopt, in6_pktinfo, in_pktinfo,
    iovec, mmsghdr, msghdr, recvmmsg, recvmsg, setsockopt, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage,
    socket, socklen_t,
)
from bootplane.core.status cimport ST_NOMEM, ST_OK

cdef extern from "<netinet/in.h>" nogil:
    enum: IPV6_V6ONLY

cdef extern from "<linux/errqueue.h>" nogil:
    cdef struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
    enum: SO_EE_ORIGIN_ICMP
    enum: SO_EE_ORIGIN_ICMP6

cdef extern from "<sys/socket.h>" nogil:
    cmsghdr* CMSG_FIRSTHDR(msghdr* m)
    cmsghdr* CMSG_NXTHDR(msghdr* m, cmsghdr* c)
    unsigned char* CMSG_DATA(cmsghdr* c)

cdef enum:
    BUFFER_BYTES = 4194304           # asked for both ways; the kernel gives what net.core.{r,w}mem_max allow
    ERRORS_AT_ONCE = 16              # pending errors that one receive works off


# -- batches ---------------------------------------------------------------------------------------------------------

cdef void make_ready(inbox_t* in_, uint32_t i) noexcept nogil:
    cdef msghdr* m = &in_.messages[i].msg_hdr
    m.msg_name = &in_.senders[i]
    m.msg_namelen = sizeof(sockaddr_storage)
    m.msg_iov = &in_.iovecs[i]
    m.msg_iovlen = 1
    m.msg_control = in_.control + <size_t>i * CONTROL_BYTES if in_.control != NULL else NULL
    m.msg_controllen = CONTROL_BYTES if in_.control != NULL else 0
    m.msg_flags = 0


cdef int inbox_init(inbox_t* in_, uint32_t room, uint32_t bytes, bint control) noexcept nogil:
    cdef uint32_t i
    memset(in_, 0, sizeof(inbox_t))
    in_.room = room
    in_.bytes = bytes
    in_.messages = <mmsghdr*>calloc(room, sizeof(mmsghdr))
    in_.iovecs = <iovec*>calloc(room, sizeof(iovec))
    in_.senders = <sockaddr_storage*>calloc(room, sizeof(sockaddr_storage))
    in_.data = <uint8_t*>calloc(room, bytes)
    if control:
        in_.control = <uint8_t*>calloc(room, CONTROL_BYTES)
    if (in_.messages == NULL or in_.iovecs == NULL or in_.senders == NULL or in_.data == NULL
            or (control and in_.control == NULL)):
        inbox_free(in_)
        return ST_NOMEM
    for i in range(room):
        in_.iovecs[i].iov_base = in_.data + <size_t>i * bytes
        in_.iovecs[i].iov_len = bytes
        make_ready(in_, i)
    return ST_OK


cdef void inbox_free(inbox_t* in_) noexcept nogil:
    free(in_.messages)
    free(in_.iovecs)
    free(in_.senders)
    free(in_.data)
    free(in_.control)
    memset(in_, 0, sizeof(inbox_t))


cdef int inbox_receive(inbox_t* in_, int fd) noexcept nogil:
    cdef int n, i
    cdef int tries = 0
    for i in range(<int>in_.used):   # the kernel has overwritten lengths
        make_ready(in_, i)
    in_.used = 0
    while tries < ERRORS_AT_ONCE:
        n = recvmmsg(fd, in_.messages, in_.room, MSG_DONTWAIT, NULL)
        if n > 0:
            in_.used = n
            return n
        if errno == EAGAIN:
            return 0
        tries += 1                   # EINTR, or an ICMP error: reported once here, in full by next_unreachable
    return 0


# -- sockets ---------------------------------------------------------------------------------------------------------

cdef inline int switch_on(int fd, int level, int name) noexcept nogil:
    cdef int one = 1
    return ST_OK if setsockopt(fd, level, name, &one, sizeof(one)) == 0 else -errno


cdef void grow_buffers(int fd) noexcept nogil:
    cdef int n = BUFFER_BYTES        # refused sizes are cut by the kernel, not an error
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof(n))
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n))


cdef bint is_any(const sockaddr_in6* address) noexcept nogil:
    cdef int i
    for i in range(16):
        if address.sin6_addr.s6_addr[i] != 0:
            return False
    return True


cdef bint is_v6only(int fd) noexcept nogil:
    cdef int value = 0
    cdef socklen_t n = sizeof(value)
    getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value, &n)
    return value != 0


cdef int request_socket(int fd, sockaddr_storage* local, uint8_t* wildcard) noexcept nogil:
    cdef socklen_t n = sizeof(sockaddr_storage)
    cdef const sockaddr_in* v4 = <const sockaddr_in*>local
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>local
    cdef int status
    memset(local, 0, sizeof(sockaddr_storage))
    if getsockname(fd, <sockaddr*>local, &n) < 0:
        return -errno
    grow_buffers(fd)
    wildcard[0] = v4.sin_addr.s_addr == 0 if local.ss_family == AF_INET else is_any(v6)
    if not wildcard[0]:
        return ST_OK
    if local.ss_family == AF_INET6:
        status = switch_on(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO)
        if status != ST_OK or is_v6only(fd):
            return status
    return switch_on(fd, IPPROTO_IP, IP_PKTINFO)     # of both families: the other one does not tell a broadcast


cdef int keep_errors(int fd) noexcept nogil:
    cdef sockaddr_storage local
    cdef socklen_t n = sizeof(sockaddr_storage)
    cdef int status
    if getsockname(fd, <sockaddr*>&local, &n) < 0:
        return -errno
    if local.ss_family != AF_INET6:
        return switch_on(fd, IPPROTO_IP, IP_RECVERR)
    status = switch_on(fd, IPPROTO_IPV6, IPV6_RECVERR)
    if status == ST_OK and not is_v6only(fd):
        status = switch_on(fd, IPPROTO_IP, IP_RECVERR)           # for IPv4 clients of a dual-stack socket
    return status


cdef int tid_socket(int request_fd, const sockaddr_storage* local) noexcept nogil:
    cdef sockaddr_storage address = local[0]
    cdef socklen_t n = sizeof(sockaddr_in)
    cdef int v6only
    cdef int status = ST_OK
    cdef int fd = socket(local.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    (<sockaddr_in*>&address).sin_port = 0            # the same place in both families
    if local.ss_family == AF_INET6:
        n = sizeof(sockaddr_in6)
        v6only = is_v6only(request_fd)
        if setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) < 0:
            status = -errno
    if status == ST_OK:
        status = keep_errors(fd)
    grow_buffers(fd)
    if status == ST_OK and bind(fd, <sockaddr*>&address, n) < 0:
        status = -errno
    if status != ST_OK:
        close(fd)
        return status
    return fd


# -- addresses -------------------------------------------------------------------------------------------------------

cdef void path_to(const sockaddr_storage* peer, path_t* out) noexcept nogil:
    memset(out, 0, sizeof(path_t))
    out.family = peer.ss_family
    out.to_len = sizeof(sockaddr_in) if peer.ss_family == AF_INET else sizeof(sockaddr_in6)
    memcpy(&out.to, peer, out.to_len)


cdef bint path_from(const inbox_t* in_, uint32_t i, path_t* out) noexcept nogil:
    cdef msghdr* m = &in_.messages[i].msg_hdr
    cdef cmsghdr* c = CMSG_FIRSTHDR(m)
    cdef bint is_ours = True
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    while c != NULL:
        if c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_PKTINFO:         # in either family
            memcpy(&v4, CMSG_DATA(c), sizeof(v4))
            is_ours = is_ours and v4.ipi_spec_dst.s_addr == v4.ipi_addr.s_addr
            if out.family == AF_INET:
                out.from_is_set = 1
                memcpy(out.from_address, &v4.ipi_spec_dst, 4)
        elif c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_PKTINFO:
            memcpy(&v6, CMSG_DATA(c), sizeof(v6))
            is_ours = is_ours and v6.ipi6_addr.s6_addr[0] != 0xff
            out.from_is_set = 1
            memcpy(out.from_address, &v6.ipi6_addr, 16)
            if v6.ipi6_addr.s6_addr[0] == 0xfe and (v6.ipi6_addr.s6_addr[1] & 0xc0) == 0x80:
                out.from_interface = v6.ipi6_ifindex
        c = CMSG_NXTHDR(m, c)
    return is_ours


cdef bint next_unreachable(int fd, sockaddr_storage* peer) noexcept nogil:
    cdef msghdr m
    cdef iovec v
    cdef cmsghdr* c
    cdef sock_extended_err error
    cdef uint8_t[512] control
    cdef uint8_t[8] data                             # of our own packet: not wanted
    cdef bint gone
    while True:
        memset(&m, 0, sizeof(m))
        v.iov_base = data
        v.iov_len = sizeof(data)
        m.msg_name = peer
        m.msg_namelen = sizeof(sockaddr_storage)
        m.msg_iov = &v
        m.msg_iovlen = 1
        m.msg_control = control
        m.msg_controllen = sizeof(control)
        if recvmsg(fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0:
            if errno == EINTR:
                continue
            return False
        gone = False
        c = CMSG_FIRSTHDR(&m)
        while c != NULL:
            if ((c.cmsg_level == IPPROTO_IP and c.cmsg_type == IP_RECVERR)
                    or (c.cmsg_level == IPPROTO_IPV6 and c.cmsg_type == IPV6_RECVERR)):
                memcpy(&error, CMSG_DATA(c), sizeof(error))
                # Only "port unreachable" says that the client is gone. "Host unreachable" comes from a switch port that
                # is still coming up, too: there the deadlines decide.
                if ((error.ee_origin == SO_EE_ORIGIN_ICMP or error.ee_origin == SO_EE_ORIGIN_ICMP6)
                        and error.ee_errno == <uint32_t>ECONNREFUSED):
                    gone = True
            c = CMSG_NXTHDR(&m, c)
        if gone:
            return True
