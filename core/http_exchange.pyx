"""One HTTP connection as a state machine: what to do next, given the bytes and events so far.

Invariant: a response head is written only when the first byte it promises can be sent, and once it is written the
promise is kept to the last byte or the connection is reset; no client ever sees a clean end of a short body. Each
request is answered before the next one is read, so responses keep the order of the requests.

Leaves to others: sockets, timers and queues (http_service), moving bytes (sender), the wording of replies
(http_response).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from bootplane.core.counters cimport (
    C_COALESCED, C_HITS, C_HTTP_BODY_BYTES, C_HTTP_CLIENT_ERROR, C_HTTP_CUT, C_HTTP_NOT_MODIFIED, C_HTTP_OK,
    C_HTTP_PARTIAL, C_HTTP_REQUESTS, C_HTTP_SERVER_ERROR, C_LOOKUPS, C_MISSES, C_NAMES_DYNAMIC, C_NAMES_FOUND,
    C_NAMES_UNKNOWN, count, count_n,
)
from bootplane.core.http_head cimport (
    FIELD_IF_RANGE, FIELD_USER_AGENT, HEAD_CLOSE, HEAD_KEEP_ALIVE, HEAD_TRANSFER, MAX_HEAD, METHOD_HEAD, METHOD_OTHER,
    head_scan, head_t, slice_t, target_path,
)
from bootplane.core.http_range cimport precondition
from bootplane.core.http_record cimport pending_drop, pending_end, pending_new
from bootplane.core.http_response cimport (
    CONNECTION_CLOSE, CONNECTION_IMPLIED, CONNECTION_KEEP, refusal_t, response_file, response_refusal,
)
from bootplane.core.linux cimport off_t
from bootplane.core.records cimport (
    OUTCOME_ABORTED, OUTCOME_COMPLETE, OUTCOME_CUT, OUTCOME_REFUSED, OUTCOME_TIMEOUT, SOURCE_DYNAMIC, SOURCE_HIT,
)
from bootplane.core.segments cimport blob_release, blob_retain, blob_t
from bootplane.core.status cimport (
    ST_AGAIN, ST_GONE, ST_MISMATCH, ST_OK, ST_TIMEOUT, ST_UNKNOWN, ST_UPSTREAM,
)
from bootplane.core.table cimport (
    MAX_NAME, NAME_CONTROL, NAME_DYNAMIC, name_kind, name_normalise, table_find, table_is_gone,
)

cdef enum:
    PATH_ROOM = 2048                 # bytes of a decoded path; a name that is longer even with its slashes is nobody's
    RETRY_AFTER_S = 5                # a fill that could not be had now is tried again by then


cdef int connection_of(const exchange_t* x) noexcept nogil:
    if not x.flags & EXCHANGE_KEEP:
        return CONNECTION_CLOSE
    return CONNECTION_KEEP if x.flags & EXCHANGE_OLD else CONNECTION_IMPLIED


cdef void begin_record(exchange_t* x, scene_t* scene, const head_t* h) noexcept nogil:
    """Of the request whose name is in the scene; a name without a canonical form is kept as it came."""
    cdef const slice_t* agent = &h.field[<int>FIELD_USER_AGENT]
    x.requests += 1
    if scene.name_length:
        x.pending = pending_new(&scene.journal, scene.name, scene.name_length, agent.at, agent.n)
    else:
        x.pending = pending_new(&scene.journal, h.target.at, h.target.n, agent.at, agent.n)


cdef void exchange_record(exchange_t* x, scene_t* scene, int outcome) noexcept nogil:
    cdef int64_t sent = 0
    if x.pending == NULL:
        return
    if x.blob != NULL:
        sent = x.offset - x.pending.offset
    pending_end(&scene.journal, x.pending, outcome, sent, (x.flags & EXCHANGE_BODYLESS) != 0, x.requests)
    x.pending = NULL


cdef void exchange_handed_over(exchange_t* x, scene_t* scene) noexcept nogil:
    pending_drop(&scene.journal, x.pending)
    x.pending = NULL


cdef int counter_of(int status) noexcept nogil:
    if status == 200:
        return C_HTTP_OK
    if status == 206:
        return C_HTTP_PARTIAL
    if status == 304:
        return C_HTTP_NOT_MODIFIED
    return C_HTTP_CLIENT_ERROR if status < 500 else C_HTTP_SERVER_ERROR


cdef void count_status(exchange_t* x, scene_t* scene, int status) noexcept nogil:
    if x.pending != NULL:
        x.pending.status = <unsigned short>status
    count(scene.counters, counter_of(status))


cdef void let_go(exchange_t* x, scene_t* scene) noexcept nogil:
    if x.blob != NULL:
        if not x.flags & EXCHANGE_WAITED:
            count(scene.counters, C_HITS)
        else:
            count(scene.counters, C_MISSES if x.flags & EXCHANGE_FIRST else C_COALESCED)
        blob_release(x.blob)         # retained in plan()
        x.blob = NULL


cdef int say(exchange_t* x, scene_t* scene, int status, const char* why, uint32_t retry_after_s, bint named,
             off_t size) noexcept nogil:
    """Writes a refusal. Whoever asked for a file that had to be waited for is told its digest if its name is gone.

    GRUB 2.06 forgets the status of a reply whose head is whole: the text of a 404 or 503 is a configuration to it, or
    the initrd that it boots a kernel with (both seen; an empty body is an empty initrd). A head that promises a byte,
    and a reset instead of it, is an error to every command of its, at once.
    """
    cdef refusal_t r
    if x.flags & EXCHANGE_GRUB:
        x.flags &= ~EXCHANGE_KEEP
    r.status = status
    r.connection = connection_of(x)
    r.name = NULL
    r.name_length = 0
    if named and scene.name_length:
        r.name = scene.name
        r.name_length = scene.name_length
    elif named and x.blob != NULL:
        r.name = x.blob.etag
        r.name_length = 66
    r.why = why
    r.retry_after_s = retry_after_s
    r.size = size
    r.allow = status == 405
    r.no_body = (x.flags & EXCHANGE_BODYLESS) != 0
    r.is_cut = (x.flags & EXCHANGE_GRUB) != 0
    scene.length = response_refusal(scene.out, scene.date, &r, &scene.head_length)
    count_status(x, scene, status)
    let_go(x, scene)
    x.status = <unsigned short>status
    x.state = EXCHANGE_TEXT
    return DO_TEXT


cdef int plan(exchange_t* x, scene_t* scene, const char* data, const head_t* h, blob_t* blob) noexcept nogil:
    """The response to a GET or HEAD of a blob that exists."""
    cdef off_t first = 0
    cdef off_t end = 0
    cdef int status = precondition(data, h, blob.etag, blob.size, &first, &end)
    if x.pending != NULL:
        x.pending.size = blob.size
        x.pending.offset = first
    if status == 412:
        return say(x, scene, 412, b"the file is not the one that If-Match names", 0, True, 0)
    if status == 416:
        return say(x, scene, 416, b"the range lies outside of the file", 0, True, blob.size)
    x.status = <unsigned short>status
    if status == 304 or x.flags & EXCHANGE_BODYLESS or first == end:
        scene.length = response_file(scene.out, scene.date, blob, status, first, end, connection_of(x))
        scene.head_length = scene.length
        count_status(x, scene, status)
        x.state = EXCHANGE_TEXT
        return DO_TEXT
    if x.pending != NULL and x.pending.source != SOURCE_DYNAMIC:
        x.pending.source = SOURCE_HIT
    blob_retain(blob)                # released in let_go()
    x.blob = blob
    x.offset = first
    x.end = end
    x.state = EXCHANGE_BODY
    return DO_SEND


cdef int name_of(scene_t* scene, const head_t* h) noexcept nogil:
    """Puts the request's name into the scene. 0, or the status it is refused with."""
    cdef char path[PATH_ROOM]
    cdef int n = target_path(h.target.at, h.target.n, path, PATH_ROOM)
    scene.name_length = 0
    if n == -2:
        return 404
    if n >= 0:
        n = name_normalise(path, <size_t>n, scene.name)
        if n < 0 and h.target.n > MAX_NAME:
            return 404               # too long for a name
    if n < 0:
        return 400
    scene.name_length = <uint32_t>n
    return 0


