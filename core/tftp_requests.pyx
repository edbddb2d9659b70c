"""What a datagram on a request socket means: a transfer, the same one again, a question for Python, an ERROR, silence.

    RRQ --same client port, name, options--> the same transfer
        --in the table-->     transfer            --dynamic-->     question, OACK when the answer is here
        --missing *.lst-->    empty file (GRUB)   --anything else--> ERROR 1

ERROR packets about a request that began no transfer leave from the request socket: from a TID, a late copy could meet
the client's next transfer.

Invariant: a client port has at most one session, and a new one never has the TID of its last. What the name means is
the table's; what the transfer then does is tftp_transfer's.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset
from bootplane.core.counters cimport (
    C_LOOKUPS, C_NAMES_DYNAMIC, C_NAMES_FOUND, C_NAMES_UNKNOWN, C_TFTP_MALFORMED, C_TFTP_REPEATED, C_TFTP_REQUESTS,
    count,
)
from bootplane.core.linux cimport AF_INET, MSG_TRUNC, sockaddr_in, sockaddr_in6, sockaddr_storage
from bootplane.core.loop cimport PROTO_TFTP, loop_ask, loop_t
from bootplane.core.records cimport OUTCOME_REFUSED, SOURCE_DYNAMIC, SOURCE_HIT, record_name, record_t, records_push
from bootplane.core.segments cimport blob_t
from bootplane.core.status cimport ST_NOMEM, ST_OK
from bootplane.core.table cimport MAX_NAME, NAME_DYNAMIC, NAME_EMPTY, NAME_FILE, name_kind, name_normalise, table_find
from bootplane.core.tftp_lifecycle cimport (
    listener_t, record_of, refuse, refuse_crowd, session_act, session_begin, session_fail, session_make_room,
    session_wake, tftp_of, tftp_t,
)
from bootplane.core.tftp_packet cimport (
    ERR_ACCESS, ERR_NOT_FOUND, ERR_UNDEFINED, MODE_OCTET, OP_WRQ, options_t, request_parse, request_t,
)
from bootplane.core.tftp_sessions cimport path_t, peer_of, session_find, session_new, session_t, tid_t
from bootplane.core.tftp_sockets cimport inbox_t, path_from, path_to
from bootplane.core.tftp_tids cimport peer_t, tids_last
from bootplane.core.tftp_transfer cimport DO_ABORT, DO_NOTHING, DO_RESTART, EV_REPEAT, transfer_step

cdef enum:
    SESSIONS_PER_TID = 128           # then the next TID is used: their ACKs fit in a receive buffer of default size


cdef tid_t* choose_tid(tftp_t* tftp, listener_t* listener, const peer_t* peer, int64_t now_ns) noexcept nogil:
    """The first TID with room that is not the one of this client's last transfer; the emptiest when all are full. With
    a single port it is that one."""
    cdef uint32_t last = tids_last(&tftp.past, peer, now_ns)
    cdef tid_t* best = NULL
    cdef tid_t* tid
    cdef uint32_t i
    for i in range(tftp.ntids):
        tid = &listener.tids[i]
        if i == last and not tftp.single_port:
            continue
        if tid.sessions < SESSIONS_PER_TID:
            return tid
        if best == NULL or tid.sessions < best.sessions:
            best = tid
    return best


cdef bint is_same(const session_t* s, const char* name, int n, const options_t* asked,
                  const path_t* path) noexcept nogil:
    return (s.name_len == n and memcmp(s.name, name, n) == 0
            and s.asked.present == asked.present and s.asked.blksize == asked.blksize
            and s.asked.timeout_s == asked.timeout_s and s.asked.windowsize == asked.windowsize
            and memcmp(s.path.from_address, path.from_address, sizeof(path.from_address)) == 0)


cdef void local_of(const listener_t* listener, const path_t* path, sockaddr_storage* out) noexcept nogil:
    out[0] = listener.local
    if path.from_is_set:
        if path.family == AF_INET:
            memcpy(&(<sockaddr_in*>out).sin_addr, path.from_address, 4)
        else:
            memcpy(&(<sockaddr_in6*>out).sin6_addr, path.from_address, 16)


cdef void ask(loop_t* loop, listener_t* listener, session_t* s) noexcept nogil:
    cdef sockaddr_storage peer
    cdef sockaddr_storage local
    memset(&peer, 0, sizeof(peer))
    memcpy(&peer, &s.path.to, s.path.to_len)
    local_of(listener, &s.path, &local)
    s.asking = 1
    if loop_ask(loop, &s.waiter, PROTO_TFTP, s.name, s.name_len, &peer, &local) != ST_OK:
        session_fail(loop, s, ST_NOMEM)


cdef void note_refusal(loop_t* loop, const peer_t* peer, int code, const request_t* request, const char* name, int n,
                       int64_t size) noexcept nogil:
    """Records a request that began no transfer; *n* is not above 0 when its name has no canonical form."""
    cdef record_t* record = record_of(loop, peer, OUTCOME_REFUSED, code)
    if record == NULL:
        return
    if n > 0:
        record_name(record, name, n)
    else:
        record_name(record, request.name, request.name_len)
    record.size = size
    records_push(loop.records, loop.counters)


cdef void start(loop_t* loop, listener_t* listener, const peer_t* peer, const path_t* path, const char* name, int n,
                const request_t* request) noexcept nogil:
    """A request that is not one being served already: look the name up, begin or refuse."""
    cdef tftp_t* tftp = tftp_of(loop)
    cdef blob_t* blob = NULL
    cdef session_t* s
    cdef int kind = NAME_FILE
    count(loop.counters, C_LOOKUPS)
    if n > 0:
        blob = table_find(loop.table, name, n)
        if blob == NULL:
            kind = name_kind(name, n)
    if blob == NULL and kind != NAME_DYNAMIC and kind != NAME_EMPTY:
        count(loop.counters, C_NAMES_UNKNOWN)
        note_refusal(loop, peer, ERR_NOT_FOUND, request, name, n, -1)
        if n > 0:
            refuse(loop, listener.fd, path, ERR_NOT_FOUND, name, n, ": no such file")
        else:
            refuse(loop, listener.fd, path, ERR_NOT_FOUND, "", 0, "no file can have that name")
        return
    count(loop.counters, C_NAMES_DYNAMIC if kind == NAME_DYNAMIC else C_NAMES_FOUND)
    s = session_new(&tftp.sessions, peer, loop.now_ns)
    if s == NULL and session_make_room(loop):
        s = session_new(&tftp.sessions, peer, loop.now_ns)
    if s == NULL:
        note_refusal(loop, peer, ERR_UNDEFINED, request, name, n, blob.size if blob != NULL else -1)
        refuse_crowd(loop, listener.fd, path, name, n)
        return
    s.waiter.on_wake = session_wake
    s.path = path[0]
    s.asked = request.options
    s.began_ns = loop.now_ns
    s.source = SOURCE_DYNAMIC if kind == NAME_DYNAMIC else SOURCE_HIT
    s.gso = 1
    s.name_len = <uint16_t>n
    memcpy(s.name, name, n)
    s.tid = choose_tid(tftp, listener, peer, loop.now_ns)
    s.tid.sessions += 1              # dropped in tftp_lifecycle's release()
    loop.busy += 1                   # the same
    count(loop.counters, C_TFTP_REQUESTS)
    if kind == NAME_DYNAMIC:
        ask(loop, listener, s)
    else:
        session_begin(loop, s, blob)


cdef void on_request(loop_t* loop, listener_t* listener, uint32_t i) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    cdef inbox_t* inbox = &tftp.requests
    cdef request_t request
    cdef path_t path
    cdef peer_t peer
    cdef session_t* s
    cdef char[MAX_NAME] name
    cdef int n, action
    path_to(&inbox.senders[i], &path)
    if (inbox.messages[i].msg_hdr.msg_flags & MSG_TRUNC or (listener.wildcard and not path_from(inbox, i, &path))
            or request_parse(<const uint8_t*>inbox.iovecs[i].iov_base, inbox.messages[i].msg_len, &request) != ST_OK):
        count(loop.counters, C_TFTP_MALFORMED)
        return
    n = name_normalise(request.name, request.name_len, name)
    peer_of(&inbox.senders[i], listener.index, &peer)
    if request.opcode == OP_WRQ:
        note_refusal(loop, &peer, ERR_ACCESS, &request, name, n, -1)
        refuse(loop, listener.fd, &path, ERR_ACCESS, "", 0, "this server is read-only")
        return
    if request.mode != MODE_OCTET:
        note_refusal(loop, &peer, ERR_UNDEFINED, &request, name, n, -1)
        refuse(loop, listener.fd, &path, ERR_UNDEFINED, "", 0, "only mode octet is served")
        return
    if loop.table == NULL:
        return                       # just started: the client asks again, and firmware told "no" would not
    s = session_find(&tftp.sessions, &peer)
    if s != NULL and n > 0 and is_same(s, name, n, &request.options, &path):
        action = DO_NOTHING if s.asking else transfer_step(&s.transfer, EV_REPEAT, 0, loop.now_ns)
        if action != DO_RESTART:
            count(loop.counters, C_TFTP_REPEATED)
            session_act(loop, s, action)
            return
    if loop.draining:
        return
    if s != NULL:  # from the same port another file, or the same one from the start: the old one is over
        session_act(loop, s, DO_ABORT)
    start(loop, listener, &peer, &path, name, n, &request)
