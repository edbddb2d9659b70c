"""How a TFTP session begins, goes on and ends: what each action of its transfer, each wake-up and each failure means.

    asking --answer--> transfer --last ACK--> end             counted as completed
       |                  |--ERROR, ICMP, another request-->  aborted
       |                  |--deadlines-->                     timed out
       '--no such name--> '--bytes that cannot be had-->      ERROR with a text for the machine's console
       '------------------'--a stranger's, all places taken-> the same

Invariant: whatever a session holds (its blob, its place in the wheel, in its TID's line, among the parked) is given
back in release() and nowhere else, its TID rests afterwards, and it leaves one record, which is written before the
ERROR that tells the client: whoever has got that packet may read the record. Which request begins one is
tftp_requests', what moves it tftp_service's.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from bootplane.core.counters cimport (
    C_TFTP_ABORTED, C_TFTP_COMPLETED, C_TFTP_ERRORS, C_TFTP_TIMED_OUT, count,
)
from bootplane.core.linux cimport AF_INET, ntohs
from bootplane.core.loop cimport PROTO_TFTP, loop_t, loop_unpark, waiter_t
from bootplane.core.records cimport (
    OUTCOME_ABORTED, OUTCOME_COMPLETE, OUTCOME_CUT, OUTCOME_PROBE, OUTCOME_REFUSED, OUTCOME_TIMEOUT, record_name,
    record_t, records_next, records_push, source_counter,
)
from bootplane.core.segments cimport blob_release, blob_retain, blob_t
from bootplane.core.status cimport ST_GONE, ST_OK, ST_TIMEOUT, ST_TRUNCATED, ST_UNKNOWN
from bootplane.core.tftp_deadlines cimport wheel_arm, wheel_disarm
from bootplane.core.tftp_outlet cimport path_blksize
from bootplane.core.tftp_packet cimport (
    BLKSIZE_DEFAULT, ERROR_ROOM, ERR_NOT_FOUND, ERR_OPTIONS, ERR_UNDEFINED, OPT_BLKSIZE, OPT_TSIZE, error_write,
)
from bootplane.core.tftp_sender cimport send_one
from bootplane.core.tftp_sessions cimport path_t, ready_push, ready_remove, session_drop, session_strangest, session_t
from bootplane.core.tftp_shares cimport held_forget
from bootplane.core.tftp_tids cimport peer_t, tids_rest
from bootplane.core.tftp_transfer cimport (
    DO_ABORT, DO_FINISH, DO_GIVE_UP, DO_SEND, EV_GONE, EV_WOKEN, TRANSFER_OACK, limits_t, transfer_delivered,
    transfer_start, transfer_step, transfer_t,
)


cdef record_t* record_of(loop_t* loop, const peer_t* peer, int outcome, int status) noexcept nogil:
    cdef record_t* record = records_next(loop.records, loop.counters)
    if record == NULL:
        return NULL
    record.proto = PROTO_TFTP
    record.ended_ns = loop.now_ns
    record.began_ns = loop.now_ns
    record.outcome = <uint8_t>outcome
    record.status = <uint16_t>status
    record.port = ntohs(<uint16_t>peer.family_port)
    if peer.family_port >> 16 == AF_INET:
        record.address[10] = 0xff
        record.address[11] = 0xff
        memcpy(record.address + 12, peer.address, 4)
    else:
        memcpy(record.address, peer.address, 16)
    return record


cdef void note(loop_t* loop, session_t* s, int outcome, int status) noexcept nogil:
    cdef record_t* record = record_of(loop, &s.peer, outcome, status)
    if record == NULL:
        return
    record.began_ns = s.began_ns
    record_name(record, s.name, s.name_len)
    record.source = s.source
    record.size = <int64_t>s.transfer.size
    if s.asking:
        record.size = -1
    else:
        record.sent = <int64_t>transfer_delivered(&s.transfer)
        record.blksize = s.transfer.options.blksize
        record.windowsize = s.transfer.options.windowsize
        record.packets = s.transfer.packets
        record.retransmits = s.transfer.retransmits
        record.duplicate_acks = s.transfer.duplicate_acks
    records_push(loop.records, loop.counters)


cdef void release(loop_t* loop, session_t* s) noexcept nogil:
    cdef tftp_t* tftp = tftp_of(loop)
    loop_unpark(loop, &s.waiter)
    wheel_disarm(&tftp.wheel, &s.timer)
    ready_remove(s)
    held_forget(&tftp.held, s)
    tids_rest(&tftp.past, &s.peer, s.tid.index, loop.now_ns)
    s.tid.sessions -= 1
    if not s.asking:
        count(loop.counters, source_counter(s.source))
    if s.blob != NULL:
        blob_release(s.blob)         # retained in session_begin
    session_drop(&tftp.sessions, s)
    loop.busy -= 1


cdef void session_end(loop_t* loop, session_t* s, int outcome, int status) noexcept nogil:
    note(loop, s, outcome, status)
    release(loop, s)


cdef void refuse(loop_t* loop, int fd, const path_t* path, int code, const char* name, size_t name_len,
                 const char* why) noexcept nogil:
    cdef uint8_t[ERROR_ROOM] packet
    cdef size_t n = error_write(packet, code, "", name, name_len, why)
    count(loop.counters, C_TFTP_ERRORS)              # first: whoever has got the packet may read the counter
    send_one(fd, path, packet, n)


cdef void refuse_crowd(loop_t* loop, int fd, const path_t* path, const char* name, size_t name_len) noexcept nogil:
    refuse(loop, fd, path, ERR_UNDEFINED, name, name_len,
           ": this rack serves as many transfers as it may; try again")


cdef bint session_make_room(loop_t* loop) noexcept nogil:
    cdef session_t* s = session_strangest(&tftp_of(loop).sessions, loop.now_ns)
    if s == NULL:
        return False
    note(loop, s, OUTCOME_REFUSED, ERR_UNDEFINED)
    refuse_crowd(loop, s.tid.fd, &s.path, s.name, s.name_len)
    release(loop, s)
    return True


cdef void session_fail(loop_t* loop, session_t* s, int status) noexcept nogil:
    """Ends a transfer for a reason of ours; the client's console shows the text."""
    cdef int code = ERR_UNDEFINED
    cdef const char* why = ": its bytes cannot be had from the region"
    if status == ST_UNKNOWN:
        code = ERR_NOT_FOUND
        why = ": no such file"
    elif status == ST_TIMEOUT:
        why = ": the region has not sent it in time; try again"
    elif status == ST_GONE:
        why = ": removed meanwhile; try again"
    elif status == ST_TRUNCATED:
        why = ": its file on the rack's disk cannot be read"
    note(loop, s, OUTCOME_CUT if s.transfer.packets > 0 else OUTCOME_REFUSED, code)
    refuse(loop, s.tid.fd, &s.path, code, s.name, s.name_len, why)
    release(loop, s)