cdef int route(exchange_t* x, scene_t* scene, const char* data, const head_t* h) noexcept nogil:
    cdef bint has_body = h.content_length > 0 or h.flags & HEAD_TRANSFER
    cdef int status
    cdef int kind
    cdef blob_t* blob
    status = name_of(scene, h)
    begin_record(x, scene, h)
    if h.method == METHOD_OTHER or has_body:
        if scene.control:
            return DO_HAND_OVER
        if has_body:                 # it is not read, so the next request cannot be found
            x.flags &= ~EXCHANGE_KEEP
        if h.method == METHOD_OTHER:
            return say(x, scene, 405, b"only GET and HEAD are answered here", 0, False, 0)
        return say(x, scene, 400, b"a GET or HEAD with a body is not answered here", 0, False, 0)
    if status == 400:
        return say(x, scene, 400, b"the target names no file", 0, False, 0)
    kind = name_kind(scene.name, scene.name_length) if status == 0 else -1
    if kind == NAME_CONTROL and scene.control:
        return DO_HAND_OVER
    count(scene.counters, C_LOOKUPS)
    if kind == NAME_DYNAMIC:
        count(scene.counters, C_NAMES_DYNAMIC)
        if x.pending != NULL:
            x.pending.source = SOURCE_DYNAMIC
        x.state = EXCHANGE_ASKED
        return DO_ASK
    blob = NULL
    if status == 0 and scene.table != NULL and kind != NAME_CONTROL:
        blob = table_find(scene.table, scene.name, scene.name_length)
    if blob == NULL:
        count(scene.counters, C_NAMES_UNKNOWN)
        if scene.table == NULL and kind != NAME_CONTROL:
            return say(x, scene, 503, b"no catalogue has arrived yet", RETRY_AFTER_S, True, 0)
        if status == 0 and scene.table != NULL and table_is_gone(scene.table, scene.name, scene.name_length):
            return say(x, scene, 410, b"the file was removed", 0, True, 0)
        return say(x, scene, 404, b"no file has this name", 0, True, 0)
    count(scene.counters, C_NAMES_FOUND)
    return plan(x, scene, data, h, blob)


