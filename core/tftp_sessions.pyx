"""The TFTP transfers of one reactor: a pool made at the start, a hash by client, and each TID's line of who may send.

A request costs its sender one datagram, with any address it likes as its source. So whoever has sent nothing but
requests is a stranger, and when all sessions are in use the one that has been so for longest, a fifth of a second at
least, is whose place another gets: a flood of requests keeps nobody out for good, and ends no transfer that runs.

A session belongs to (client address, client port, request socket): one at a time, whatever the client asks. The pool
is one calloc, so that a transfer begins without an allocation, and pages never used are never there.

Invariant: every session is either in exactly one bucket or in the free list; a queued one stands in one line, that of
its own TID or one of tftp_shares. What a session does is tftp_service's; which TID it gets as well.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from bootplane.core.deadlines cimport deadline_t, deadlines_append, deadlines_remove
from bootplane.core.linux cimport AF_INET, sockaddr_in, sockaddr_in6
from bootplane.core.status cimport ST_NOMEM, ST_OK
from bootplane.core.tftp_tids cimport peer_equal, peer_hash

cdef enum:
    STRANGER_NS = 200000000          # by then an ACK has come, of whoever is as far away as a rack's machines are


cdef int sessions_init(sessions_t* s, uint32_t room, uint64_t seed) noexcept nogil:
    cdef uint64_t buckets = 64
    memset(s, 0, sizeof(sessions_t))
    while buckets < <uint64_t>room * 2:
        buckets *= 2
    s.all = <session_t*>calloc(room, sizeof(session_t))
    s.buckets = <session_t**>calloc(buckets, sizeof(session_t*))
    if s.all == NULL or s.buckets == NULL:
        sessions_free(s)
        return ST_NOMEM
    s.mask = buckets - 1
    s.seed = seed
    s.room = room
    s.strangers.span_ns = STRANGER_NS
    return ST_OK


cdef void sessions_free(sessions_t* s) noexcept nogil:
    free(s.all)
    free(s.buckets)
    memset(s, 0, sizeof(sessions_t))


cdef session_t* session_find(const sessions_t* s, const peer_t* peer) noexcept nogil:
    cdef session_t* session = s.buckets[peer_hash(peer, s.seed) & s.mask]
    while session != NULL and not peer_equal(&session.peer, peer):
        session = session.next
    return session


cdef session_t* session_new(sessions_t* s, const peer_t* peer, int64_t now_ns) noexcept nogil:
    cdef uint64_t bucket = peer_hash(peer, s.seed) & s.mask
    cdef session_t* session = s.free
    if session != NULL:
        s.free = session.next
    elif s.count < s.room:
        session = &s.all[s.count]    # none is free, so the first `count` are in use: the next has never been
    else:
        return NULL
    memset(session, 0, sizeof(session_t) - sizeof(session.name))
    session.peer = peer[0]
    session.next = s.buckets[bucket]
    s.buckets[bucket] = session
    s.count += 1
    deadlines_append(&s.strangers, &session.stranger, now_ns)        # taken out in session_heard or session_drop
    return session


cdef void session_drop(sessions_t* s, session_t* session) noexcept nogil:
    cdef session_t** at = &s.buckets[peer_hash(&session.peer, s.seed) & s.mask]
    while at[0] != session:
        at = &at[0].next
    at[0] = session.next
    session_heard(s, session)
    session.next = s.free
    s.free = session
    s.count -= 1


cdef void session_heard(sessions_t* s, session_t* session) noexcept nogil:
    if session.stranger.due_ns != 0:
        deadlines_remove(&s.strangers, &session.stranger)
        session.stranger.due_ns = 0


cdef session_t* session_strangest(const sessions_t* s, int64_t now_ns) noexcept nogil:
    cdef deadline_t* first = s.strangers.first
    if first == NULL or first.due_ns > now_ns:
        return NULL
    return <session_t*>(<char*>first - <size_t>&(<session_t*>NULL).stranger)


cdef session_t* session_any(const sessions_t* s) noexcept nogil:
    cdef uint64_t i
    if s.count == 0:
        return NULL
    for i in range(s.mask + 1):
        if s.buckets[i] != NULL:
            return s.buckets[i]
    return NULL


cdef void peer_of(const sockaddr_storage* address, uint32_t listener, peer_t* out) noexcept nogil:
    cdef const sockaddr_in* v4 = <const sockaddr_in*>address
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>address
    memset(out, 0, sizeof(peer_t))
    out.listener = listener
    if address.ss_family == AF_INET:
        memcpy(out.address, &v4.sin_addr, 4)
        out.family_port = (<uint32_t>v4.sin_family << 16) | v4.sin_port
    else:
        memcpy(out.address, &v6.sin6_addr, 16)
        out.scope = v6.sin6_scope_id
        out.family_port = (<uint32_t>v6.sin6_family << 16) | v6.sin6_port


# -- lines -----------------------------------------------------------------------------------------------------------

cdef void line_append(line_t* line, session_t* session) noexcept nogil:
    session.after = NULL
    session.before = line.last
    if line.last != NULL:
        line.last.after = session
    else:
        line.first = session
    line.last = session


cdef void line_prepend(line_t* line, session_t* session) noexcept nogil:
    session.before = NULL
    session.after = line.first
    if line.first != NULL:
        line.first.before = session
    else:
        line.last = session
    line.first = session


cdef void line_remove(line_t* line, session_t* session) noexcept nogil:
    if session.before != NULL:
        session.before.after = session.after
    else:
        line.first = session.after
    if session.after != NULL:
        session.after.before = session.before
    else:
        line.last = session.before


cdef void ready_push(session_t* session) noexcept nogil:
    if session.queued == QUEUED_NOT:
        session.queued = QUEUED_READY
        line_append(&session.tid.ready, session)


cdef void ready_push_front(session_t* session) noexcept nogil:
    if session.queued == QUEUED_NOT:
        session.queued = QUEUED_READY
        line_prepend(&session.tid.ready, session)


cdef void ready_remove(session_t* session) noexcept nogil:
    if session.queued == QUEUED_READY:
        session.queued = QUEUED_NOT
        line_remove(&session.tid.ready, session)
