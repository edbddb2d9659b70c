"""Crowd: thousands of HTTP connections held open at once, from one thread: idle ones, or slow readers of a large body.

What a rack of machines looks like that boot from slow links, or that fetched something and kept the connection. It is
made a batch at a time; afterwards nobody waits for events: each slow reader has its turn once in a second, where it
takes from the kernel what its rate allows, and the turns are spread over the second.

Invariant: a member that has failed is closed, counted once, and not made anew. What the answers are is the caller's
part, and load()'s (http_load): bodies are dropped in the kernel.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from cpython.exc cimport PyErr_CheckSignals
from bootplane.core.client cimport SCRATCH_ROOM, authority, endpoint_find, endpoint_t, trouble_set
from bootplane.core.http_client cimport (
    HC_BODY, HX_LOCAL, HX_LOST, HX_STATUS, http_client_begin, http_client_close, http_client_events, http_client_expire,
    http_client_free, http_client_init, http_client_step, http_client_t, http_raise, http_request_head, http_sentence,
)
from bootplane.core.linux cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, SOCK_STREAM, errno, monotonic_ns, poll, pollfd, recv, ssize_t,
)
from bootplane.core.status cimport ST_AGAIN, ST_OK, check

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_PEEK

cdef enum:
    BATCH = 256                  # connections that are made at once
    HEAD_TAKE = 1024             # most that a slow reader takes with the head of its answer
    SLICE_NS = 100000000         # how long hold() stays without a look at signals
    TURN_NS = 1000000000         # between two turns of one slow reader
    NAP_MS = 5


cdef struct member_t:
    http_client_t client
    int64_t due_ns               # its next turn
    uint8_t there                # 1: connected, and answered as it was to be

cdef struct crowd_t:
    member_t* members            # owned
    uint32_t count
    uint32_t there
    uint64_t rate                # bytes of a turn; 0: idle ones
    uint64_t bytes
    uint64_t errors
    uint8_t* scratch             # owned, SCRATCH_ROOM
    http_client_t failed         # copy of the first that failed, for its sentence


cdef void member_lost(crowd_t* w, member_t* m) noexcept nogil:
    """Counts a member whose client has failed; the facts are in its trouble."""
    if w.errors == 0 or m.client.trouble.cause == HX_LOCAL:
        w.failed = m.client
    w.errors += 1
    w.there -= m.there
    m.there = 0
    http_client_close(&m.client)


cdef bint member_ready(crowd_t* w, member_t* m, int status) noexcept nogil:
    """Whether *status* of its client is the end of being made, one way or the other."""
    cdef http_client_t* c = &m.client
    if status == ST_AGAIN and not (w.rate and c.state == HC_BODY):
        return False
    if (status == ST_OK or status == ST_AGAIN) and c.reply.status != 200:
        trouble_set(&c.trouble, HX_STATUS, 0, 200, c.reply.status)
    if c.trouble.cause == 0 and c.fd < 0:
        trouble_set(&c.trouble, HX_LOST, 0, -1, 0)
    if c.trouble.cause:
        member_lost(w, m)
    else:
        m.there = 1
        w.there += 1
    return True


cdef int crowd_make(crowd_t* w, uint32_t first, uint32_t n, int64_t deadline_ns) noexcept nogil:
    """Connects members *first* to *first* + *n* (at most BATCH). ST_OK, or -errno of what failed here."""
    cdef pollfd waiting[BATCH]
    cdef uint32_t whose[BATCH]
    cdef uint32_t left = 0
    cdef uint32_t i, kept
    cdef member_t* m
    cdef int status, found
    cdef int64_t now = monotonic_ns()
    for i in range(first, first + n):
        m = &w.members[i]
        status = http_client_begin(&m.client, now)
        if m.client.trouble.cause == HX_LOCAL:
            w.failed = m.client
            return status
        if not member_ready(w, m, status):
            whose[left] = i
            left += 1
    while left:
        for i in range(left):
            waiting[i].fd = w.members[whose[i]].client.fd
            waiting[i].events = http_client_events(&w.members[whose[i]].client)
            waiting[i].revents = 0
        found = poll(waiting, left, 100)
        if found < 0 and errno != EINTR:
            return -errno
        now = monotonic_ns()
        kept = 0
        for i in range(left):
            m = &w.members[whose[i]]
            status = ST_AGAIN
            if found > 0 and waiting[i].revents:
                status = http_client_step(&m.client, w.scratch, SCRATCH_ROOM, now)
            if status == ST_AGAIN and now >= deadline_ns:
                status = http_client_expire(&m.client)
            if m.client.trouble.cause == HX_LOCAL:
                w.failed = m.client
                return status
            if not member_ready(w, m, status):
                whose[kept] = whose[i]
                kept += 1
        left = kept
    return ST_OK


cdef void crowd_spread(crowd_t* w, int64_t now) noexcept nogil:
    cdef uint32_t i
    for i in range(w.count):
        w.members[i].due_ns = now + <int64_t>TURN_NS * i // w.count
        w.members[i].client.take_most = w.rate


cdef void crowd_read(crowd_t* w, int64_t end_ns) noexcept nogil:
    """Turns of slow readers until *end_ns*."""
    cdef uint32_t i
    cdef member_t* m
    cdef uint64_t before
    cdef int status
    cdef int64_t now = monotonic_ns()
    while now < end_ns:
        for i in range(w.count):
            m = &w.members[i]
            if not m.there or now < m.due_ns:
                continue
            m.due_ns += TURN_NS
            before = m.client.received
            status = http_client_step(&m.client, w.scratch, SCRATCH_ROOM, now)
            w.bytes += m.client.received - before
            if status == ST_OK:                  # it has the whole body
                m.there = 0
                w.there -= 1
                http_client_close(&m.client)
            elif status != ST_AGAIN:
                member_lost(w, m)
        poll(NULL, 0, NAP_MS)
        now = monotonic_ns()


cdef void crowd_look(crowd_t* w) noexcept nogil:
    """Finds idle members that the server has closed."""
    cdef uint32_t i
    cdef member_t* m
    cdef ssize_t n
    cdef char byte
    for i in range(w.count):
        m = &w.members[i]
        if not m.there:
            continue
        n = recv(m.client.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT)
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            continue
        trouble_set(&m.client.trouble, HX_LOST, errno if n < 0 else 0, -1, n)
        member_lost(w, m)


cdef class Crowd:
    """*connections* to a server that each ask for *path* once: idle afterwards, or with *rate_bytes_s* slow readers.

    *sources* are local addresses to come from, in turns; without any the kernel chooses one. *receive_buffer*: bytes
    the kernel may hold for each (SO_RCVBUF), 0: its own choice, up to megabytes. Closed by close(), or as a context
    manager.
    """

    cdef crowd_t w
    cdef endpoint_t server
    cdef endpoint_t* locals      # owned
    cdef bytes head
    cdef str what

    def __cinit__(self):
        memset(&self.w, 0, sizeof(self.w))
        self.locals = NULL

    def __init__(self, str host not None, int port, str path not None, *, int connections, rate_bytes_s=0, sources=(),
                 int receive_buffer=0):
        cdef uint32_t i
        cdef member_t* m
        if connections < 1 or rate_bytes_s < 0:
            raise ValueError(f"expected connections >= 1 and rate_bytes_s >= 0, got {connections} and {rate_bytes_s}")
        if self.w.members is not NULL:
            raise ValueError("a crowd is made once")
        self.what = f"GET http://{authority(host, port)}{path}"
        self.head = http_request_head("GET", host, port, path, {}) + b"\r\n"
        endpoint_find(host, port, SOCK_STREAM, &self.server)
        places = list(sources) or [""]
        self.locals = <endpoint_t*>calloc(len(places), sizeof(endpoint_t))     # freed in __dealloc__, as all below
        self.w.scratch = <uint8_t*>malloc(SCRATCH_ROOM)
        self.w.members = <member_t*>calloc(connections, sizeof(member_t))
        if self.locals is NULL or self.w.scratch is NULL or self.w.members is NULL:
            raise MemoryError(self.what)
        for i, place in enumerate(places):
            if place:
                endpoint_find(place, 0, SOCK_STREAM, &self.locals[i])
        self.w.count = connections
        self.w.rate = rate_bytes_s
        for i in range(self.w.count):
            m = &self.w.members[i]
            check(http_client_init(&m.client), self.what)
            m.client.server = &self.server
            m.client.source = &self.locals[i % <uint32_t>len(places)]
            m.client.request = self.head
            m.client.request_size = len(self.head)
            m.client.discard = 1
            m.client.receive_buffer = receive_buffer
            m.client.take_most = HEAD_TAKE if self.w.rate else 0

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        cdef uint32_t i
        if self.w.members is not NULL:
            for i in range(self.w.count):
                http_client_free(&self.w.members[i].client)
        free(self.w.members)
        free(self.w.scratch)
        free(self.locals)
        self.w.members = NULL
        self.w.scratch = NULL
        self.locals = NULL
        self.w.count = self.w.there = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes every connection. The counts stay."""
        self._free()

    def connect(self, timeout_s=60.0):
        """Makes all of them, each a whole answer or, of slow readers, its beginning. Returns how many are there. Raises
        OSError for what fails here (no descriptors); what the server did is in ``errors``. Call once."""
        cdef uint32_t first
        cdef int status
        cdef int64_t deadline = monotonic_ns() + <int64_t>(timeout_s * 1e9)
        for first in range(0, self.w.count, BATCH):
            n = min(<uint32_t>BATCH, self.w.count - first)
            status = self._make(first, n, deadline)
            if status != ST_OK:
                http_raise(&self.w.failed, status, self.what)
            PyErr_CheckSignals()
        crowd_spread(&self.w, monotonic_ns())
        return self.w.there

    cdef int _make(self, uint32_t first, uint32_t n, int64_t deadline):
        cdef int status
        with nogil:
            status = crowd_make(&self.w, first, n, deadline)
        return status

    def hold(self, seconds):
        """Lets *seconds* pass: slow readers read meanwhile. Returns how many connections are there afterwards."""
        cdef int64_t end = monotonic_ns() + <int64_t>(seconds * 1e9)
        cdef int64_t now = monotonic_ns()
        while now < end:
            with nogil:
                if self.w.rate:
                    crowd_read(&self.w, min(end, now + SLICE_NS))
                else:
                    poll(NULL, 0, <int>(min(end - now, <int64_t>SLICE_NS) // 1000000))
            PyErr_CheckSignals()
            now = monotonic_ns()
        if not self.w.rate:
            with nogil:
                crowd_look(&self.w)
        return self.w.there

    @property
    def there(self):
        """Connections that are open and were answered."""
        return self.w.there

    @property
    def bytes(self):
        """Body bytes that slow readers have taken in their turns."""
        return self.w.bytes

    @property
    def errors(self):
        return self.w.errors

    @property
    def first_error(self):
        """One sentence, or nothing."""
        return http_sentence(&self.w.failed, self.what) if self.w.errors else ""