cdef int exchange_feed(exchange_t* x, scene_t* scene, const char* data, size_t n) noexcept nogil:
    cdef head_t h
    cdef int status
    if x.seen and n < MAX_HEAD and memchr(data + x.seen, 10, n - x.seen) == NULL:
        x.seen = <uint32_t>n         # no line ended since the last look: a client that sends byte by byte costs little
        return DO_READ
    status = head_scan(data, n, &h)
    if status == ST_AGAIN:
        x.seen = <uint32_t>n
        return DO_READ
    x.seen = 0
    x.flags = 0
    x.head_bytes = h.size
    count(scene.counters, C_HTTP_REQUESTS)
    if h.method == METHOD_HEAD:
        x.flags |= EXCHANGE_BODYLESS
    if status != ST_OK:
        x.head_bytes = <uint32_t>n
        name_of(scene, &h)
        begin_record(x, scene, &h)
        return say(x, scene, status, h.why, 0, False, 0)
    if h.minor == 0:
        x.flags |= EXCHANGE_OLD
    if h.field[<int>FIELD_USER_AGENT].n >= 4 and memcmp(h.field[<int>FIELD_USER_AGENT].at, b"GRUB", 4) == 0:
        x.flags |= EXCHANGE_GRUB
    if not scene.draining and not h.flags & HEAD_CLOSE and (h.minor or h.flags & HEAD_KEEP_ALIVE):
        x.flags |= EXCHANGE_KEEP
    return route(x, scene, data, &h)


cdef int exchange_answer(exchange_t* x, scene_t* scene, const char* data, size_t n, int status,
                         blob_t* blob) noexcept nogil:
    cdef head_t h
    head_scan(data, n, &h)           # it was read before, when the question was asked
    name_of(scene, &h)
    if scene.draining:
        x.flags &= ~EXCHANGE_KEEP
    if blob != NULL:
        return plan(x, scene, data, &h, blob)
    if status == ST_UNKNOWN:
        return say(x, scene, 404, b"nobody has this name", 0, True, 0)
    if status == ST_TIMEOUT:
        return say(x, scene, 503, b"no answer came in time", RETRY_AFTER_S, True, 0)
    return say(x, scene, 503, b"it cannot be made now", RETRY_AFTER_S, True, 0)


cdef void exchange_head(exchange_t* x, scene_t* scene) noexcept nogil:
    if scene.draining:
        x.flags &= ~EXCHANGE_KEEP
    scene.length = response_file(scene.out, scene.date, x.blob, x.status, x.offset, x.end, connection_of(x))
    scene.head_length = scene.length
    x.flags |= EXCHANGE_BEGUN
    count_status(x, scene, x.status)


cdef void exchange_take_back(exchange_t* x, scene_t* scene) noexcept nogil:
    x.flags &= ~EXCHANGE_BEGUN
    count_n(scene.counters, counter_of(x.status), <uint64_t>-1)


cdef int answered(exchange_t* x, scene_t* scene) noexcept nogil:
    cdef bint keep = (x.flags & EXCHANGE_KEEP) != 0      # draining or not: what was promised may have been used
    cdef bint is_cut = x.flags & EXCHANGE_GRUB and x.status >= 400
    exchange_record(x, scene, OUTCOME_REFUSED if x.status >= 400 else OUTCOME_COMPLETE)
    let_go(x, scene)
    x.head_bytes = 0
    x.flags = 0                      # of that request alone: a 408 for the next one must not think it was a HEAD
    x.state = EXCHANGE_HEAD if keep else EXCHANGE_ENDED
    if is_cut:
        return DO_RESET
    return DO_READ if keep else DO_CLOSE


