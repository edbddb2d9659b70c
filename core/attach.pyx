"""Gives a reactor its services: options, as mappings with defaults, become the structs that the services read.

Times are given in seconds under names that say so. An option nobody knows is an error: a misspelt limit must not pass.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from bootplane.core.http_addresses cimport Addresses
from bootplane.core.http_service cimport http_options_t, http_start, http_stop
from bootplane.core.reactor cimport Reactor
from bootplane.core.shares cimport Shares
from bootplane.core.status cimport check
from bootplane.core.tftp_service cimport tftp_options_t, tftp_start, tftp_stop
from bootplane.core.tls cimport Tls
from bootplane.core.tls_service cimport tls_options_t, tls_start, tls_stop

HTTP_DEFAULTS = {
    "max_connections": 16384,    # both: of all reactors with the same `addresses`
    "max_per_address": 1024,
    "shares": None,              # Shares; None: no groups
    "addresses": None,           # Addresses; None: its own
    "head_timeout_s": 10.0,
    "idle_timeout_s": 60.0,
    "send_timeout_s": 60.0,
    "min_bytes_s": 1000,         # iPXE on a bad line takes ten times that
    "min_over_s": 20,
    "turn_bytes": 1 << 21,       # measured with 64 readers: 2 MiB costs 0.8 x the CPU per GB of 1 MiB
    "control": 1,
    "hold": 0,
    "inherited": 0,
}
TFTP_DEFAULTS = {
    "max_transfers": 8192,
    "shares": None,              # as above
    "max_blksize": 8192,         # RFC 2348 allows 65464, and what the path to a client carries is less on most
    "max_windowsize": 64,        # one UDP_SEGMENT message
    "timeout_s": 1.0,
    "retries": 8,
    "tids": 4,
    "single_port": 0,
    "hold": 0,
    "gso": 1,
}
HTTPS_DEFAULTS = {
    "tls": None,                 # Tls: the certificate; there is no default
    "max_sessions": 18432,       # HTTP's places and an eighth: a handshake may begin while they are all taken
    "max_per_address": 1024,
    "addresses": None,           # Addresses; None: its own
    "max_handshakes": 512,
    "hello_timeout_s": 10.0,
    "send_timeout_s": 60.0,
    "hold": 0,
    "inherited": 0,
}


def attach_http(Reactor reactor not None, fds, options):
    """Registers the listening sockets *fds* with *reactor*. Raises ValueError for an unknown option, OSError."""
    cdef http_options_t o
    cdef int* sockets
    cdef int status
    values = _merged("HTTP", HTTP_DEFAULTS, options)
    o.max_connections = values["max_connections"]
    o.max_per_address = values["max_per_address"]
    o.head_timeout_ns = <int64_t>(values["head_timeout_s"] * 1e9)
    o.idle_timeout_ns = <int64_t>(values["idle_timeout_s"] * 1e9)
    o.send_timeout_ns = <int64_t>(values["send_timeout_s"] * 1e9)
    o.min_bytes_s = values["min_bytes_s"]
    o.min_over_s = values["min_over_s"]
    o.turn_bytes = values["turn_bytes"]
    o.control = values["control"]
    o.hold = values["hold"]
    o.inherited = values["inherited"]
    reactor.shares = values["shares"]
    o.shares = &(<Shares?>reactor.shares).s if reactor.shares is not None else NULL
    reactor.addresses = Addresses() if values["addresses"] is None else values["addresses"]
    o.addresses = &(<Addresses?>reactor.addresses).a
    sockets = _descriptors(fds)
    status = http_start(&reactor.loop, sockets, len(fds), &o)
    free(sockets)
    check(status, "HTTP service")
    reactor.loop.stop_http = http_stop


def attach_tftp(Reactor reactor not None, fds, options):
    """Registers the request sockets *fds* with *reactor*. Raises ValueError for an unknown option, OSError."""
    cdef tftp_options_t o
    cdef int* sockets
    cdef int status
    values = _merged("TFTP", TFTP_DEFAULTS, options)
    o.max_transfers = values["max_transfers"]
    if values["shares"] is not None:
        reactor.tftp_shares = values["shares"]       # kept for as long as the reactor is
    o.shares = &(<Shares?>values["shares"]).s if values["shares"] is not None else NULL
    o.max_blksize = values["max_blksize"]
    o.max_windowsize = values["max_windowsize"]
    o.timeout_ns = <int64_t>(values["timeout_s"] * 1e9)
    o.retries = values["retries"]
    o.tids = values["tids"]
    o.single_port = values["single_port"]
    o.hold = values["hold"]
    o.gso = values["gso"]
    sockets = _descriptors(fds)
    status = tftp_start(&reactor.loop, sockets, len(fds), &o)
    free(sockets)
    check(status, "TFTP service")
    reactor.loop.stop_tftp = tftp_stop


def attach_https(Reactor reactor not None, fds, options):
    """Registers the listening sockets *fds* with *reactor*, which serves HTTP already. Raises ValueError, OSError."""
    cdef tls_options_t o
    cdef int* sockets
    cdef int status
    values = _merged("HTTPS", HTTPS_DEFAULTS, options)
    if reactor.loop.http == NULL:
        raise ValueError("HTTPS service: expected an HTTP service beside it, got none")
    if not isinstance(values["tls"], Tls):
        raise ValueError(f"HTTPS service: expected a Tls as tls, got {type(values['tls']).__name__}")
    o.max_sessions = values["max_sessions"]
    o.max_per_address = values["max_per_address"]
    o.max_handshakes = values["max_handshakes"]
    o.hello_timeout_ns = <int64_t>(values["hello_timeout_s"] * 1e9)
    o.send_timeout_ns = <int64_t>(values["send_timeout_s"] * 1e9)
    o.hold = values["hold"]
    o.inherited = values["inherited"]
    addresses = Addresses() if values["addresses"] is None else values["addresses"]
    reactor.tls = (values["tls"], addresses)
    o.context = &(<Tls>values["tls"]).c
    o.addresses = &(<Addresses?>addresses).a
    sockets = _descriptors(fds)
    status = tls_start(&reactor.loop, sockets, len(fds), &o)
    free(sockets)
    check(status, "HTTPS service")
    reactor.loop.stop_tls = tls_stop


def _merged(what, defaults, options):
    unknown = set(options) - set(defaults)
    if unknown:
        raise ValueError(f"{what} service: unknown option {', '.join(sorted(unknown))}; known: {', '.join(defaults)}")
    return {**defaults, **options}


cdef int* _descriptors(fds) except NULL:
    """*fds* as an array; freed by the caller."""
    cdef int* sockets = <int*>malloc((len(fds) + 1) * sizeof(int))
    if sockets == NULL:
        raise MemoryError("no memory for a list of sockets")
    for i, fd in enumerate(fds):
        sockets[i] = fd
    return sockets
