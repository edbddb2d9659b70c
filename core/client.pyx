"""What the load clients (http_load, tftp_load) share: addresses, where a body goes, latencies, their results.

No protocol here, and no socket but the look-up of an address. A trouble_t carries the facts of a failure out of code
that holds no GIL; the protocol's module turns it into one sentence.
"""

from typing import NamedTuple

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from bootplane.core.linux cimport EINTR, clock_gettime, errno, sockaddr, socklen_t, timespec, write
from bootplane.core.sha256 cimport sha256_final, sha256_free, sha256_init, sha256_update
from bootplane.core.status cimport ST_NOMEM, ST_OK

cdef extern from "<time.h>" nogil:
    enum: CLOCK_THREAD_CPUTIME_ID

cdef extern from "<netdb.h>" nogil:
    cdef struct addrinfo:
        int ai_flags
        int ai_family
        int ai_socktype
        int ai_protocol
        socklen_t ai_addrlen
        sockaddr* ai_addr
        addrinfo* ai_next
    int getaddrinfo(const char* node, const char* service, const addrinfo* hints, addrinfo** found)
    void freeaddrinfo(addrinfo* found)
    const char* gai_strerror(int code)

cdef extern from * nogil:
    """
    #define bp_log2_u64(v) (63 - __builtin_clzll(v))
    """
    int bp_log2_u64(uint64_t v)          # v > 0


class Fetch(NamedTuple):
    """One file as it was received."""

    status: int  # HTTP status; 0 by TFTP
    size: int  # body bytes received
    sha256: str  # hex, of the body; "" when not asked
    seconds: float  # from the first packet to the last byte
    first_byte_s: float  # from the first packet to the first byte of the body (of the reply when it has none)
    headers: str  # HTTP: the reply head as received; TFTP: the options agreed, as "blksize=1428 windowsize=4 tsize=9"
    body: bytes = b""  # only with keep=True


class LoadResult(NamedTuple):
    """What a load run did. A request or transfer is counted once, in requests or in errors."""

    requests: int  # completed as asked
    bytes: int  # body bytes received, those of unfinished requests included
    errors: int
    seconds: float  # wall time
    cpu_s: float  # CPU time of the load's own thread
    p50_s: float  # of completed requests, request to last byte; exact to 1 %
    p99_s: float
    verified: int = 0  # bodies whose digest was computed and was right
    first_error: str = ""  # one sentence
    first_p50_s: float = 0.0  # HTTP: of completed requests, request to first byte of the body
    first_most_s: float = 0.0  # the longest of them
    lost: int = 0  # TFTP: datagrams, of either side, that the network asked for has lost or held up


cdef int body_begin(body_t* b) noexcept nogil:
    b.size = 0
    b.kept_size = 0
    b.sink_failed = 0
    return sha256_init(&b.hash) if b.hashing else ST_OK


cdef int body_take(body_t* b, const uint8_t* data, size_t n) noexcept nogil:
    cdef size_t room
    cdef void* grown
    cdef Py_ssize_t done
    cdef size_t at = 0
    cdef int status
    b.size += n
    if b.hashing:
        status = sha256_update(&b.hash, data, n)
        if status != ST_OK:
            return status
    if b.keeping and n:
        if b.kept_size + n > b.kept_room:
            room = max(b.kept_room * 2, max(b.kept_size + n, <size_t>4096))
            grown = realloc(b.kept, room)        # freed in body_free
            if grown is NULL:
                return ST_NOMEM
            b.kept = <uint8_t*>grown
            b.kept_room = room
        memcpy(b.kept + b.kept_size, data, n)
        b.kept_size += n
    while b.sinking and at < n:
        done = write(b.sink_fd, data + at, n - at)
        if done > 0:
            at += done
        elif done < 0 and errno == EINTR:
            continue
        else:                                    # a write of more than 0 bytes that wrote none is an error, too
            b.sink_failed = 1
            return -errno if done < 0 else -5    # EIO
    return ST_OK


cdef int body_digest(body_t* b, uint8_t* out32) noexcept nogil:
    return sha256_final(&b.hash, out32)


cdef void body_free(body_t* b) noexcept nogil:
    sha256_free(&b.hash)
    free(b.kept)
    b.kept = NULL
    b.kept_room = 0
    b.kept_size = 0


cdef void trouble_set(trouble_t* t, int cause, int err, int64_t expected, int64_t got) noexcept nogil:
    t.cause = cause
    t.err = err
    t.expected = expected
    t.got = got
    t.text[0] = 0


cdef void trouble_quote(trouble_t* t, const char* text, size_t n) noexcept nogil:
    cdef size_t i
    n = min(n, <size_t>(TROUBLE_TEXT - 1))
    for i in range(n):
        t.text[i] = text[i] if 32 <= text[i] < 127 else c"?"
    t.text[n] = 0


cdef void histogram_add(histogram_t* h, int64_t ns) noexcept nogil:
    cdef uint64_t v = <uint64_t>max(ns, <int64_t>0)
    cdef int power
    h.total += 1
    if v < 64:
        h.slots[v] += 1
    else:
        power = bp_log2_u64(v)
        h.slots[(power - 5) * 64 + ((v >> (power - 6)) & 63)] += 1


cdef double histogram_quantile(const histogram_t* h, double fraction) noexcept nogil:
    # The nearest rank: the least duration that at least *fraction* of all do not exceed, as the middle of its slot.
    cdef uint64_t rank = <uint64_t>(fraction * h.total)
    cdef uint64_t seen = 0
    cdef int slot, power
    if h.total == 0:
        return 0.0
    if <double>rank < fraction * h.total:
        rank += 1
    rank = max(rank, <uint64_t>1)
    for slot in range(HISTOGRAM_SLOTS):
        seen += h.slots[slot]
        if seen >= rank:
            if slot < 64:
                return slot * 1e-9
            power = slot // 64 + 5
            return (<double>(<uint64_t>1 << power) + (slot % 64 + 0.5) * <double>(<uint64_t>1 << (power - 6))) * 1e-9
    return 0.0


cdef int64_t thread_cpu_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts)
    return <int64_t>ts.tv_sec * 1000000000 + ts.tv_nsec


cdef int endpoint_find(str host, int port, int socktype, endpoint_t* out) except -1:
    cdef addrinfo hints
    cdef addrinfo* found = NULL
    cdef bytes raw_host = host.encode()
    cdef bytes raw_port = str(port).encode()
    cdef const char* node = raw_host
    cdef const char* service = raw_port
    cdef int code
    if not 0 <= port <= 65535:
        raise ValueError(f"{host}: expected a port from 0 to 65535, got {port}")
    if not host or "\0" in host:
        raise ValueError(f"expected a host name or address, got {host!r}")
    memset(&hints, 0, sizeof(hints))
    hints.ai_socktype = socktype
    with nogil:
        code = getaddrinfo(node, service, &hints, &found)    # partner: freeaddrinfo below
    if code != 0:
        raise OSError(f"{authority(host, port)}: the address cannot be found: {gai_strerror(code).decode()}")
    memcpy(&out.addr, found.ai_addr, found.ai_addrlen)
    out.length = found.ai_addrlen
    freeaddrinfo(found)
    return 0


cdef str authority(str host, int port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def quantiles(samples_s, fractions) -> list[float]:
    """Nearest-rank quantiles of durations in seconds, as the load clients report them (exact to 1 %)."""
    cdef histogram_t h
    memset(&h, 0, sizeof(h))
    for sample in samples_s:
        histogram_add(&h, <int64_t>(sample * 1e9))
    return [histogram_quantile(&h, fraction) for fraction in fractions]
