"""load(): drive an HTTP server from one thread and say what it did.

All connections run on one epoll without the GIL; a signal brings them back to Python for a moment, so Ctrl-C works. One
request is under way on a connection at a time, as with firmware. Bodies are dropped in the kernel (MSG_TRUNC) unless
they are verified: it measures the server, not itself. fetch() for one file is in http_fetch.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from cpython.exc cimport PyErr_CheckSignals
from bootplane.core.client cimport (
    SCRATCH_ROOM, authority, body_digest, endpoint_find, endpoint_t, histogram_add, histogram_quantile, histogram_t,
    thread_cpu_ns, trouble_quote, trouble_set,
)
from bootplane.core.http_client cimport (
    HC_CONNECTING, HX_DIGEST, HX_LOCAL, HX_STATUS, http_client_begin, http_client_close, http_client_events,
    http_client_expire, http_client_free, http_client_init, http_client_step, http_client_t, http_raise,
    http_request_head, http_sentence,
)
from bootplane.core.linux cimport (
    EINTR, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, SOCK_STREAM, close, epoll_create1, epoll_ctl, epoll_event,
    epoll_wait, errno, monotonic_ns,
)
from bootplane.core.status cimport ST_AGAIN, ST_OK, check

from bootplane.core.client import Fetch, LoadResult  # no-cython-lint: public names of the HTTP client
from bootplane.core.http_client import USER_AGENT  # no-cython-lint
from bootplane.core.http_fetch import fetch  # no-cython-lint

cdef enum:
    EVENTS_AT_ONCE = 256
    REQUEST_ROOM = 64            # bytes of a Range line with two 63-bit numbers and the end of the head
    FAILURES_IN_A_ROW = 3        # then a connection's place stays empty, or a dead server would be asked for ever
    LOOK_NS = 200000000          # how often stalled connections are looked for


cdef struct slot_t:              # one place for a connection
    http_client_t client
    uint32_t generation          # of the connection that is in the epoll
    uint32_t events              # registered for
    uint32_t failures            # in a row
    uint8_t busy
    char* request                # owned; only when each request has its own range

cdef struct load_t:
    int epfd                     # owned by load()
    slot_t* slots                # owned by load()
    uint32_t count
    uint32_t busy
    uint64_t begun
    uint64_t most                # requests, 0: no limit
    int64_t end_ns               # 0: no limit
    int64_t timeout_ns
    int64_t look_ns              # next look for stalled connections
    uint64_t verify_every
    const uint8_t* promised      # borrowed: 32 bytes; with ranges 32 for each
    const char* head             # borrowed: request head; without the empty line when there are ranges
    size_t head_size
    int64_t range_bytes          # 0: whole files
    int64_t range_span
    uint8_t keep_alive
    uint8_t* scratch             # owned by load()
    uint64_t done
    uint64_t bytes
    uint64_t errors
    uint64_t verified
    http_client_t failed         # copy of the first that failed, for its sentence
    histogram_t times
    histogram_t firsts           # request to first body byte


cdef int slot_result(load_t* l, slot_t* s, int status, int64_t now) noexcept nogil:
    """Count an exchange that has ended; ST_OK, or the failure that is ours and ends the run."""
    cdef http_client_t* c = &s.client
    cdef uint8_t digest[32]
    cdef char hexed[65]
    cdef int expected = 206 if l.range_bytes else 200
    cdef int64_t which = 32 * (c.ask_first // l.range_bytes) if l.range_bytes else 0
    cdef int i
    l.bytes += c.received
    if status == ST_OK and c.reply.status != expected:
        trouble_set(&c.trouble, HX_STATUS, 0, expected, c.reply.status)
        http_client_close(c)
    elif status == ST_OK and c.body.hashing:
        status = body_digest(&c.body, digest)
        if status != ST_OK:
            return status
        if memcmp(digest, l.promised + which, 32) != 0:
            for i in range(32):
                snprintf(hexed + 2 * i, 3, b"%02x", digest[i])
            trouble_set(&c.trouble, HX_DIGEST, 0, -1, 0)
            trouble_quote(&c.trouble, hexed, 64)
        else:
            l.verified += 1
    if c.trouble.cause == 0:
        s.failures = 0
        l.done += 1
        histogram_add(&l.times, now - c.started_ns)
        histogram_add(&l.firsts, c.first_ns - c.started_ns)
        if not l.keep_alive:
            http_client_close(c)
        return ST_OK
    if l.errors == 0 or c.trouble.cause == HX_LOCAL:
        l.failed = c[0]
    if c.trouble.cause == HX_LOCAL:
        return status
    l.errors += 1
    s.failures += 1
    return ST_OK


cdef int slot_begin(load_t* l, slot_t* s, int64_t now) noexcept nogil:
    """Begin the next request of *s*, or let it rest when there is none."""
    cdef http_client_t* c = &s.client
    cdef int64_t first
    if ((l.most and l.begun >= l.most) or (l.end_ns and now >= l.end_ns) or s.failures >= FAILURES_IN_A_ROW):
        http_client_close(c)
        s.busy = 0
        l.busy -= 1
        return ST_OK
    if l.range_bytes:
        first = <int64_t>(l.begun % <uint64_t>((l.range_span + l.range_bytes - 1) // l.range_bytes)) * l.range_bytes
        c.ask_first = first
        c.ask_last = min(first + l.range_bytes, l.range_span) - 1
        c.request_size = l.head_size + snprintf(s.request + l.head_size, REQUEST_ROOM,
                                                b"Range: bytes=%lld-%lld\r\n\r\n",
                                                <long long>c.ask_first, <long long>c.ask_last)
    l.begun += 1
    c.body.hashing = l.verify_every and l.begun % l.verify_every == 0
    return http_client_begin(c, now)


cdef int slot_watch(load_t* l, slot_t* s) noexcept nogil:
    cdef epoll_event event
    cdef uint32_t events = http_client_events(&s.client)
    cdef int op = EPOLL_CTL_MOD
    if s.generation != s.client.generation:      # a descriptor that was closed has left the epoll by itself
        op = EPOLL_CTL_ADD
    elif s.events == events:
        return ST_OK
    event.events = events
    event.data.ptr = s
    if epoll_ctl(l.epfd, op, s.client.fd, &event) < 0:
        return -errno
    s.generation = s.client.generation
    s.events = events
    return ST_OK


cdef int slot_drive(load_t* l, slot_t* s, int status, int64_t now) noexcept nogil:
    """Carry on from *status* of the last call on the slot's client until it has to wait or rests."""
    while True:
        if status == ST_AGAIN:
            return slot_watch(l, s)
        status = slot_result(l, s, status, now)
        if status != ST_OK:
            return status
        status = slot_begin(l, s, now)
        if not s.busy:
            return ST_OK
        if status == ST_AGAIN and s.client.state != HC_CONNECTING:
            status = http_client_step(&s.client, l.scratch, SCRATCH_ROOM, now)


