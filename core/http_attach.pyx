"""Gives a reactor its HTTP service: options with their defaults, as a mapping, become the struct the service reads."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from bootplane.core.http_service cimport http_options_t, http_start, http_stop
from bootplane.core.reactor cimport Reactor
from bootplane.core.status cimport ST_NOMEM, check

DEFAULTS = {
    "max_connections": 16384,
    "max_per_address": 1024,
    "head_timeout_s": 10.0,
    "idle_timeout_s": 60.0,
    "send_timeout_s": 60.0,
    "turn_bytes": 1 << 20,
    "control": 1,
}


def attach_http(Reactor reactor not None, fds, options):
    """Registers the listening sockets *fds* with *reactor*. Raises ValueError for an unknown option, OSError."""
    cdef http_options_t o
    cdef int n = len(fds)
    cdef int status
    values = _merged(options)
    o.max_connections = values["max_connections"]
    o.max_per_address = values["max_per_address"]
    o.head_timeout_ns = <int64_t>(values["head_timeout_s"] * 1e9)
    o.idle_timeout_ns = <int64_t>(values["idle_timeout_s"] * 1e9)
    o.send_timeout_ns = <int64_t>(values["send_timeout_s"] * 1e9)
    o.turn_bytes = values["turn_bytes"]
    o.control = values["control"]
    cdef int* sockets = <int*>malloc(n * sizeof(int))
    if sockets == NULL:
        check(ST_NOMEM, "HTTP service")
    try:
        for i, fd in enumerate(fds):
            sockets[i] = fd
        status = http_start(&reactor.loop, sockets, n, &o)
    finally:
        free(sockets)
    check(status, "HTTP service")
    reactor.loop.stop_http = http_stop


def _merged(options):
    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"HTTP service: unknown option {', '.join(sorted(unknown))}; known: {', '.join(DEFAULTS)}")
    return {**DEFAULTS, **options}
