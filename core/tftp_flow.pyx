"""One TFTP read transfer on a socket of its own, as firmware runs it: a new source port each time.

The first answer from the server's address fixes the TID: the socket is connected to it, so that packets of others never
reach us and a dead server is heard of at once (ICMP). Payload nobody wants is not copied: recvmmsg() takes the first
bytes of each datagram and MSG_TRUNC tells its length. Deadlines, and waiting for them, are the caller's part.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from bootplane.core.client cimport body_begin, body_take, trouble_set
from bootplane.core.linux cimport (
    AF_INET, AF_INET6, EAGAIN, EINTR, IP_RECVERR, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVERR, MSG_DONTWAIT,
    MSG_NOSIGNAL, MSG_TRUNC, SO_RCVBUF, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET, bind, close, connect,
    errno, iovec, msghdr, recvmmsg, sendmsg, send, setsockopt, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage,
    socket, ssize_t,
)
from bootplane.core.status cimport ST_AGAIN, ST_NOMEM, ST_OK, ST_REMOTE, ST_TIMEOUT
from bootplane.core.tftp_client cimport (
    TFTP_REQUEST_ROOM, TG_DONE, TG_ENDED, TG_FAILED, TG_SEND_ACK, TG_SEND_ERROR, TG_SEND_RRQ, TG_TAKE, TX_LOCAL,
    TX_NETWORK, TX_SINK, TX_TIMEOUT, tftp_get_ack, tftp_get_begin, tftp_get_error, tftp_get_packet, tftp_get_request,
    tftp_get_tick,
)
from bootplane.core.tftp_network cimport (
    ORDER_ROOM, network_copies, network_draw, network_is_bad, network_order, network_t,
)
from bootplane.core.tftp_packet cimport OP_DATA

cdef enum:
    ARENA_MOST = 1048576         # bytes of receive buffers
    KERNEL_PER_PACKET = 1024     # what the kernel charges a queued datagram beyond its bytes, about
    USUAL_RCVBUF = 131072        # windows up to this fit the default receive buffer


cdef int arena_init(arena_t* a, uint32_t blksize) noexcept nogil:
    memset(a, 0, sizeof(arena_t))
    a.room = max(blksize, <uint32_t>512) + 4 + 1     # one more, so that a DATA that is too long is seen as such
    a.packets = <uint32_t>max(<size_t>1, min(<size_t>ARENA_PACKETS, ARENA_MOST // a.room))
    a.bytes = <uint8_t*>malloc(a.packets * a.room)   # freed in arena_free
    return ST_OK if a.bytes is not NULL else ST_NOMEM


cdef void arena_free(arena_t* a) noexcept nogil:
    free(a.bytes)
    a.bytes = NULL


cdef void flow_close(flow_t* f) noexcept nogil:
    if f.fd >= 0:
        close(f.fd)
    f.fd = -1
    f.connected = 0


cdef int fail(flow_t* f, int status, int cause, int err, int64_t got) noexcept nogil:
    trouble_set(&f.get.trouble, cause, err, f.get.tsize, got)
    f.get.state = TG_ENDED
    flow_close(f)
    return status


cdef int flow_expire(flow_t* f) noexcept nogil:
    return fail(f, ST_TIMEOUT, TX_TIMEOUT, 0, f.get.bytes)


cdef int flow_begin(flow_t* f, int64_t now_ns) noexcept nogil:
    cdef int one = 1
    cdef int status
    cdef int family = (<sockaddr*>&f.server.addr).sa_family
    cdef int64_t window = <int64_t>(f.get.ask_blksize + KERNEL_PER_PACKET) * max(f.get.ask_windowsize, <uint32_t>1)
    cdef int buffer = <int>min(2 * window, <int64_t>4194304)
    f.connected = 0
    f.data_seen = 0
    f.first_ns = 0
    f.network.late_ack = 0
    f.started_ns = now_ns
    tftp_get_begin(&f.get, now_ns)
    status = body_begin(&f.body)
    if status != ST_OK:
        f.fd = -1
        return fail(f, status, TX_LOCAL, 0, 0)
    f.fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)   # closed in flow_close
    if f.fd < 0:
        return fail(f, -errno, TX_LOCAL, errno, 0)
    if family == AF_INET6:
        setsockopt(f.fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one))
    else:
        setsockopt(f.fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one))
    if window > USUAL_RCVBUF:
        setsockopt(f.fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer))
    if f.source is not NULL and f.source.length and bind(f.fd, <sockaddr*>&f.source.addr, f.source.length) < 0:
        return fail(f, -errno, TX_LOCAL, errno, 0)
    return send_request(f)


cdef int send_request(flow_t* f) noexcept nogil:
    cdef uint8_t packet[TFTP_REQUEST_ROOM]
    cdef iovec vector
    cdef msghdr message
    memset(&message, 0, sizeof(message))
    vector.iov_base = packet
    vector.iov_len = tftp_get_request(&f.get, f.name, f.name_size, packet)
    message.msg_name = <void*>&f.server.addr
    message.msg_namelen = f.server.length
    message.msg_iov = &vector
    message.msg_iovlen = 1
    return sent(f, sendmsg(f.fd, &message, MSG_NOSIGNAL))


cdef int sent(flow_t* f, ssize_t n) noexcept nogil:
    # A full send buffer or a signal loses the packet, as a network may: the deadline repeats it.
    if n >= 0 or errno == EAGAIN or errno == EINTR:
        return ST_AGAIN
    return fail(f, ST_REMOTE, TX_NETWORK, errno, f.get.bytes)


cdef int send_ack(flow_t* f, uint8_t* packet) noexcept nogil:
    cdef network_t* w = &f.network
    cdef uint32_t copies = 1
    cdef uint8_t late[4]
    cdef int status = ST_AGAIN
    if network_is_bad(w):
        copies = network_copies(w)
        if w.late_ack == 0 and copies > 0 and network_draw(w, w.swap):
            w.late_ack = (<int64_t>packet[2] << 8 | packet[3]) + 1
            w.lost += 1                          # for whoever waits for it
            return ST_AGAIN
    while copies > 0 and status == ST_AGAIN:
        status = sent(f, send(f.fd, packet, 4, MSG_NOSIGNAL))
        copies -= 1
    if w.late_ack > 0 and status == ST_AGAIN:
        memcpy(late, packet, 2)
        late[2] = <uint8_t>((w.late_ack - 1) >> 8)
        late[3] = <uint8_t>(w.late_ack - 1)
        w.late_ack = 0
        status = sent(f, send(f.fd, late, 4, MSG_NOSIGNAL))
    return status


cdef int act(flow_t* f, int actions) noexcept nogil:
    """Send what the machine wants sent; then say how the transfer stands."""
    cdef uint8_t packet[64]
    cdef size_t n
    cdef int status = ST_AGAIN
    if actions & TG_SEND_RRQ:
        status = send_request(f)
    if actions & TG_SEND_ACK:
        tftp_get_ack(&f.get, packet)
        if actions & (TG_DONE | TG_FAILED):
            send(f.fd, packet, 4, MSG_NOSIGNAL)  # the file is here: whether the server hears of it is not our failure
        else:
            status = send_ack(f, packet)
    if actions & TG_SEND_ERROR:
        n = tftp_get_error(&f.get, packet)
        send(f.fd, packet, n, MSG_NOSIGNAL)      # a courtesy, the transfer has ended already
    if actions & TG_FAILED:
        flow_close(f)
        return ST_REMOTE
    if actions & TG_DONE:
        flow_close(f)
        return ST_OK
    return status


cdef int flow_tick(flow_t* f, int64_t now_ns) noexcept nogil:
    cdef int actions = tftp_get_tick(&f.get, now_ns)
    if actions & TG_FAILED:
        flow_close(f)
        return ST_TIMEOUT
    return act(f, actions)


cdef bint same_host(const sockaddr_storage* a, const sockaddr_storage* b) noexcept nogil:
    if a.ss_family != b.ss_family:
        return False
    if a.ss_family == AF_INET:
        return (<sockaddr_in*>a).sin_addr.s_addr == (<sockaddr_in*>b).sin_addr.s_addr
    return memcmp(&(<sockaddr_in6*>a).sin6_addr, &(<sockaddr_in6*>b).sin6_addr, 16) == 0


cdef uint16_t port_of(const sockaddr_storage* a) noexcept nogil:
    return (<sockaddr_in*>a).sin_port if a.ss_family == AF_INET else (<sockaddr_in6*>a).sin6_port


cdef bint is_stranger(const flow_t* f, const arena_t* a, uint32_t i, sockaddr_storage** peer) noexcept nogil:
    """Until the TID is known anybody may write to us. Strangers get no answer: this is one server's client."""
    if a.messages[i].msg_hdr.msg_name is NULL:
        return False
    if not same_host(&a.names[i], &f.server.addr):
        return True
    if peer[0] is not NULL and port_of(&a.names[i]) != port_of(peer[0]):
        return True
    peer[0] = <sockaddr_storage*>&a.names[i]
    return False


