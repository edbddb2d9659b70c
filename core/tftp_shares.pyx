"""Turns of TFTP transfers by groups of clients, while shares are active.

    ready in its TID's line --> line of its group --a turn of the group--> in its TID's line again, with so many bytes

The table that all reactors share (shares) says which group is next, and for how much. A transfer waits for each window
anew, or for as many blocks of it as a turn has; within a group it goes in turn. One that waits counts as ready, so
groups that are ahead wait for its own. OACKs and ERRORs are neither counted nor held up.

Invariant: a session is in its TID's line, or in a line here, or in neither; one in a line is counted in its group's
`ready`, and what was granted is settled once. With nothing set, none of this is on anybody's way.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset
from bootplane.core.linux cimport AF_INET, bp_load_int
from bootplane.core.loop cimport NEVER
from bootplane.core.shares cimport (
    SHARE_GROUPS, shares_group, shares_ready, shares_settle, shares_t, shares_turn, shares_unready, turn_t,
)
from bootplane.core.tftp_sessions cimport (
    QUEUED_HELD, QUEUED_NOT, line_append, line_remove, line_t, ready_push, ready_remove,
)

cdef enum:
    MOST_BYTES = 524288              # of one turn: 64 blocks of 8 KiB


cdef bint held_active(const held_t* held) noexcept nogil:
    return held.shares != NULL and bp_load_int(&held.shares.active) != 0


cdef inline uint16_t version_of(shares_t* s) noexcept nogil:
    return <uint16_t>(bp_load_int(&s.version) & 0x7fff) | 0x8000         # never 0


cdef void find_group(shares_t* s, session_t* session) noexcept nogil:
    cdef uint16_t version = version_of(s)                        # before the look: a change meanwhile makes it old
    cdef uint8_t[16] ip
    if session.grouped == version:
        return
    if session.peer.family_port >> 16 == AF_INET:
        memset(ip, 0, 10)
        ip[10] = ip[11] = 0xff
        memcpy(ip + 12, session.peer.address, 4)
    else:
        memcpy(ip, session.peer.address, 16)
    session.group = <uint8_t>shares_group(s, ip)
    session.grouped = version


cdef void push(held_t* held, session_t* session, int64_t now_ns) noexcept nogil:
    find_group(held.shares, session)
    session.queued = QUEUED_HELD
    line_append(&held.lines[session.group], session)
    held.groups |= <uint64_t>1 << session.group
    shares_ready(held.shares, session.group, now_ns)             # taken back in leave()


cdef void leave(held_t* held, session_t* session) noexcept nogil:
    session.queued = QUEUED_NOT
    line_remove(&held.lines[session.group], session)
    if held.lines[session.group].first == NULL:
        held.groups &= ~(<uint64_t>1 << session.group)
        if held.groups == 0:
            held.due_ns = NEVER
    shares_unready(held.shares, session.group)


cdef void held_wait(held_t* held, session_t* session, int64_t now_ns) noexcept nogil:
    ready_remove(session)
    push(held, session, now_ns)


cdef void regroup(held_t* held, int64_t now_ns) noexcept nogil:
    """The groups have changed: who waits goes to where it belongs now."""
    cdef line_t all
    cdef session_t* session
    cdef int group
    all.first = all.last = NULL
    for group in range(SHARE_GROUPS):
        while held.lines[group].first != NULL:
            session = held.lines[group].first
            leave(held, session)
            line_append(&all, session)
    while all.first != NULL:
        session = all.first
        line_remove(&all, session)
        push(held, session, now_ns)


cdef session_t* held_next(held_t* held, int64_t now_ns) noexcept nogil:
    cdef session_t* session
    cdef uint16_t version
    cdef turn_t turn
    cdef int group = 0
    held.due_ns = NEVER
    if held.groups == 0:
        return NULL
    version = version_of(held.shares)
    if held.version != version:
        held.version = version
        regroup(held, now_ns)
    turn.bytes = 0                   # no longer active: all go, without a grant
    if held_active(held):
        if not shares_turn(held.shares, held.groups, MOST_BYTES, now_ns, &turn):
            held.due_ns = turn.retry_ns
            return NULL
        group = turn.group
    else:
        while held.lines[group].first == NULL:
            group += 1
    session = held.lines[group].first
    leave(held, session)
    session.granted = turn.bytes     # settled in held_settle or held_forget
    ready_push(session)
    return session


cdef void held_settle(held_t* held, session_t* session, int64_t sent) noexcept nogil:
    cdef turn_t turn
    turn.group = session.group
    turn.bytes = session.granted
    session.granted = 0
    shares_settle(held.shares, &turn, sent)


cdef void held_refund(held_t* held, session_t* session, int64_t bytes) noexcept nogil:
    cdef turn_t turn
    if not held_active(held):
        return
    turn.group = session.group
    turn.bytes = bytes
    shares_settle(held.shares, &turn, 0)


cdef void held_forget(held_t* held, session_t* session) noexcept nogil:
    if session.queued == QUEUED_HELD:
        leave(held, session)
    if session.granted > 0:
        held_settle(held, session, 0)