cdef int load_start(load_t* l, int64_t now) noexcept nogil:
    """The first request of every connection. ST_AGAIN: go on with load_run."""
    cdef uint32_t i
    cdef slot_t* s
    cdef int status
    for i in range(l.count):
        s = &l.slots[i]
        s.busy = 1
        l.busy += 1
        status = slot_begin(l, s, now)
        if s.busy and status == ST_AGAIN and s.client.state != HC_CONNECTING:
            status = http_client_step(&s.client, l.scratch, SCRATCH_ROOM, now)
        if s.busy:
            status = slot_drive(l, s, status, now)
        if status != ST_OK:
            return status
    return ST_AGAIN


cdef int load_run(load_t* l) noexcept nogil:
    """Until every request has ended or the time is up. -EINTR: a signal came, call again."""
    cdef epoll_event events[EVENTS_AT_ONCE]
    cdef int64_t now = monotonic_ns()
    cdef int64_t until
    cdef uint32_t k
    cdef slot_t* s
    cdef int n, i, status
    while l.busy and (l.end_ns == 0 or now < l.end_ns):
        until = min(l.look_ns, l.end_ns) if l.end_ns else l.look_ns
        n = epoll_wait(l.epfd, events, EVENTS_AT_ONCE, <int>(max(until - now, <int64_t>0) // 1000000 + 1))
        if n < 0:
            return -errno
        now = monotonic_ns()
        for i in range(n):
            s = <slot_t*>events[i].data.ptr
            status = slot_drive(l, s, http_client_step(&s.client, l.scratch, SCRATCH_ROOM, now), now)
            if status != ST_OK:
                return status
        if now >= l.look_ns:
            l.look_ns = now + LOOK_NS
            for k in range(l.count):
                s = &l.slots[k]
                if s.busy and now - s.client.progress_ns > l.timeout_ns:
                    status = slot_drive(l, s, http_client_expire(&s.client), now)
                    if status != ST_OK:
                        return status
    return ST_OK


cdef str sha256_of(http_client_t* c, str sha256, range_bytes):
    """What the body of *c* was to have, of the digests given."""
    at = 64 * (c.ask_first // range_bytes) if range_bytes else 0
    return sha256[at:at + 64].lower()


def load(
    str host not None, int port, str path not None, *, int connections, requests=0, seconds=0.0, discard=True,
    verify_every=0, str sha256 not None="", range_bytes=0, range_span=0, keep_alive=True, timeout_s=60.0,
    str source not None="",
):
    """Ask for *path* over *connections* at once, again and again, from this thread.

    Ends after *requests* in all, or after *seconds* (requests then under way are cut, their bytes count); with neither
    each connection makes one. *verify_every* N hashes each Nth body and compares it with *sha256*; the others are
    dropped in the kernel, or copied and dropped without *discard*. *range_bytes* asks for one range of that size after
    another, of a file of *range_span* bytes; *sha256* is then the digest of each range, one behind the other.
    *timeout_s* is how long a connection may stand still.

    A failed request is counted and its connection made anew; after three failures in a row its place stays empty.
    Raises OSError for what fails here (no descriptors), never for what the server did.
    """
    cdef load_t* l = NULL
    cdef endpoint_t server, local
    cdef uint32_t i
    cdef slot_t* s
    cdef int status
    cdef bytes head, promised
    cdef int64_t began, ended, cpu
    if connections < 1 or requests < 0 or seconds < 0 or verify_every < 0 or not 0 < timeout_s < 1e9:
        raise ValueError("expected connections >= 1, requests, seconds and verify_every >= 0 and timeout_s > 0, got "
                         f"{connections}, {requests}, {seconds}, {verify_every} and {timeout_s}")
    if range_bytes < 0 or range_span < 0 or (range_bytes > 0) != (range_span > 0):
        raise ValueError(f"expected range_bytes and range_span together, got {range_bytes} and {range_span}")
    promised = bytes.fromhex(sha256)
    digests = ((range_span + range_bytes - 1) // range_bytes if range_bytes else 1) if verify_every else 0
    if len(promised) != 32 * digests:
        raise ValueError(f"sha256: expected {64 * digests} hex digits with verify_every={verify_every}, "
                         f"got {len(sha256)}")
    what = f"GET http://{authority(host, port)}{path}"
    head = http_request_head("GET", host, port, path, {} if keep_alive else {"Connection": "close"})
    if not range_bytes:
        head += b"\r\n"
    endpoint_find(host, port, SOCK_STREAM, &server)
    local.length = 0
    if source:
        endpoint_find(source, 0, SOCK_STREAM, &local)
    l = <load_t*>calloc(1, sizeof(load_t))       # freed below with all it owns
    if l is NULL:
        raise MemoryError(what)
    l.epfd = -1
    try:
        l.count = connections
        l.most = requests if requests or seconds else connections
        l.timeout_ns = <int64_t>(timeout_s * 1e9)
        l.verify_every = verify_every
        l.promised = <const uint8_t*><const char*>promised
        l.head = head
        l.head_size = len(head)
        l.range_bytes = range_bytes
        l.range_span = range_span
        l.keep_alive = bool(keep_alive)
        l.scratch = <uint8_t*>malloc(SCRATCH_ROOM)
        l.slots = <slot_t*>calloc(connections, sizeof(slot_t))
        if l.scratch is NULL or l.slots is NULL:
            raise MemoryError(what)
        for i in range(l.count):
            s = &l.slots[i]
            check(http_client_init(&s.client), what)
            s.client.server = &server
            s.client.source = &local
            s.client.discard = bool(discard)
            s.client.request = l.head
            s.client.request_size = l.head_size
            if range_bytes:
                s.request = <char*>malloc(l.head_size + REQUEST_ROOM)
                if s.request is NULL:
                    raise MemoryError(what)
                memcpy(s.request, l.head, l.head_size)
                s.client.request = s.request
        l.epfd = epoll_create1(EPOLL_CLOEXEC)
        if l.epfd < 0:
            raise OSError(errno, f"{what}: epoll")
        cpu = thread_cpu_ns()
        began = monotonic_ns()
        l.look_ns = began + LOOK_NS
        l.end_ns = began + <int64_t>(seconds * 1e9) if seconds else 0
        with nogil:
            status = load_start(l, began)
        while status == ST_AGAIN or status == -EINTR:
            with nogil:
                status = load_run(l)
            PyErr_CheckSignals()
        ended = monotonic_ns()
        if status != ST_OK:
            http_raise(&l.failed, status, what)
        for i in range(l.count):
            if l.slots[i].busy:                  # cut by the end of the time
                l.bytes += l.slots[i].client.received
        return LoadResult(l.done, l.bytes, l.errors, (ended - began) * 1e-9, (thread_cpu_ns() - cpu) * 1e-9,
                          histogram_quantile(&l.times, 0.5), histogram_quantile(&l.times, 0.99), l.verified,
                          http_sentence(&l.failed, what, sha256_of(&l.failed, sha256, range_bytes)) if l.errors else "",
                          histogram_quantile(&l.firsts, 0.5), histogram_quantile(&l.firsts, 1.0))
    finally:
        if l.slots is not NULL:
            for i in range(l.count):
                http_client_free(&l.slots[i].client)
                free(l.slots[i].request)
        if l.epfd >= 0:
            close(l.epfd)
        free(l.slots)
        free(l.scratch)
        free(l)