cdef bint is_probe(const transfer_t* t, int code) noexcept nogil:
    """Whether an ERROR only says that the OACK was all the client wanted: UEFI asks for tsize so, and ends it with 8;
    so do ROMs of BIOS machines, with 0 "TFTP Aborted"."""
    if code == ERR_OPTIONS:
        return t.options.present != 0 and t.acked == 0
    return code == ERR_UNDEFINED and t.state == TRANSFER_OACK and t.options.present & OPT_TSIZE


cdef void session_error(loop_t* loop, session_t* s, int code) noexcept nogil:
    s.code = <uint16_t>code
    s.is_probe = is_probe(&s.transfer, code)
    session_act(loop, s, transfer_step(&s.transfer, EV_GONE, 0, loop.now_ns))


cdef void session_act(loop_t* loop, session_t* s, int action) noexcept nogil:
    """What a step of the transfer asks for; *s* may be gone afterwards."""
    if action == DO_SEND:
        ready_push(s)
    elif action == DO_FINISH:
        count(loop.counters, C_TFTP_COMPLETED)
        session_end(loop, s, OUTCOME_COMPLETE, 0)
    elif action == DO_ABORT:
        count(loop.counters, C_TFTP_ABORTED)
        session_end(loop, s, OUTCOME_PROBE if s.is_probe else OUTCOME_ABORTED, s.code)
    elif action == DO_GIVE_UP:
        count(loop.counters, C_TFTP_TIMED_OUT)
        session_end(loop, s, OUTCOME_TIMEOUT, 0)
    elif s.transfer.deadline_ns != 0:
        wheel_arm(&tftp_of(loop).wheel, &s.timer, s.transfer.deadline_ns, loop.now_ns)
        if s.transfer.deadline_ns < tftp_of(loop).ticker.due_ns:
            tftp_of(loop).ticker.due_ns = s.transfer.deadline_ns


cdef void session_begin(loop_t* loop, session_t* s, blob_t* blob) noexcept nogil:
    cdef limits_t limits
    cdef uint32_t widest
    s.asking = 0
    s.blob = blob
    if blob != NULL:
        blob_retain(blob)            # released in release()
    limits = tftp_of(loop).limits
    if s.asked.present & OPT_BLKSIZE and s.asked.blksize > BLKSIZE_DEFAULT:
        widest = path_blksize(&s.path)
        if widest < limits.max_blksize:
            limits.max_blksize = widest
    transfer_start(&s.transfer, &s.asked, <uint64_t>blob.size if blob != NULL else 0, &limits)
    ready_push(s)                    # the OACK needs the size alone: it goes out whether the bytes are here or not


cdef void session_wake(loop_t* loop, waiter_t* waiter, int status, blob_t* blob) noexcept nogil:
    cdef session_t* s = <session_t*>waiter
    tftp_of(loop).ticker.due_ns = loop.now_ns             # pump in tick(): all that one chunk woke go out together
    if s.asking:
        if status == ST_OK and blob != NULL:
            session_begin(loop, s, blob)
        else:
            session_fail(loop, s, status if status != ST_OK else ST_UNKNOWN)
    elif status == ST_OK:
        session_act(loop, s, transfer_step(&s.transfer, EV_WOKEN, 0, loop.now_ns))
    else:
        session_fail(loop, s, status)