cdef bint is_dropped(flow_t* f, const uint8_t* packet, size_t full) noexcept nogil:
    if full < 4 or packet[0] != 0 or packet[1] != OP_DATA:
        return False
    f.data_seen += 1
    return f.drop_every and f.data_seen % f.drop_every == 0


cdef int take(flow_t* f, const uint8_t* packet, size_t have, size_t full, bint copying, int64_t now_ns,
              int* actions) noexcept nogil:
    """One datagram of the server, *have* of its *full* bytes being here; adds what the machine wants done."""
    cdef int wanted = tftp_get_packet(&f.get, packet, have, full, now_ns)
    cdef int status
    actions[0] |= wanted                         # one ACK for a batch: it names the last block in order
    if wanted & TG_TAKE:
        if f.first_ns == 0:
            f.first_ns = now_ns
        status = body_take(&f.body, packet + 4, full - 4) if copying else ST_OK
        if status != ST_OK:
            return fail(f, status, TX_SINK if f.body.sink_failed else TX_LOCAL, -status, f.body.sink_fd)
    return ST_OK


cdef int flow_step(flow_t* f, arena_t* a, int64_t now_ns) noexcept nogil:
    cdef bint copying = f.body.hashing or f.body.keeping or f.body.sinking
    cdef uint8_t order[ORDER_ROOM]
    cdef uint32_t arrived, k
    cdef uint32_t most = min(a.packets, max(f.get.windowsize, <uint32_t>1))
    cdef uint32_t i
    cdef sockaddr_storage* peer = NULL
    cdef uint8_t* packet
    cdef int n, status, actions = 0
    for i in range(most):
        a.vectors[i].iov_base = a.bytes + i * a.room
        a.vectors[i].iov_len = a.room if copying else min(a.room, <size_t>DISCARD_ROOM)
        a.messages[i].msg_hdr.msg_iov = &a.vectors[i]
        a.messages[i].msg_hdr.msg_iovlen = 1
        a.messages[i].msg_hdr.msg_name = NULL if f.connected else <void*>&a.names[i]
        a.messages[i].msg_hdr.msg_namelen = 0 if f.connected else sizeof(sockaddr_storage)
    n = recvmmsg(f.fd, a.messages, most, MSG_DONTWAIT | MSG_TRUNC, NULL)
    if n < 0:
        if errno == EAGAIN or errno == EINTR:
            return ST_AGAIN
        return fail(f, ST_REMOTE, TX_NETWORK, errno, f.get.bytes)
    if network_is_bad(&f.network):
        arrived = network_order(&f.network, <uint32_t>n, order)
    else:
        arrived = <uint32_t>n
        for i in range(arrived):
            order[i] = <uint8_t>i
    for k in range(arrived):
        i = order[k]
        packet = a.bytes + i * a.room
        if is_stranger(f, a, i, &peer) or is_dropped(f, packet, a.messages[i].msg_len):
            continue
        status = take(f, packet, min(<size_t>a.messages[i].msg_len, a.vectors[i].iov_len), a.messages[i].msg_len,
                      copying, now_ns, &actions)
        if status != ST_OK:
            return status
        if f.get.state == TG_ENDED:
            break
    if peer is not NULL and not f.connected and connect(f.fd, <sockaddr*>peer, f.server.length) < 0:
        return fail(f, ST_REMOTE, TX_NETWORK, errno, f.get.bytes)
    f.connected = f.connected or peer is not NULL
    return act(f, actions)
