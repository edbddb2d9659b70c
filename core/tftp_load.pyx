"""load(): drive a TFTP server from one thread with many transfers at once and say what it did.

Every transfer has a socket of its own, as every booting machine has; all of them run on one epoll without the GIL. In
lockstep a datagram costs one receive and one send, with windows one recvmmsg() takes what has arrived. Payload is not
copied unless it is verified. No UDP_GRO: firmware has none, and the server would be spared the cutting of its segments.
fetch() for one file is in tftp_fetch.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from cpython.exc cimport PyErr_CheckSignals
from bootplane.core.client cimport (
    authority, body_digest, body_free, endpoint_find, endpoint_t, histogram_add, histogram_quantile, histogram_t,
    thread_cpu_ns, trouble_quote, trouble_set,
)
from bootplane.core.linux cimport (
    EINTR, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, SOCK_DGRAM, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
    errno, monotonic_ns,
)
from bootplane.core.status cimport ST_AGAIN, ST_OK, check
from bootplane.core.tftp_client cimport TFTP_NAME_ROOM, TX_DIGEST, TX_LOCAL, tftp_get_t, tftp_raise, tftp_sentence
from bootplane.core.tftp_flow cimport (
    arena_free, arena_init, arena_t, flow_begin, flow_close, flow_expire, flow_step, flow_t, flow_tick,
)

from bootplane.core.client import Fetch, LoadResult  # no-cython-lint: public names of the TFTP client
from bootplane.core.tftp_fetch import fetch, probe  # no-cython-lint

cdef enum:
    EVENTS_AT_ONCE = 256
    FAILURES_IN_A_ROW = 3        # then a client's place stays empty, or a dead server would be asked for ever
    LOOK_NS = 20000000           # how often deadlines are looked at


cdef struct place_t:             # one simulated client
    flow_t flow
    uint32_t failures            # in a row
    uint8_t busy

cdef struct load_t:
    int epfd                     # owned by load()
    place_t* places              # owned by load()
    uint32_t count
    uint32_t busy
    uint64_t begun
    uint64_t most                # transfers
    int64_t timeout_ns           # for one transfer
    int64_t look_ns              # next look at deadlines
    uint64_t verify_every
    uint8_t promised[32]
    arena_t arena
    uint64_t done
    uint64_t bytes
    uint64_t errors
    uint64_t verified
    tftp_get_t failed            # copy of the first that failed, for its sentence
    histogram_t times


cdef int place_result(load_t* l, place_t* p, int status, int64_t now) noexcept nogil:
    """Count a transfer that has ended; ST_OK, or the failure that is ours and ends the run."""
    cdef flow_t* f = &p.flow
    cdef uint8_t digest[32]
    cdef char hexed[65]
    cdef int i
    l.bytes += f.get.bytes
    if status == ST_OK and f.body.hashing:
        status = body_digest(&f.body, digest)
        if status != ST_OK:
            return status
        if memcmp(digest, l.promised, 32) == 0:
            l.verified += 1
        else:
            for i in range(32):
                snprintf(hexed + 2 * i, 3, b"%02x", digest[i])
            trouble_set(&f.get.trouble, TX_DIGEST, 0, -1, 0)
            trouble_quote(&f.get.trouble, hexed, 64)
    if f.get.trouble.cause == 0:
        p.failures = 0
        l.done += 1
        histogram_add(&l.times, now - f.started_ns)
        return ST_OK
    if l.errors == 0 or f.get.trouble.cause == TX_LOCAL:
        l.failed = f.get
    if f.get.trouble.cause == TX_LOCAL:
        return status
    l.errors += 1
    p.failures += 1
    return ST_OK


cdef int place_begin(load_t* l, place_t* p, int64_t now) noexcept nogil:
    """Begin the next transfer of *p*, or let it rest when there is none."""
    cdef flow_t* f = &p.flow
    cdef epoll_event event
    cdef int status
    if l.begun >= l.most or p.failures >= FAILURES_IN_A_ROW:
        p.busy = 0
        l.busy -= 1
        return ST_OK
    l.begun += 1
    f.body.hashing = l.verify_every and l.begun % l.verify_every == 0
    status = flow_begin(f, now)
    if status == ST_AGAIN:
        event.events = EPOLLIN
        event.data.ptr = p
        if epoll_ctl(l.epfd, EPOLL_CTL_ADD, f.fd, &event) < 0:      # closing the socket takes it out
            return -errno
    return status


cdef int place_drive(load_t* l, place_t* p, int status, int64_t now) noexcept nogil:
    """Carry on from *status* of the last call on the place's transfer until it has to wait or rests."""
    while p.busy and status != ST_AGAIN:
        status = place_result(l, p, status, now)
        if status != ST_OK:
            return status
        status = place_begin(l, p, now)
        if status < 0 and p.flow.get.trouble.cause == 0:            # epoll refused
            return status
    return ST_OK


