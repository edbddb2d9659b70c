"""Blocks of files as datagrams, without a copy: a header and a piece of the segment's mapping in each pair of iovecs.

    message        [hdr|map] [hdr|map] [hdr|map]          one window, one UDP_SEGMENT message
    block that     [hdr|end of segment k|start of k+1]    two references
    crosses

A reference on each segment is taken by blob_span before its state is looked at, and dropped when sendmmsg has
returned: the kernel has copied the bytes by then, whatever the cache does next. A block whose bytes are not here
parks its transfer; the blocks before it go out.

Invariant: between calls the batch is empty and holds no reference. What the kernel refused stands at the front of the
TID's line again, in order. What may be sent is tftp_transfer's, when it is given up tftp_service's.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from bootplane.core.counters cimport C_TFTP_DATA, C_TFTP_DATA_BYTES, C_TFTP_RETRANSMITTED, count_n
from bootplane.core.linux cimport (
    AF_INET, EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, EPOLLOUT, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_PKTINFO,
    IP_PKTINFO, MSG_DONTWAIT, UDP_SEGMENT, cmsghdr, errno, getsockopt, in6_pktinfo, in_pktinfo, iovec, msghdr,
    off_t, sendmmsg, sendmsg, socklen_t,
)
from bootplane.core.loop cimport loop_add, loop_park, loop_tell_damaged, loop_unpark
from bootplane.core.records cimport source_waited
from bootplane.core.segments cimport CHUNK_BYTES, blob_span, segment_release, segment_t
from bootplane.core.status cimport ST_OK
from bootplane.core.tftp_deadlines cimport wheel_arm
from bootplane.core.tftp_outlet cimport allow_fragments
from bootplane.core.tftp_packet cimport DATA_HEADER, OACK_ROOM, data_header, oack_write
from bootplane.core.tftp_sessions cimport ready_push, ready_push_front, ready_remove
from bootplane.core.tftp_shares cimport held_active, held_refund, held_settle, held_wait
from bootplane.core.tftp_transfer cimport (
    EV_PARKED, EV_WOKEN, block_bytes, block_offset, transfer_owes, transfer_owes_oack, transfer_sent, transfer_step,
    transfer_t,
)

cdef extern from "<errno.h>" nogil:
    enum: EFAULT

cdef extern from "<sys/socket.h>" nogil:
    size_t CMSG_SPACE(size_t n)
    size_t CMSG_LEN(size_t n)
    unsigned char* CMSG_DATA(cmsghdr* c)

cdef enum gathered_t:
    GATHERED = 0
    NO_ROOM = 1                      # the batch is full: send it first
    NOT_HERE = 2
    HELD = 3

cdef struct cursor_t:                # where the next block's bytes come from
    uint8_t* at
    off_t left                       # bytes from `at` that may be sent; 0 = ask blob_span again


# -- one message -----------------------------------------------------------------------------------------------------

cdef size_t put_source(uint8_t* control, const path_t* path) noexcept nogil:
    """Writes the ancillary data that makes an answer leave from the address that was asked; returns its size."""
    cdef cmsghdr* c = <cmsghdr*>control
    cdef in_pktinfo* v4
    cdef in6_pktinfo* v6
    if not path.from_is_set:
        return 0
    if path.family == AF_INET:
        c.cmsg_level = IPPROTO_IP
        c.cmsg_type = IP_PKTINFO
        c.cmsg_len = CMSG_LEN(sizeof(in_pktinfo))
        v4 = <in_pktinfo*>CMSG_DATA(c)
        memset(v4, 0, sizeof(in_pktinfo))
        memcpy(&v4.ipi_spec_dst, path.from_address, 4)
        return CMSG_SPACE(sizeof(in_pktinfo))
    c.cmsg_level = IPPROTO_IPV6
    c.cmsg_type = IPV6_PKTINFO
    c.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
    v6 = <in6_pktinfo*>CMSG_DATA(c)
    memcpy(&v6.ipi6_addr, path.from_address, 16)
    v6.ipi6_ifindex = path.from_interface
    return CMSG_SPACE(sizeof(in6_pktinfo))


cdef size_t put_segment_size(uint8_t* control, uint16_t size) noexcept nogil:
    cdef cmsghdr* c = <cmsghdr*>control
    c.cmsg_level = IPPROTO_UDP
    c.cmsg_type = UDP_SEGMENT
    c.cmsg_len = CMSG_LEN(sizeof(uint16_t))
    memcpy(CMSG_DATA(c), &size, sizeof(uint16_t))
    return CMSG_SPACE(sizeof(uint16_t))


cdef void send_one(int fd, const path_t* path, const uint8_t* packet, size_t n) noexcept nogil:
    cdef msghdr m
    cdef iovec v
    cdef uint8_t[OUT_CONTROL] control
    memset(&m, 0, sizeof(m))
    memset(control, 0, OUT_CONTROL)
    v.iov_base = <void*>packet
    v.iov_len = n
    m.msg_name = <void*>&path.to
    m.msg_namelen = path.to_len
    m.msg_iov = &v
    m.msg_iovlen = 1
    m.msg_controllen = put_source(control, path)
    if m.msg_controllen > 0:
        m.msg_control = control
    if sendmsg(fd, &m, MSG_DONTWAIT) < 0 and errno != EAGAIN:
        sendmsg(fd, &m, MSG_DONTWAIT)            # the first may have reported an ICMP error of another client


cdef int gso_probe(int fd) noexcept nogil:
    cdef int value = 0
    cdef socklen_t n = sizeof(value)
    return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &n) == 0


# -- the batch -------------------------------------------------------------------------------------------------------

cdef inline void add_iovec(sender_t* s, void* base, size_t n) noexcept nogil:
    s.iovecs[s.iovecs_used].iov_base = base
    s.iovecs[s.iovecs_used].iov_len = n
    s.iovecs_used += 1


cdef int gather(sender_t* s, loop_t* loop, session_t* session, uint64_t block, cursor_t* cursor,
                uint64_t* absent) noexcept nogil:
    """Adds one block's header and bytes. But for GATHERED nothing of it stays; NOT_HERE: *absent is the chunk."""
    cdef uint32_t iovecs_before = s.iovecs_used
    cdef uint64_t offset = block_offset(&session.transfer, block)
    cdef uint32_t left = block_bytes(&session.transfer, block)
    cdef uint8_t* header = &s.headers[s.headers_used]
    cdef segment_t* segment
    cdef size_t n
    if (s.headers_used + DATA_HEADER > OUT_HEADERS or s.iovecs_used + 2 > OUT_IOVECS):
        return NO_ROOM
    data_header(header, block)
    add_iovec(s, header, DATA_HEADER)
    while left > 0:
        if cursor.left == 0:
            if s.segments_used == OUT_SEGMENTS:
                s.iovecs_used = iovecs_before
                return NO_ROOM
            if blob_span(session.blob, <off_t>offset, loop.now_ns, &segment, &cursor.left) != ST_OK:
                cursor.left = 0
                s.iovecs_used = iovecs_before
                absent[0] = offset // CHUNK_BYTES
                return NOT_HERE
            s.segments[s.segments_used] = segment    # released in drop_batch
            s.segments_used += 1
            cursor.at = segment.map + (<off_t>offset - segment.base)
        if s.iovecs_used == OUT_IOVECS:
            cursor.left = 0
            s.iovecs_used = iovecs_before
            return NO_ROOM
        n = left if <off_t>left < cursor.left else <size_t>cursor.left
        add_iovec(s, cursor.at, n)
        cursor.at += n
        cursor.left -= <off_t>n
        offset += n
        left -= <uint32_t>n
    s.headers_used += DATA_HEADER
    return GATHERED


