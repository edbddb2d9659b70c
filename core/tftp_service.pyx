"""The TFTP service of one reactor: sockets, ACKs and deadlines, wired to the loop.

    request socket (port 69)  --RRQ-->  tftp_requests
    TID sockets, 4 or more    <--ACK--  session of (client, request socket) steps its transfer and joins its TID's line
                              --DATA->  tftp_sender, once per batch of ACKs, for all clients of that TID together

TID sockets are shared: RFC 1350 wants the server's TID to differ from port 69 and to stay for the transfer, not to be
nobody else's. Few sockets mean large batches: they are filled one after the other. Where a firewall lets port 69
through and no other, `single_port` makes the request socket the only TID, at the price that late packets of a client's
last transfer may meet its next.

Invariant: a live session is queued on its TID or for its shares, or has its timer in the wheel, or is parked. A packet
that belongs to no session, or comes to another TID than its session's, changes nothing.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from bootplane.core.counters cimport C_TFTP_MALFORMED, count
from bootplane.core.linux cimport (
    EPOLLERR, EPOLLIN, close, sockaddr_storage, ssize_t,
)
from bootplane.core.loop cimport NEVER, handler_t, loop_add, loop_add_ticker, loop_remove, loop_t, ticker_t
from bootplane.core.records cimport OUTCOME_CUT
from bootplane.core.status cimport ST_BAD, ST_NOMEM, ST_OK, ST_TRUNCATED
from bootplane.core.tftp_deadlines cimport timer_t, wheel_due, wheel_init, wheel_pop
from bootplane.core.tftp_lifecycle cimport (
    listener_t, refuse, session_act, session_end, session_error, session_fail, tftp_of, tftp_t,
)
from bootplane.core.tftp_outlet cimport outlet_socket
from bootplane.core.tftp_packet cimport (
    BLKSIZE_MAX, BLKSIZE_MIN, ERR_UNKNOWN_TID, OP_ACK, OP_DATA, OP_ERROR, OP_OACK, block_of, opcode_of,
)
from bootplane.core.tftp_requests cimport on_request
from bootplane.core.tftp_sender cimport gso_probe, sender_pump, sender_t
from bootplane.core.tftp_sessions cimport (
    QUEUED_HELD, outlet_t, path_t, peer_of, session_any, session_find, session_heard, session_of, session_t,
    sessions_free, sessions_init, tid_t,
)
from bootplane.core.tftp_shares cimport held_next, held_t
from bootplane.core.tftp_sockets cimport (
    inbox_free, inbox_init, inbox_receive, inbox_t, keep_errors, next_unreachable, path_to, request_socket, tid_socket,
)
from bootplane.core.tftp_tids cimport peer_t, tids_free, tids_init, tids_last
from bootplane.core.tftp_transfer cimport EV_ACK, EV_GONE, EV_TICK, WINDOW_MOST, transfer_step

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* out, size_t n, unsigned int flags)

cdef enum:
    REQUESTS = 64                    # datagrams per recvmmsg on a request socket
    REQUEST_BYTES = 1024             # RFC 2347 allows 512; a longer one is malformed
    PACKETS = 256                    # the same on a TID socket
    PACKET_BYTES = 128               # an ACK has 4; of an ERROR only the code counts
    LISTEN_AGAIN_NS = 100000000      # when epoll had no memory for a request socket
    TURNS_AT_ONCE = 32               # of shares, in one batch
    ROUNDS_AT_ONCE = 16
    PAST_ROOM = 16384                # ended transfers that are remembered, at least: 546 a second for 30 s


# -- sending, and deadlines ------------------------------------------------------------------------------------------

cdef void pump_all(loop_t* loop) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef uint32_t i, k
    for i in range(tftp.nlisteners):
        for k in range(tftp.ntids):
            if tftp.listeners[i].tids[k].ready.first != NULL:
                sender_pump(tftp.sender, loop, &tftp.wheel, &tftp.held, &tftp.listeners[i].tids[k])


cdef void take_turns(loop_t* loop) noexcept nogil:
    """Lets those that wait for their shares send, as far as these go. What a turn did not need is there for another."""
    cdef held_t* held = &tftp_of(loop).held
    cdef int turns = 1
    cdef int rounds = 0
    while turns > 0 and rounds < ROUNDS_AT_ONCE:
        turns = 0
        while turns < TURNS_AT_ONCE and held_next(held, loop.now_ns) != NULL:
            turns += 1
        if turns > 0:
            pump_all(loop)
        rounds += 1
    if turns > 0 and held.groups:
        held.due_ns = loop.now_ns        # after the others of this reactor


cdef inline int64_t next_due(const tftp_t* tftp) noexcept nogil:
    cdef int64_t due = wheel_due(&tftp.wheel)
    return due if due < tftp.held.due_ns else tftp.held.due_ns


cdef void pump(loop_t* loop, tid_t* tid) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef int64_t due
    sender_pump(tftp.sender, loop, &tftp.wheel, &tftp.held, tid)
    if tftp.held.groups:
        take_turns(loop)
    due = next_due(tftp)
    if due < tftp.ticker.due_ns:
        tftp.ticker.due_ns = due


cdef int listen(loop_t* loop) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef uint32_t i
    cdef int status
    for i in range(tftp.nlisteners):
        status = loop_add(loop, tftp.listeners[i].fd, &tftp.listeners[i].handler, EPOLLIN)
        if status != ST_OK:
            while i > 0:
                i -= 1
                loop_remove(loop, tftp.listeners[i].fd)
            return status
    tftp.listening = 1
    return ST_OK


cdef void drain(loop_t* loop) noexcept nogil:
    """Requests stay in their sockets: whoever takes these over answers them. A single port is read on, for the ACKs."""
    cdef tftp_t* tftp = tftp_of(loop)
    cdef uint32_t i
    if tftp.single_port or not tftp.listening:
        return
    for i in range(tftp.nlisteners):
        loop_remove(loop, tftp.listeners[i].fd)
    tftp.listening = 0


cdef int64_t tick(loop_t* loop, ticker_t* ticker) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef timer_t* timer = wheel_pop(&tftp.wheel, loop.now_ns)
    cdef session_t* s
    if tftp.hold and loop.opened:
        tftp.hold = not loop.draining and listen(loop) != ST_OK
    while timer != NULL:
        s = session_of(timer)
        if s.unreadable:
            session_fail(loop, s, ST_TRUNCATED)
        elif s.queued == QUEUED_HELD:
            s.transfer.deadline_ns = 0   # it is we who keep this client waiting; its turn sets a new one
        else:                        # one that moved later meanwhile is armed again there
            session_act(loop, s, transfer_step(&s.transfer, EV_TICK, 0, loop.now_ns))
        timer = wheel_pop(&tftp.wheel, loop.now_ns)
    pump_all(loop)
    if tftp.held.groups:
        take_turns(loop)
    return next_due(tftp) if not (tftp.hold and loop.opened) else loop.now_ns + LISTEN_AGAIN_NS


# -- what arrives ------------------------------------------------------------------------------------------------------

cdef void on_packet(loop_t* loop, tid_t* tid, const inbox_t* inbox, uint32_t i) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef const uint8_t* packet = <const uint8_t*>inbox.iovecs[i].iov_base
    cdef size_t n = inbox.messages[i].msg_len
    cdef int opcode = opcode_of(packet, n)
    cdef session_t* s
    cdef peer_t peer
    cdef path_t path
    if n < 4 or (opcode != OP_ACK and opcode != OP_ERROR and opcode != OP_DATA and opcode != OP_OACK):
        count(loop.counters, C_TFTP_MALFORMED)
        return
    peer_of(&inbox.senders[i], tid.listener, &peer)
    s = session_find(&tftp.sessions, &peer)
    if s == NULL or s.tid != tid or s.asking:
        # Silence for what is late, here for 30 s, and for ERRORs: two servers must not answer each other's.
        if opcode != OP_ERROR and tids_last(&tftp.past, &peer, loop.now_ns) != tid.index:
            path_to(&inbox.senders[i], &path)
            refuse(loop, tid.fd, &path, ERR_UNKNOWN_TID, "", 0, "no transfer of yours has this port")
    elif opcode == OP_ACK:
        session_heard(&tftp.sessions, s)
        session_act(loop, s, transfer_step(&s.transfer, EV_ACK, block_of(packet), loop.now_ns))
    elif opcode == OP_ERROR:
        session_error(loop, s, block_of(packet))
    else:
        count(loop.counters, C_TFTP_MALFORMED)


cdef void unreachable(loop_t* loop, tid_t* tid) noexcept nogil:
    cdef sockaddr_storage address
    cdef session_t* s
    cdef peer_t peer
    while next_unreachable(tid.fd, &address):
        peer_of(&address, tid.listener, &peer)
        s = session_find(&tftp_of(loop).sessions, &peer)
        if s != NULL and s.tid == tid and not s.asking:
            session_act(loop, s, transfer_step(&s.transfer, EV_GONE, 0, loop.now_ns))


cdef int read_packets(loop_t* loop, tid_t* tid) noexcept nogil:
    cdef int n = inbox_receive(&tftp_of(loop).packets, tid.fd)       # level-triggered: what is left comes back
    cdef int i
    for i in range(n):
        on_packet(loop, tid, &tftp_of(loop).packets, i)
    return n


cdef void requests_event(loop_t* loop, handler_t* handler, uint32_t events) noexcept nogil:
    cdef listener_t* listener = <listener_t*>handler
    cdef tftp_t* tftp = tftp_of(loop)
    cdef int n = inbox_receive(&tftp.requests, listener.fd)
    cdef int i
    # What clients sent to their TIDs before these requests comes first: else a request right behind a last ACK would be
    # taken for a repetition of the transfer that this ACK ends.
    for i in range(<int>tftp.ntids):
        if listener.tids[i].sessions > 0:
            read_packets(loop, &listener.tids[i])
    for i in range(n):
        on_request(loop, listener, i)
    for i in range(<int>tftp.ntids):
        if listener.tids[i].ready.first != NULL:
            pump(loop, &listener.tids[i])


cdef void single_event(loop_t* loop, handler_t* handler, uint32_t events) noexcept nogil:
    """Requests and what belongs to transfers on one socket, in the order of arrival."""
    cdef listener_t* listener = <listener_t*>handler
    cdef inbox_t* inbox = &tftp_of(loop).requests
    cdef int budget = PACKETS
    cdef int n = 0
    cdef int i, opcode
    while budget > 0:
        n = inbox_receive(inbox, listener.fd)
        for i in range(n):
            opcode = opcode_of(<const uint8_t*>inbox.iovecs[i].iov_base, inbox.messages[i].msg_len)
            if opcode == OP_ACK or opcode == OP_ERROR or opcode == OP_DATA or opcode == OP_OACK:
                on_packet(loop, listener.tids, inbox, i)
            else:
                on_request(loop, listener, i)
        pump(loop, listener.tids)
        budget = budget - n if n > 1 else 0          # as in tid_event
    if events & EPOLLERR and n < REQUESTS:           # the same
        unreachable(loop, listener.tids)


cdef void tid_event(loop_t* loop, handler_t* handler, uint32_t events) noexcept nogil:
    cdef tid_t* tid = <tid_t*>handler
    cdef int budget = PACKETS
    cdef int n = read_packets(loop, tid)
    pump(loop, tid)
    while n > 1 and budget > 0:      # what came while we sent: as good as another event, without asking epoll for it
        budget -= n
        n = read_packets(loop, tid)
        if n > 0:
            pump(loop, tid)
    # After all that has arrived: a client sends its last ACK before it closes its port. What is left comes back.
    if events & EPOLLERR and n < PACKETS:
        unreachable(loop, tid)


cdef void outlet_event(loop_t* loop, handler_t* handler, uint32_t events) noexcept nogil:
    cdef outlet_t* outlet = <outlet_t*>handler
    loop_remove(loop, outlet.fd)
    outlet.blocked = 0               # set in tftp_sender
    pump(loop, outlet.tid)


# -- start and stop --------------------------------------------------------------------------------------------------

cdef inline uint32_t clamp(uint32_t value, uint32_t low, uint32_t high) noexcept nogil:
    return low if value < low else (high if value > high else value)


cdef int open_listener(loop_t* loop, listener_t* listener, int fd, uint32_t index,
                       const tftp_options_t* o) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef tid_t* tid
    cdef uint32_t i
    cdef int status = request_socket(fd, &listener.local, &listener.wildcard)
    if status != ST_OK:
        return status
    listener.tids = <tid_t*>calloc(tftp.ntids, sizeof(tid_t))
    if listener.tids == NULL:
        return ST_NOMEM
    for i in range(tftp.ntids):
        listener.tids[i].fd = -1
        listener.tids[i].outlet.fd = -1
    listener.index = index
    listener.fd = fd
    if tftp.single_port:
        status = keep_errors(fd)
        if status != ST_OK:
            return status
    for i in range(tftp.ntids):
        tid = &listener.tids[i]
        tid.handler.on_event = tid_event
        tid.listener = index
        tid.index = i
        status = fd if tftp.single_port else tid_socket(fd, &listener.local)
        if status < 0:
            return status
        tid.fd = status
        status = outlet_socket(tid.fd)
        if status < 0:
            return status
        tid.outlet.fd = status
        tid.outlet.tid = tid
        tid.outlet.handler.on_event = outlet_event
        tid.gso = o.gso != 0 and gso_probe(tid.outlet.fd)
        if not tftp.single_port:
            status = loop_add(loop, tid.fd, &tid.handler, EPOLLIN)
            if status != ST_OK:
                return status
    listener.handler.on_event = single_event if tftp.single_port else requests_event
    return ST_OK


cdef int tftp_start(loop_t* loop, const int* fds, int n, const tftp_options_t* options) noexcept nogil:
    cdef tftp_t* tftp
    cdef uint64_t seed = <uint64_t>loop.now_ns
    cdef uint32_t transfers = clamp(options.max_transfers, 1, 1048576)
    cdef uint32_t past = PAST_ROOM
    cdef int status, i
    if n <= 0 or loop.tftp != NULL:
        return ST_BAD
    tftp = <tftp_t*>calloc(1, sizeof(tftp_t))
    if tftp == NULL:
        return ST_NOMEM
    loop.tftp = tftp
    getrandom(&seed, sizeof(seed), 0)                # refused: the clock has to do
    while past < transfers * 4:
        past *= 2
    tftp.limits.max_blksize = clamp(options.max_blksize, BLKSIZE_MIN, BLKSIZE_MAX)
    tftp.limits.max_windowsize = clamp(options.max_windowsize, 1, WINDOW_MOST)
    tftp.limits.timeout_ns = options.timeout_ns if options.timeout_ns > 0 else 1000000000
    tftp.limits.retries = clamp(options.retries, 1, 1000)
    tftp.single_port = options.single_port != 0
    tftp.ntids = 1 if tftp.single_port else clamp(options.tids, 4, 64)
    wheel_init(&tftp.wheel, loop.now_ns)
    tftp.sender = <sender_t*>calloc(1, sizeof(sender_t))
    tftp.listeners = <listener_t*>calloc(n, sizeof(listener_t))
    status = sessions_init(&tftp.sessions, transfers, seed)
    if status == ST_OK:
        status = tids_init(&tftp.past, past, seed)
    if status == ST_OK:
        status = inbox_init(&tftp.requests, REQUESTS, REQUEST_BYTES, True)
    if status == ST_OK:
        status = inbox_init(&tftp.packets, PACKETS, PACKET_BYTES, False)
    if tftp.sender == NULL or tftp.listeners == NULL:
        status = ST_NOMEM
    for i in range(n):
        if status == ST_OK:
            tftp.nlisteners = i + 1
            status = open_listener(loop, &tftp.listeners[i], fds[i], i, options)
    tftp.hold = options.hold != 0
    tftp.held.shares = options.shares
    tftp.held.due_ns = NEVER
    if status == ST_OK and not tftp.hold:
        status = listen(loop)
    if status != ST_OK:
        tftp_stop(loop)
        return status
    loop.drain_tftp = drain
    tftp.ticker.tick = tick
    tftp.ticker.due_ns = NEVER
    loop_add_ticker(loop, &tftp.ticker)
    return ST_OK


cdef void tftp_stop(loop_t* loop) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef session_t* s
    cdef uint32_t i, k
    if tftp == NULL:
        return
    s = session_any(&tftp.sessions)
    while s != NULL:
        session_end(loop, s, OUTCOME_CUT, 0)
        s = session_any(&tftp.sessions)
    for i in range(tftp.nlisteners):
        if tftp.listeners[i].tids == NULL:
            continue
        if tftp.listening:
            loop_remove(loop, tftp.listeners[i].fd)
        for k in range(tftp.ntids):
            if tftp.listeners[i].tids[k].fd >= 0 and not tftp.single_port:
                close(tftp.listeners[i].tids[k].fd)  # opened in open_listener; leaves epoll with it
            if tftp.listeners[i].tids[k].outlet.fd >= 0:
                close(tftp.listeners[i].tids[k].outlet.fd)           # the same
        free(tftp.listeners[i].tids)
    sessions_free(&tftp.sessions)
    tids_free(&tftp.past)
    inbox_free(&tftp.requests)
    inbox_free(&tftp.packets)
    free(tftp.sender)
    free(tftp.listeners)
    free(tftp)
    loop.tftp = NULL
    loop.drain_tftp = NULL