cdef int load_start(load_t* l, int64_t now) noexcept nogil:
    """The first transfer of every client. ST_AGAIN: go on with load_run."""
    cdef uint32_t i
    cdef place_t* p
    cdef int status
    for i in range(l.count):
        p = &l.places[i]
        p.busy = 1
        l.busy += 1
        status = place_begin(l, p, now)
        if status < 0 and p.flow.get.trouble.cause == 0:
            return status
        status = place_drive(l, p, status, now)
        if status != ST_OK:
            return status
    return ST_AGAIN


cdef int load_run(load_t* l) noexcept nogil:
    """Until every transfer has ended. -EINTR: a signal came, call again."""
    cdef epoll_event events[EVENTS_AT_ONCE]
    cdef int64_t now = monotonic_ns()
    cdef uint32_t k
    cdef place_t* p
    cdef int n, i, status
    while l.busy:
        n = epoll_wait(l.epfd, events, EVENTS_AT_ONCE, <int>(max(l.look_ns - now, <int64_t>0) // 1000000 + 1))
        if n < 0:
            return -errno
        now = monotonic_ns()
        for i in range(n):
            p = <place_t*>events[i].data.ptr
            status = place_drive(l, p, flow_step(&p.flow, &l.arena, now), now)
            if status != ST_OK:
                return status
        if now >= l.look_ns:
            l.look_ns = now + LOOK_NS
            for k in range(l.count):
                p = &l.places[k]
                if not p.busy:
                    continue
                status = ST_AGAIN
                if now - p.flow.started_ns >= l.timeout_ns:
                    status = flow_expire(&p.flow)
                elif now >= p.flow.get.deadline_ns:
                    status = flow_tick(&p.flow, now)
                status = place_drive(l, p, status, now)
                if status != ST_OK:
                    return status
    return ST_OK


def load(
    str host not None, int port, str name not None, *, int clients, int transfers, int blksize=1428, int windowsize=1,
    tsize=True, verify_every=0, str sha256 not None="", int drop_every=0, double lose=0.0,
    double repeat=0.0, double swap=0.0, seed=1, timeout_s=60.0, retry_s=1.0, str source not None="",
):
    """Read *name* *transfers* times in all, by *clients* at once, from this thread.

    *verify_every* N hashes each Nth file and compares it with *sha256*. *drop_every* N loses each Nth DATA of a
    transfer on arrival. *lose*, *repeat* and *swap* are parts of all datagrams, DATA and ACKs, that are lost, come
    twice, or are overtaken by the next; which ones follows from *seed*. Options as with fetch(), but a server that
    answers ERROR 8 has failed.

    A failed transfer is counted; after three failures in a row a client rests. Raises OSError for what fails here (no
    descriptors), never for what the server did.
    """
    cdef load_t* l = NULL
    cdef endpoint_t server, local
    cdef uint32_t i
    cdef place_t* p
    cdef int status
    cdef bytes raw = name.encode()
    cdef bytes promised
    cdef int64_t began, ended, cpu
    cdef uint64_t lost = 0
    if clients < 1 or transfers < 1 or verify_every < 0 or drop_every < 0 or not (0 < timeout_s < 1e9 and retry_s > 0):
        raise ValueError("expected clients, transfers >= 1, verify_every, drop_every >= 0, timeout_s, retry_s > 0, "
                         f"got {clients}, {transfers}, {verify_every}, {drop_every}, {timeout_s} and {retry_s}")
    if not 0 < len(raw) <= TFTP_NAME_ROOM or 0 in raw:
        raise ValueError(f"expected a name of 1 to {TFTP_NAME_ROOM} bytes without NUL, got {name!r}")
    if not (blksize == 0 or 8 <= blksize <= 65464) or not 1 <= windowsize <= 65535:
        raise ValueError("expected blksize 0 (not sent) or 8 to 65464 and windowsize 1 to 65535, got "
                         f"{blksize} and {windowsize}")
    if not (0 <= lose < 1 and 0 <= repeat < 1 and 0 <= swap < 1):
        raise ValueError(f"expected lose, repeat and swap from 0 to below 1, got {lose}, {repeat} and {swap}")
    promised = bytes.fromhex(sha256)
    if len(promised) != (32 if verify_every else 0):
        raise ValueError(f"sha256: expected {64 if verify_every else 0} hex digits with verify_every="
                         f"{verify_every}, got {len(sha256)}")
    what = f"tftp://{authority(host, port)}/{name}"
    endpoint_find(host, port, SOCK_DGRAM, &server)
    local.length = 0
    if source:
        endpoint_find(source, 0, SOCK_DGRAM, &local)
    l = <load_t*>calloc(1, sizeof(load_t))       # freed below with all it owns
    if l is NULL:
        raise MemoryError(what)
    l.epfd = -1
    try:
        l.count = min(clients, transfers)
        l.most = transfers
        l.timeout_ns = <int64_t>(timeout_s * 1e9)
        l.verify_every = verify_every
        memcpy(l.promised, <const char*>promised, len(promised))
        check(arena_init(&l.arena, blksize), what)
        l.places = <place_t*>calloc(l.count, sizeof(place_t))
        if l.places is NULL:
            raise MemoryError(what)
        for i in range(l.count):
            p = &l.places[i]
            p.flow.fd = -1
            p.flow.server = &server
            p.flow.source = &local
            p.flow.name = raw
            p.flow.name_size = len(raw)
            p.flow.drop_every = drop_every
            p.flow.network.lose = <uint32_t>(lose * 65536)
            p.flow.network.repeat = <uint32_t>(repeat * 65536)
            p.flow.network.swap = <uint32_t>(swap * 65536)
            p.flow.network.state = (<uint64_t>seed + i) * <uint64_t>0x9E3779B97F4A7C15 | 1
            p.flow.get.ask_blksize = blksize
            p.flow.get.ask_windowsize = windowsize
            p.flow.get.ask_tsize = bool(tsize)
            p.flow.get.retry_ns = <int64_t>(<double>retry_s * 1e9)
            p.flow.get.retries = 8
        l.epfd = epoll_create1(EPOLL_CLOEXEC)
        if l.epfd < 0:
            raise OSError(errno, f"{what}: epoll")
        cpu = thread_cpu_ns()
        began = monotonic_ns()
        l.look_ns = began + LOOK_NS
        with nogil:
            status = load_start(l, began)
        while status == ST_AGAIN or status == -EINTR:
            with nogil:
                status = load_run(l)
            PyErr_CheckSignals()
        ended = monotonic_ns()
        for i in range(l.count):
            lost += l.places[i].flow.network.lost
        if status != ST_OK:
            tftp_raise(&l.failed, status, what)
        return LoadResult(l.done, l.bytes, l.errors, (ended - began) * 1e-9, (thread_cpu_ns() - cpu) * 1e-9,
                          histogram_quantile(&l.times, 0.5), histogram_quantile(&l.times, 0.99), l.verified,
                          tftp_sentence(&l.failed, what, sha256.lower()) if l.errors else "", lost=lost)
    finally:
        if l.places is not NULL:
            for i in range(l.count):
                if l.places[i].flow.server is not NULL:
                    flow_close(&l.places[i].flow)
                    body_free(&l.places[i].flow.body)
        if l.epfd >= 0:
            close(l.epfd)
        arena_free(&l.arena)
        free(l.places)
        free(l)