cdef void add_message(sender_t* s, session_t* session, uint32_t first_iovec, uint64_t first, uint32_t blocks,
                      uint32_t bytes, uint16_t segment_size) noexcept nogil:
    cdef msghdr* m = &s.messages[s.n].msg_hdr
    cdef out_t* out = &s.out[s.n]
    cdef uint8_t* control = s.control[s.n]
    cdef size_t used
    m.msg_name = &session.path.to
    m.msg_namelen = session.path.to_len
    m.msg_iov = &s.iovecs[first_iovec]
    m.msg_iovlen = s.iovecs_used - first_iovec
    used = put_source(control, &session.path)
    if segment_size > 0:
        used += put_segment_size(control + used, segment_size)
    m.msg_control = control if used > 0 else NULL
    m.msg_controllen = used
    m.msg_flags = 0
    out.session = session
    out.first = first
    out.blocks = blocks
    out.bytes = bytes
    out.gso = segment_size > 0
    s.n += 1


cdef void drop_batch(sender_t* s) noexcept nogil:
    cdef uint32_t i
    for i in range(s.segments_used):
        segment_release(s.segments[i])           # acquired in gather
    s.n = 0
    s.iovecs_used = 0
    s.headers_used = 0
    s.segments_used = 0


cdef void park(loop_t* loop, session_t* session, uint64_t chunk, bint damaged) noexcept nogil:
    if session.waiter.parked:
        if session.waiter.chunk == chunk:
            return
        loop_unpark(loop, &session.waiter)       # evicted meanwhile: an earlier chunk is wanted again
    transfer_step(&session.transfer, EV_PARKED, 0, loop.now_ns)
    loop_park(loop, &session.waiter, session.blob, chunk, damaged)
    session.source = source_waited(session.source, session.waiter.followed)


