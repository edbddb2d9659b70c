"""Gives a reactor its TFTP service: options with their defaults, as a mapping, become the struct the service reads."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from bootplane.core.reactor cimport Reactor
from bootplane.core.status cimport ST_NOMEM, check
from bootplane.core.tftp_service cimport tftp_options_t, tftp_start, tftp_stop

DEFAULTS = {
    "max_transfers": 8192,
    "max_blksize": 8192,         # RFC 2348 allows 65464; larger ones fragment on every link there is
    "max_windowsize": 64,        # one UDP_SEGMENT message
    "timeout_s": 1.0,
    "retries": 8,
    "tids": 4,
    "gso": 1,
}


def attach_tftp(Reactor reactor not None, fds, options):
    """Registers the request sockets *fds* with *reactor*. Raises ValueError for an unknown option, OSError."""
    cdef tftp_options_t o
    cdef int n = len(fds)
    cdef int status
    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"TFTP service: unknown option {', '.join(sorted(unknown))}; known: {', '.join(DEFAULTS)}")
    values = {**DEFAULTS, **options}
    o.max_transfers = values["max_transfers"]
    o.max_blksize = values["max_blksize"]
    o.max_windowsize = values["max_windowsize"]
    o.timeout_ns = <int64_t>(values["timeout_s"] * 1e9)
    o.retries = values["retries"]
    o.tids = values["tids"]
    o.gso = values["gso"]
    cdef int* sockets = <int*>malloc(n * sizeof(int))
    if sockets == NULL:
        check(ST_NOMEM, "TFTP service")
    try:
        for i, fd in enumerate(fds):
            sockets[i] = fd
        status = tftp_start(&reactor.loop, sockets, n, &o)
    finally:
        free(sockets)
    check(status, "TFTP service")
    reactor.loop.stop_tftp = tftp_stop