cdef int exchange_sent(exchange_t* x, scene_t* scene, size_t n) noexcept nogil:
    count_n(scene.counters, C_HTTP_BODY_BYTES, n)
    x.offset += <off_t>n
    if x.offset < x.end:
        return DO_SEND
    return answered(x, scene)


cdef int exchange_text_sent(exchange_t* x, scene_t* scene) noexcept nogil:
    return answered(x, scene)


cdef int exchange_absent(exchange_t* x) noexcept nogil:
    x.flags |= EXCHANGE_WAITED
    x.state = EXCHANGE_PARKED
    return DO_PARK


cdef int exchange_damaged(exchange_t* x) noexcept nogil:
    exchange_absent(x)
    return DO_MEND


cdef int ask_again(exchange_t* x, scene_t* scene, const char* data, const head_t* h) noexcept nogil:
    """What was parked is gone, and none of it was sent: the name may mean another file by now.

    Who asks for a later part has an earlier one of the file that is gone, unless If-Range says what it has.
    """
    cdef blob_t* before = x.blob
    cdef blob_t* blob = NULL
    cdef int source = x.pending.source if x.pending != NULL else 0
    cdef int action
    if scene.table != NULL:
        blob = table_find(scene.table, scene.name, scene.name_length)
    if blob == before:
        return say(x, scene, 503, b"it was removed where it came from", RETRY_AFTER_S, True, 0)
    if blob == NULL or (x.offset > 0 and h.field[<int>FIELD_IF_RANGE].n == 0):
        return say(x, scene, 410, b"the file was removed", 0, True, 0)
    x.blob = NULL
    action = plan(x, scene, data, h, blob)
    if x.pending != NULL:
        x.pending.source = <uint8_t>source               # it has waited, whatever comes now
    blob_release(before)             # retained in plan(), the first time
    return action


cdef int exchange_wake(exchange_t* x, scene_t* scene, const char* data, size_t n, int status) noexcept nogil:
    cdef head_t h
    cdef const char* why = b"its bytes cannot be had now"
    if status == ST_OK:
        x.state = EXCHANGE_BODY
        return DO_SEND
    if x.flags & EXCHANGE_BEGUN:
        return exchange_cut(x, scene)
    if status == ST_TIMEOUT:
        why = b"its bytes did not arrive in time"
    elif status == ST_UPSTREAM or status == ST_MISMATCH:
        why = b"no source has its right bytes"
    elif status == ST_GONE:
        why = b"it was removed where it came from"
    scene.name_length = 0
    if scene.draining:
        x.flags &= ~EXCHANGE_KEEP
    if n and head_scan(data, n, &h) == ST_OK and name_of(scene, &h) == 0 and status == ST_GONE:
        return ask_again(x, scene, data, &h)
    return say(x, scene, 503, why, RETRY_AFTER_S, True, 0)


cdef int exchange_cut(exchange_t* x, scene_t* scene) noexcept nogil:
    count(scene.counters, C_HTTP_CUT)
    exchange_record(x, scene, OUTCOME_CUT)
    let_go(x, scene)
    x.state = EXCHANGE_ENDED
    return DO_RESET


cdef int exchange_expire(exchange_t* x, scene_t* scene, int deadline) noexcept nogil:
    if deadline == DEADLINE_SEND:
        exchange_record(x, scene, OUTCOME_TIMEOUT)
        return exchange_cut(x, scene)
    if deadline == DEADLINE_HEAD:
        return exchange_refuse(x, scene, 408, b"the request head was not finished in time", 0)
    x.state = EXCHANGE_ENDED
    return DO_CLOSE


cdef int exchange_refuse(exchange_t* x, scene_t* scene, int status, const char* why,
                         uint32_t retry_after_s) noexcept nogil:
    x.flags &= ~EXCHANGE_KEEP
    if x.pending == NULL:
        x.pending = pending_new(&scene.journal, "", 0, "", 0)
        if x.pending != NULL:
            x.pending.unread = 1
    return say(x, scene, status, why, retry_after_s, False, 0)


cdef void exchange_drop(exchange_t* x, scene_t* scene) noexcept nogil:
    exchange_record(x, scene, OUTCOME_ABORTED)
    let_go(x, scene)
    x.state = EXCHANGE_ENDED
