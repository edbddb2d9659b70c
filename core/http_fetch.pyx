"""fetch(): one file over HTTP as a machine gets it: a connection of its own, the body hashed as it arrives.

It waits in poll() with a deadline and without the GIL; a signal brings it back to Python for a moment, so Ctrl-C works.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from bootplane.core.client cimport SCRATCH_ROOM, authority, body_digest, endpoint_find, endpoint_t
from bootplane.core.http_client cimport (
    http_client_begin, http_client_events, http_client_expire, http_client_free, http_client_init, http_client_step,
    http_client_t, http_raise, http_request_head,
)
from bootplane.core.linux cimport EINTR, SOCK_STREAM, errno, monotonic_ns, poll, pollfd
from bootplane.core.status cimport ST_AGAIN, ST_NOMEM, ST_OK, ST_TIMEOUT, check

from bootplane.core.client import Fetch


cdef struct fetch_t:
    http_client_t client
    int64_t deadline_ns
    int64_t rate                 # bytes per second, 0: as fast as it comes
    uint8_t* scratch             # SCRATCH_ROOM, owned by fetch()


cdef int fetch_run(fetch_t* f) noexcept nogil:
    """Go on until the exchange ends. -EINTR: a signal came, call again."""
    cdef pollfd waiting
    cdef int64_t now = monotonic_ns()
    cdef int64_t wait_ns, allowed
    cdef int status = ST_AGAIN
    cdef int n
    while status == ST_AGAIN:
        if now >= f.deadline_ns:
            return http_client_expire(&f.client)
        wait_ns = f.deadline_ns - now
        waiting.fd = f.client.fd
        waiting.events = http_client_events(&f.client)
        if f.rate:
            # What the rate allows so far, and 20 ms of it ahead: then the pace is even and the receive buffer full.
            allowed = <int64_t>(<double>f.rate * (now - f.client.started_ns + 20000000) * 1e-9)
            allowed -= <int64_t>f.client.received
            if allowed <= 0:
                wait_ns = min(wait_ns, <int64_t>(1 - allowed) * 1000000000 // f.rate)
                waiting.fd = -1
            f.client.take_most = <uint64_t>max(allowed, <int64_t>1)
        n = poll(&waiting, 1, <int>min(wait_ns // 1000000 + 1, <int64_t>60000))
        if n < 0:
            return -errno
        now = monotonic_ns()
        if n > 0:
            status = http_client_step(&f.client, f.scratch, SCRATCH_ROOM, now)
    return status


def fetch(
    str host not None, int port, str path not None, *, start=0, end=-1, timeout_s=60.0, verify=True, int sink_fd=-1,
    rate_bytes_s=0, str method not None="GET", headers=None, keep=False, str source not None="",
):
    """GET *path* on a connection of its own and hash the body as it arrives.

    *start* and *end* are a Range as on the wire: first and last byte, both included; the defaults ask for the whole.
    Every complete reply is returned, whatever its status. The body is written to *sink_fd* when the status is the one
    asked for (200, with a range 206), and returned with *keep*. *rate_bytes_s* makes a slow reader. *source* is the
    local address to come from. *method* may be HEAD.

    Raises RemoteError (refused, cut, malformed), Timeout after *timeout_s* for the whole, OSError for what fails here.
    """
    cdef fetch_t f
    cdef endpoint_t server, local
    cdef uint8_t digest[32]
    cdef int status
    cdef bytes head
    cdef int64_t began, ended
    if method not in ("GET", "HEAD"):
        raise ValueError(f"method: expected GET or HEAD, got {method!r}")
    if start < 0 or (end >= 0 and end < start) or end < -1:
        raise ValueError(f"range: expected 0 <= start <= end, got {start} and {end}")
    if rate_bytes_s < 0 or not 0 < timeout_s < 1e9:
        raise ValueError(f"expected rate_bytes_s >= 0 and timeout_s > 0, got {rate_bytes_s} and {timeout_s}")
    ranged = start > 0 or end >= 0
    fields = dict(headers or {})
    if ranged:
        fields["Range"] = f"bytes={start}-{end if end >= 0 else ''}"
    head = http_request_head(method, host, port, path, fields) + b"\r\n"
    what = f"{method} http://{authority(host, port)}{path}"
    memset(&f, 0, sizeof(f))
    endpoint_find(host, port, SOCK_STREAM, &server)
    local.length = 0
    if source:
        endpoint_find(source, 0, SOCK_STREAM, &local)
    f.client.server = &server
    f.client.source = &local
    f.client.request = head
    f.client.request_size = len(head)
    f.client.head_only = method == "HEAD"
    f.client.body.hashing = bool(verify)
    f.client.body.keeping = bool(keep)
    f.client.body.sink_fd = sink_fd
    f.client.discard = not verify and not keep and sink_fd < 0
    f.rate = rate_bytes_s
    if rate_bytes_s:                             # else the kernel would read megabytes ahead of a slow machine
        f.client.receive_buffer = min(max(rate_bytes_s // 10, 8192), 1048576)
    status = http_client_init(&f.client)         # partner: http_client_free below
    if ranged:
        f.client.ask_first = start
        f.client.ask_last = end
    if sink_fd >= 0:
        f.client.sink_status = 206 if ranged else 200
    f.scratch = <uint8_t*>malloc(SCRATCH_ROOM)
    if f.scratch is NULL:
        status = ST_NOMEM
    try:
        check(status, what)
        began = monotonic_ns()
        f.deadline_ns = began + <int64_t>(timeout_s * 1e9)
        status = http_client_begin(&f.client, began)
        while status == ST_AGAIN or status == -EINTR:
            with nogil:
                status = fetch_run(&f)
            PyErr_CheckSignals()
        ended = monotonic_ns()
        if status != ST_OK:
            if status == ST_TIMEOUT:
                what = f"{what}: after {timeout_s:g} s"
            http_raise(&f.client, status, what)
        sha256 = ""
        if verify:
            check(body_digest(&f.client.body, digest), what)
            sha256 = digest[:32].hex()
        body = PyBytes_FromStringAndSize(<char*>f.client.body.kept, f.client.body.kept_size) if keep else b""
        return Fetch(f.client.reply.status, f.client.received, sha256, (ended - began) * 1e-9,
                     (f.client.first_ns - began) * 1e-9, f.client.head[:f.client.head_size].decode("latin-1"), body)
    finally:
        http_client_free(&f.client)
        free(f.scratch)