cdef int add_window(sender_t* s, loop_t* loop, tid_t* tid, session_t* session, uint32_t most) noexcept nogil:
    """Adds up to *most* blocks of what *session* owes. NO_ROOM: the batch is full; NOT_HERE: it has been parked."""
    cdef transfer_t* t = &session.transfer
    cdef cursor_t cursor
    cdef uint64_t absent = 0
    cdef uint64_t owed = transfer_owes(t)
    cdef uint32_t per, n, bytes, first_iovec, size
    cdef int status = GATHERED
    cursor.at = NULL
    cursor.left = 0
    if owed > most:
        owed = most
    while owed > 0 and status == GATHERED:
        if s.n == OUT_MESSAGES:
            return NO_ROOM
        per = 1
        size = t.options.blksize + DATA_HEADER
        if tid.gso and session.gso and owed > 1:
            per = <uint32_t>owed if owed < GSO_SEGMENTS else GSO_SEGMENTS
            if per > GSO_BYTES // size:
                per = GSO_BYTES // size
        first_iovec = s.iovecs_used
        n = 0
        bytes = 0
        while n < per:
            status = gather(s, loop, session, t.next + n, &cursor, &absent)
            if status != GATHERED:
                break
            bytes += block_bytes(t, t.next + n)
            n += 1
        if n > 0:
            add_message(s, session, first_iovec, t.next, n, bytes, <uint16_t>size if n > 1 else 0)
            t.next += n
            owed -= n
    if status == NOT_HERE:
        park(loop, session, absent, False)
    return status


cdef bint add_oack(sender_t* s, session_t* session) noexcept nogil:
    cdef uint32_t first_iovec = s.iovecs_used
    cdef size_t n
    if s.n == OUT_MESSAGES or s.headers_used + OACK_ROOM > OUT_HEADERS or s.iovecs_used == OUT_IOVECS:
        return False
    n = oack_write(&s.headers[s.headers_used], &session.transfer.options, session.transfer.size)
    add_iovec(s, &s.headers[s.headers_used], n)
    s.headers_used += <uint32_t>n
    add_message(s, session, first_iovec, 0, 0, 0, 0)
    session.transfer.oack_owed = 0
    return True


# -- sending it ------------------------------------------------------------------------------------------------------

cdef void sent(loop_t* loop, wheel_t* wheel, out_t* out) noexcept nogil:
    cdef session_t* session = out.session
    cdef uint64_t again = transfer_sent(&session.transfer, out.first, out.blocks, loop.now_ns)
    count_n(loop.counters, C_TFTP_DATA, out.blocks)
    count_n(loop.counters, C_TFTP_DATA_BYTES, out.bytes)
    if again > 0:
        count_n(loop.counters, C_TFTP_RETRANSMITTED, again)
    if session.transfer.deadline_ns != 0:
        wheel_arm(wheel, &session.timer, session.transfer.deadline_ns, loop.now_ns)


cdef void put_back(sender_t* s, held_t* held, uint32_t unsent) noexcept nogil:
    """Takes messages *unsent* .. n-1 back: as if they had never been gathered."""
    cdef uint32_t i = s.n
    cdef out_t* out
    while i > unsent:
        i -= 1
        out = &s.out[i]
        if out.blocks == 0:
            out.session.transfer.oack_owed = 1
        else:
            out.session.transfer.next = out.first
            held_refund(held, out.session, out.bytes)
        ready_remove(out.session)
        ready_push_front(out.session)


