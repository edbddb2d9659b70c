"""fetch(): one file over TFTP as firmware gets it; probe(): its size, asked as OVMF asks.

They wait in poll() with the deadlines of the transfer and of the whole, without the GIL; a signal brings them back to
Python for a moment, so Ctrl-C works. The protocol is tftp_client's, the socket tftp_flow's.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from bootplane.core.client cimport authority, body_digest, body_free, endpoint_find, endpoint_t
from bootplane.core.linux cimport EINTR, POLLIN, SOCK_DGRAM, errno, monotonic_ns, poll, pollfd
from bootplane.core.status cimport ST_AGAIN, ST_OK, ST_REMOTE, ST_TIMEOUT, check
from bootplane.core.tftp_client cimport TFTP_NAME_ROOM, TX_ERROR, TX_TIMEOUT, tftp_raise
from bootplane.core.tftp_flow cimport (
    arena_free, arena_init, arena_t, flow_begin, flow_close, flow_expire, flow_step, flow_t, flow_tick,
)

from bootplane.core.client import Fetch
from bootplane.core.status import RemoteError


cdef struct fetch_t:
    flow_t flow
    arena_t arena
    int64_t deadline_ns


cdef int fetch_run(fetch_t* f) noexcept nogil:
    """Go on until the transfer ends. -EINTR: a signal came, call again."""
    cdef pollfd waiting
    cdef int64_t now = monotonic_ns()
    cdef int status = ST_AGAIN
    cdef int n
    while status == ST_AGAIN:
        if now >= f.deadline_ns:
            return flow_expire(&f.flow)
        waiting.fd = f.flow.fd
        waiting.events = POLLIN
        n = poll(&waiting, 1, <int>((min(f.deadline_ns, f.flow.get.deadline_ns) - now) // 1000000 + 1))
        if n < 0:
            return -errno
        now = monotonic_ns()
        if n > 0:
            status = flow_step(&f.flow, &f.arena, now)
        if status == ST_AGAIN and now >= f.flow.get.deadline_ns:
            status = flow_tick(&f.flow, now)
    return status


cdef object run(fetch_t* f, str host, int port, str name, dict wishes, double timeout_s, str source):
    """Carry out the transfer that *wishes* describe; on return the body and the times are in *f*."""
    cdef endpoint_t server, local
    cdef bytes raw = name.encode()
    cdef int64_t began
    cdef int status
    if not 0 < len(raw) <= TFTP_NAME_ROOM or 0 in raw:
        raise ValueError(f"expected a name of 1 to {TFTP_NAME_ROOM} bytes without NUL, got {name!r}")
    if not (wishes["blksize"] == 0 or 8 <= wishes["blksize"] <= 65464) or not 1 <= wishes["windowsize"] <= 65535:
        raise ValueError("expected blksize 0 (not sent) or 8 to 65464 and windowsize 1 to 65535, got "
                         f"{wishes['blksize']} and {wishes['windowsize']}")
    if not 0 < timeout_s < 1e9 or not 0 < wishes["retry_s"] < 1e6:
        raise ValueError(f"expected timeout_s and retry_s > 0, got {timeout_s} and {wishes['retry_s']}")
    what = f"tftp://{authority(host, port)}/{name}"
    endpoint_find(host, port, SOCK_DGRAM, &server)
    local.length = 0
    if source:
        endpoint_find(source, 0, SOCK_DGRAM, &local)
    f.flow.fd = -1
    f.flow.server = &server
    f.flow.source = &local
    f.flow.name = raw
    f.flow.name_size = len(raw)
    f.flow.get.ask_blksize = wishes["blksize"]
    f.flow.get.ask_windowsize = wishes["windowsize"]
    f.flow.get.ask_tsize = wishes["tsize"]
    f.flow.get.retry_ns = <int64_t>(<double>wishes["retry_s"] * 1e9)
    f.flow.get.retries = 8
    check(arena_init(&f.arena, f.flow.get.ask_blksize), what)        # partner: arena_free below
    try:
        began = monotonic_ns()
        f.deadline_ns = began + <int64_t>(timeout_s * 1e9)
        status = flow_begin(&f.flow, began)
        while status == ST_AGAIN or status == -EINTR:
            with nogil:
                status = fetch_run(f)
            PyErr_CheckSignals()
        if status == ST_TIMEOUT and f.flow.get.trouble.cause == TX_TIMEOUT:
            what = f"{what}: after {timeout_s:g} s"
        if status != ST_OK:
            tftp_raise(&f.flow.get, status, what)
    finally:
        flow_close(&f.flow)
        arena_free(&f.arena)
        f.flow.server = NULL     # they were ours
        f.flow.source = NULL
        f.flow.name = NULL


def fetch(
    str host not None, int port, str name not None, *, int blksize=1428, int windowsize=1, tsize=True, timeout_s=60.0,
    int drop_every=0, verify=True, int sink_fd=-1, keep=False, retry_s=1.0, str source not None="",
):
    """Read *name* by TFTP on a socket of its own and hash it as it arrives.

    The options are sent as tsize, blksize, windowsize; *blksize* 0 and *windowsize* 1 are not sent. What the server
    leaves out of its OACK holds at its default; without an OACK it is plain RFC 1350; after ERROR 8 (options refused)
    the file is asked for once more without options. *drop_every* N loses each Nth DATA on arrival. *retry_s* is the
    first wait before the last packet is repeated. The body goes to *sink_fd*, and is returned with *keep*.

    Raises RemoteError ("... TFTP error 1: text" for an ERROR packet), Timeout, OSError for what fails here.
    """
    cdef fetch_t f
    cdef uint8_t digest[32]
    cdef int64_t began, ended
    wishes = {"blksize": blksize, "windowsize": windowsize, "tsize": bool(tsize), "retry_s": retry_s}
    memset(&f, 0, sizeof(f))
    f.flow.drop_every = max(drop_every, 0)
    f.flow.body.hashing = bool(verify)
    f.flow.body.keeping = bool(keep)
    f.flow.body.sinking = sink_fd >= 0
    f.flow.body.sink_fd = sink_fd
    began = monotonic_ns()
    try:
        try:
            run(&f, host, port, name, wishes, timeout_s, source)
        except Exception:
            refused = f.flow.get.trouble.cause == TX_ERROR and f.flow.get.trouble.err == 8
            if not (refused and f.flow.get.bytes == 0 and (blksize or windowsize > 1 or tsize)):
                raise
            wishes.update(blksize=0, windowsize=1, tsize=False)
            run(&f, host, port, name, wishes, timeout_s, source)
        ended = monotonic_ns()
        sha256 = ""
        if verify:
            check(body_digest(&f.flow.body, digest), name)
            sha256 = digest[:32].hex()
        agreed = []
        if f.flow.get.agreed:
            agreed = [f"blksize={f.flow.get.blksize}", f"windowsize={f.flow.get.windowsize}"]
            if f.flow.get.tsize >= 0:
                agreed.append(f"tsize={f.flow.get.tsize}")
        body = PyBytes_FromStringAndSize(<char*>f.flow.body.kept, f.flow.body.kept_size) if keep else b""
        return Fetch(0, f.flow.get.bytes, sha256, (ended - began) * 1e-9, (f.flow.first_ns - began) * 1e-9,
                     " ".join(agreed), body)
    finally:
        body_free(&f.flow.body)


def probe(
    str host not None, int port, str name not None, *, int blksize=1468, int windowsize=4, timeout_s=60.0, retry_s=1.0,
    str source not None="",
):
    """The size of *name* in bytes, asked as OVMF does: an RRQ with tsize, and ERROR 8 once the OACK is here.

    Raises RemoteError when the server answers with an ERROR, without OACK, or with an OACK that has no tsize.
    """
    cdef fetch_t f
    memset(&f, 0, sizeof(f))
    f.flow.get.probe = 1
    wishes = {"blksize": blksize, "windowsize": windowsize, "tsize": True, "retry_s": retry_s}
    try:
        run(&f, host, port, name, wishes, timeout_s, source)
    finally:
        body_free(&f.flow.body)
    if f.flow.get.tsize < 0:
        raise RemoteError(f"tftp://{authority(host, port)}/{name}: OACK: expected tsize, got none", ST_REMOTE)
    return f.flow.get.tsize