cdef bint ask_for_room(loop_t* loop, tid_t* tid) noexcept nogil:
    if loop_add(loop, tid.outlet.fd, &tid.outlet.handler, EPOLLOUT) != ST_OK:
        return False
    tid.outlet.blocked = 1                       # cleared in tftp_service when EPOLLOUT comes
    return True


cdef void unreadable(loop_t* loop, wheel_t* wheel, session_t* session) noexcept nogil:
    """The kernel cannot read the mapping where the next block lies: the file was cut, or the disk has an error."""
    cdef uint64_t chunk = block_offset(&session.transfer, session.transfer.next) // CHUNK_BYTES
    ready_remove(session)
    if session.blob.registered:
        park(loop, session, chunk, True)
        return
    loop_tell_damaged(loop, session.blob, chunk)
    session.unreadable = 1                       # tftp_service ends it on this timer
    wheel_arm(wheel, &session.timer, 0, loop.now_ns)


cdef void flush(sender_t* s, loop_t* loop, wheel_t* wheel, held_t* held, tid_t* tid) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint32_t tried = OUT_MESSAGES           # which message has failed once already
    cdef int n, error
    cdef out_t* out
    while at < s.n:
        n = sendmmsg(tid.outlet.fd, &s.messages[at], s.n - at, MSG_DONTWAIT)
        if n > 0:
            while n > 0:
                sent(loop, wheel, &s.out[at])
                at += 1
                n -= 1
            continue
        error = errno
        out = &s.out[at]
        if error == EINTR:
            continue
        if error == EAGAIN and ask_for_room(loop, tid):
            put_back(s, held, at)
            break
        if out.gso and (error == EIO or error == EINVAL or error == EMSGSIZE):
            # EIO: the route to this client has no checksum offload (IPsec). Else: the block is larger than the path.
            out.session.gso = 0
            put_back(s, held, at)
            break
        if error == EMSGSIZE and not tid.fragments:
            tid.fragments = 1                    # the path became narrower than the block size agreed on
            if allow_fragments(tid.outlet.fd, True) == ST_OK:
                continue
        if tried != at:
            tried = at                           # an ICMP error of another client is reported once, by any call
            continue
        if error == EFAULT and out.blocks > 0:
            put_back(s, held, at)
            unreadable(loop, wheel, out.session)
            break
        sent(loop, wheel, out)                   # no route, no room, a firewall: as good as lost on the way
        at += 1
    drop_batch(s)


cdef int add_share(sender_t* s, loop_t* loop, held_t* held, tid_t* tid, session_t* session) noexcept nogil:
    """The same while shares are active. HELD: it has no turn, and has left the list."""
    cdef uint32_t blksize = session.transfer.options.blksize
    cdef uint32_t before = s.n
    cdef int64_t blocks = session.granted // blksize
    cdef int64_t bytes = 0
    cdef int status
    if transfer_owes(&session.transfer) == 0:
        if session.granted > 0:
            held_settle(held, session, 0)
        return GATHERED
    if session.granted == 0:
        held_wait(held, session, loop.now_ns)
        return HELD
    if blocks > TURN_BLOCKS:
        blocks = TURN_BLOCKS
    status = add_window(s, loop, tid, session, <uint32_t>blocks if blocks > 0 else 1)
    while before < s.n:
        bytes += s.out[before].bytes
        before += 1
    if status != NO_ROOM or bytes > 0:
        held_settle(held, session, bytes)
    return status


cdef void sender_pump(sender_t* s, loop_t* loop, wheel_t* wheel, held_t* held, tid_t* tid) noexcept nogil:
    cdef session_t* session
    cdef int status
    while tid.ready.first != NULL and not tid.outlet.blocked:
        while tid.ready.first != NULL:
            session = tid.ready.first
            if transfer_owes_oack(&session.transfer) and not add_oack(s, session):
                break
            if held_active(held):
                status = add_share(s, loop, held, tid, session)
                if status == HELD:
                    continue
            else:
                status = add_window(s, loop, tid, session, TURN_BLOCKS)
            if status == NO_ROOM:
                break
            ready_remove(session)
            if status == GATHERED:
                if session.waiter.parked:        # an ACK found the bytes here before their wake-up came
                    loop_unpark(loop, &session.waiter)
                    transfer_step(&session.transfer, EV_WOKEN, 0, loop.now_ns)
                if transfer_owes(&session.transfer) > 0:
                    ready_push(session)          # its turn is over
        flush(s, loop, wheel, held, tid)
