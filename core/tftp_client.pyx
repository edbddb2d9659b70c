"""One TFTP read transfer seen by the machine that boots: RFC 1350, 2347, 2348, 2349, 7440. No socket, no clock.

    RRQ ->  <- OACK  ACK 0 ->  <- DATA 1..w  ACK w ->  <- DATA w+1..2w  ACK 2w -> ... <- DATA n (short)  ACK n ->

An ACK goes out for every full window, for a repeated last block (our ACK was lost) and once for a gap (RFC 7440, 4: the
last block in order). A stale block is answered only when it is the very block we acknowledged last, so that a window
sent again costs one ACK and no storm starts. Waiting is a deadline that only progress moves.

Sockets, addresses and where the payload goes are the caller's part.
"""

import os

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcpy, memset, strlen
from bootplane.core.client cimport trouble_quote, trouble_set
from bootplane.core.status cimport ST_BAD, ST_CLOSED, ST_MISMATCH, ST_REMOTE, ST_TIMEOUT, check

from bootplane.core.status import DigestMismatch, RemoteError, Timeout

cdef extern from "<strings.h>" nogil:
    int strcasecmp(const char* a, const char* b)

cdef enum:
    OP_RRQ = 1
    OP_DATA = 3
    OP_ACK = 4
    OP_ERROR = 5
    OP_OACK = 6
    ERROR_ILLEGAL = 4
    ERROR_OPTION = 8
    LONGEST_WAIT_NS = 8000000000


cdef inline uint32_t u16(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 8) | p[1]


cdef inline void put_u16(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 8)
    p[1] = <uint8_t>v


cdef int failed(tftp_get_t* g, int cause, int err, int64_t expected, int64_t got) noexcept nogil:
    trouble_set(&g.trouble, cause, err, expected, got)
    g.state = TG_ENDED
    return TG_FAILED


cdef void progress(tftp_get_t* g, int64_t now_ns) noexcept nogil:
    g.tries = 0
    g.wait_ns = g.retry_ns
    g.deadline_ns = now_ns + g.wait_ns


cdef void tftp_get_begin(tftp_get_t* g, int64_t now_ns) noexcept nogil:
    g.state = TG_ASKED
    g.agreed = 0
    g.blksize = 512              # what holds when the server ignores the options
    g.windowsize = 1
    g.tsize = -1
    g.next = 1
    g.in_window = 0
    g.gap = 0
    g.bytes = 0
    g.duplicates = 0
    g.gaps = 0
    g.repeated = 0
    g.trouble.cause = 0
    progress(g, now_ns)


cdef int tftp_get_packet(tftp_get_t* g, const uint8_t* p, size_t have, size_t full, int64_t now_ns) noexcept nogil:
    cdef uint32_t op
    if g.state == TG_ENDED:
        return 0
    if full < 2:
        return failed(g, TX_MALFORMED, 0, -1, -1)
    op = u16(p)
    if op == OP_DATA and full >= 4:
        return on_data(g, u16(p + 2), full - 4, now_ns)
    if op == OP_OACK:
        return on_oack(g, <const char*>p + 2, have - 2, now_ns)
    if op == OP_ERROR and full >= 4:
        failed(g, TX_ERROR, u16(p + 2), -1, 0)
        have -= 4
        while have and p[4 + have - 1] == 0:
            have -= 1
        trouble_quote(&g.trouble, <const char*>p + 4, have)
        return TG_FAILED
    g.error_code = ERROR_ILLEGAL
    return failed(g, TX_MALFORMED, 0, -1, op) | TG_SEND_ERROR


cdef int on_data(tftp_get_t* g, uint32_t block, size_t payload, int64_t now_ns) noexcept nogil:
    cdef uint32_t ahead = (block - <uint32_t>g.next) & 0xFFFF
    cdef int actions = TG_TAKE
    if g.state == TG_ASKED:
        if g.probe:
            g.error_code = ERROR_ILLEGAL         # what OVMF sends
            return failed(g, TX_NO_OPTIONS, 0, -1, 0) | TG_SEND_ERROR
        g.state = TG_RECEIVING   # no OACK: the options were refused by silence (RFC 2347)
    if ahead != 0:
        if ahead >= 0x8000:      # an earlier block
            g.duplicates += 1
            return TG_SEND_ACK if ahead == 0xFFFF and g.in_window == 0 else 0
        if g.gap:
            return 0
        g.gap = 1
        g.gaps += 1
        g.in_window = 0
        return TG_SEND_ACK
    if payload > g.blksize:
        g.error_code = ERROR_ILLEGAL
        return failed(g, TX_LENGTH, 0, g.blksize, payload) | TG_SEND_ERROR
    g.next += 1
    g.bytes += payload
    g.gap = 0
    g.in_window += 1
    progress(g, now_ns)
    if payload < g.blksize:      # the last
        if g.tsize >= 0 and <uint64_t>g.tsize != g.bytes:
            return TG_TAKE | TG_SEND_ACK | failed(g, TX_SIZE, 0, g.tsize, g.bytes)
        g.state = TG_ENDED
        return TG_TAKE | TG_SEND_ACK | TG_DONE
    if g.in_window >= g.windowsize:
        g.in_window = 0
        actions |= TG_SEND_ACK
    return actions


cdef int64_t number(const char* p) noexcept nogil:
    cdef int64_t v = 0
    if strlen(p) == 0 or strlen(p) > 18:
        return -1
    while p[0]:
        if not c"0" <= p[0] <= c"9":
            return -1
        v = v * 10 + (p[0] - c"0")
        p += 1
    return v


cdef int on_oack(tftp_get_t* g, const char* p, size_t n, int64_t now_ns) noexcept nogil:
    cdef const char* end = p + n
    cdef const char* value
    cdef int64_t v
    cdef char shown[200]
    if g.state != TG_ASKED:      # our ACK 0 was lost
        return TG_SEND_ACK if g.agreed and g.next == 1 and g.in_window == 0 else 0
    while p < end:
        value = <const char*>memchr(p, 0, end - p)
        if value is NULL or value + 1 >= end or memchr(value + 1, 0, end - value - 1) is NULL:
            g.error_code = ERROR_OPTION
            return failed(g, TX_MALFORMED, 0, -1, OP_OACK) | TG_SEND_ERROR
        value += 1
        v = number(value)
        if g.ask_blksize and strcasecmp(p, b"blksize") == 0 and 8 <= v <= g.ask_blksize:
            g.blksize = <uint32_t>v
        elif g.ask_windowsize > 1 and strcasecmp(p, b"windowsize") == 0 and 1 <= v <= g.ask_windowsize:
            g.windowsize = <uint32_t>v
        elif g.ask_tsize and strcasecmp(p, b"tsize") == 0 and v >= 0:
            g.tsize = v
        else:
            g.error_code = ERROR_OPTION
            failed(g, TX_OPTION, 0, -1, 0)
            snprintf(shown, sizeof(shown), b"%s=%s", p, value)
            trouble_quote(&g.trouble, shown, strlen(shown))
            return TG_FAILED | TG_SEND_ERROR
        p = value + strlen(value) + 1
    g.agreed = 1
    if g.probe:
        g.error_code = ERROR_OPTION
        g.state = TG_ENDED
        return TG_SEND_ERROR | TG_DONE
    g.state = TG_RECEIVING
    progress(g, now_ns)
    return TG_SEND_ACK


cdef int tftp_get_tick(tftp_get_t* g, int64_t now_ns) noexcept nogil:
    if g.state == TG_ENDED or now_ns < g.deadline_ns:
        return 0
    if g.tries >= g.retries:
        return failed(g, TX_SILENCE, g.tries, g.tsize, -1 if g.state == TG_ASKED else <int64_t>g.next - 1)
    g.tries += 1
    g.repeated += 1
    g.wait_ns = min(g.wait_ns * 2, <int64_t>LONGEST_WAIT_NS)
    g.deadline_ns = now_ns + g.wait_ns
    if g.state == TG_ASKED:
        return TG_SEND_RRQ
    g.in_window = 0              # the rest of the window is lost: RFC 7440, 4
    g.gap = 0
    return TG_SEND_ACK


# Packets.

cdef size_t put_text(uint8_t* out, size_t at, const char* text) noexcept nogil:
    memcpy(out + at, text, strlen(text) + 1)
    return at + strlen(text) + 1


cdef size_t put_option(uint8_t* out, size_t at, const char* name, uint32_t value) noexcept nogil:
    at = put_text(out, at, name)
    return at + snprintf(<char*>out + at, 12, b"%u", value) + 1


cdef size_t tftp_get_request(const tftp_get_t* g, const char* name, size_t n, uint8_t* out) noexcept nogil:
    """RRQ for a name of at most TFTP_NAME_ROOM bytes into TFTP_REQUEST_ROOM; the options in OVMF's order."""
    cdef size_t at = 2
    put_u16(out, OP_RRQ)
    memcpy(out + at, name, n)
    at += n
    out[at] = 0
    at = put_text(out, at + 1, b"octet")
    if g.ask_tsize:
        at = put_option(out, at, b"tsize", 0)
    if g.ask_blksize:
        at = put_option(out, at, b"blksize", g.ask_blksize)
    if g.ask_windowsize > 1:
        at = put_option(out, at, b"windowsize", g.ask_windowsize)
    return at


cdef void tftp_get_ack(const tftp_get_t* g, uint8_t* out4) noexcept nogil:
    put_u16(out4, OP_ACK)
    put_u16(out4 + 2, <uint32_t>((g.next - 1) & 0xFFFF))


cdef size_t tftp_get_error(const tftp_get_t* g, uint8_t* out64) noexcept nogil:
    put_u16(out64, OP_ERROR)
    put_u16(out64 + 2, g.error_code)
    if g.probe:
        return put_text(out64, 4, b"User aborted the transfer")
    if g.error_code == ERROR_OPTION:
        return put_text(out64, 4, b"Option not asked for")
    return put_text(out64, 4, b"Illegal TFTP operation")


# The Python edge.

cdef str tftp_sentence(tftp_get_t* g, str what, str promised=""):
    cdef const char* quoted = g.trouble.text
    text = quoted.decode("ascii")
    cause, got, expected = g.trouble.cause, g.trouble.got, g.trouble.expected
    reason = os.strerror(g.trouble.err)
    if cause == TX_ERROR:
        return f"{what}: TFTP error {g.trouble.err}: {text}"
    if cause == TX_MALFORMED:
        kind = "a datagram of less than 2 bytes" if got < 0 else f"a malformed packet of opcode {got}"
        return f"{what}: expected OACK, DATA or ERROR, got {kind}"
    if cause == TX_OPTION:
        asked = {"blksize": g.ask_blksize, "windowsize": g.ask_windowsize if g.ask_windowsize > 1 else 0}
        wanted = ", ".join(f"{name}={value}" for name, value in asked.items() if value)
        return f"{what}: OACK: expected at most {wanted or 'nothing'}{', tsize' if g.ask_tsize else ''}, got {text}"
    if cause == TX_LENGTH:
        return f"{what}: DATA {g.next}: expected at most {expected} bytes, got {got}"
    if cause == TX_SIZE:
        return f"{what}: size: expected {expected} bytes (tsize), got {got}"
    if cause == TX_NO_OPTIONS:
        return f"{what}: expected OACK with tsize, got DATA: the server ignores options"
    if cause == TX_SILENCE:
        said = "the request" if got < 0 else f"ACK {got}"
        return f"{what}: expected an answer to {said}, got none after {g.trouble.err} repeats"
    if cause == TX_TIMEOUT:
        return f"{what}: timed out: expected {f'{expected} bytes' if expected >= 0 else 'the whole file'}, got {got}"
    if cause == TX_NETWORK:
        return f"{what}: {'expected an answer, got' if got == 0 else f'after {got} bytes'}: {reason}"
    if cause == TX_SINK:
        return f"{what}: writing the file to descriptor {got}: {reason}"
    if cause == TX_DIGEST:
        return f"{what}: sha256 differs: expected {promised}, got {text}"
    return f"{what}: {reason}"


cdef object tftp_raise(tftp_get_t* g, int status, str what):
    if status == ST_TIMEOUT:
        raise Timeout(tftp_sentence(g, what), status)
    if status == ST_MISMATCH:
        raise DigestMismatch(tftp_sentence(g, what), status)
    if status in (ST_REMOTE, ST_CLOSED, ST_BAD) and g.trouble.cause and g.trouble.cause != TX_LOCAL:
        raise RemoteError(tftp_sentence(g, what), status)
    if status < 0:
        raise OSError(-status, tftp_sentence(g, what))
    return check(status, what)


cdef class Receiver:
    """The machine alone, on a clock of the caller's, for tests: what goes out for what comes in."""

    cdef tftp_get_t g

    def __init__(self, *, blksize=1428, windowsize=1, tsize=True, probe=False, retry_s=1.0, retries=8, now_s=0.0):
        memset(&self.g, 0, sizeof(self.g))
        self.g.ask_blksize = blksize
        self.g.ask_windowsize = windowsize
        self.g.ask_tsize = bool(tsize)
        self.g.probe = bool(probe)
        self.g.retry_ns = <int64_t>(retry_s * 1e9)
        self.g.retries = retries
        tftp_get_begin(&self.g, <int64_t>(now_s * 1e9))

    def request(self, bytes name not None) -> bytes:
        cdef uint8_t out[TFTP_REQUEST_ROOM]
        if not 0 < len(name) <= TFTP_NAME_ROOM or 0 in name:
            raise ValueError(f"expected a name of 1 to {TFTP_NAME_ROOM} bytes without NUL, got {name!r}")
        return out[:tftp_get_request(&self.g, name, len(name), out)]

    def packet(self, bytes data not None, now_s=0.0) -> tuple[list[bytes], bytes]:
        """One datagram in: (datagrams out, payload taken)."""
        cdef int actions = tftp_get_packet(&self.g, data, len(data), len(data), <int64_t>(now_s * 1e9))
        return self.sent(actions), data[4:] if actions & TG_TAKE else b""

    def tick(self, now_s) -> list[bytes]:
        return self.sent(tftp_get_tick(&self.g, <int64_t>(now_s * 1e9)))

    def sent(self, int actions) -> list[bytes]:
        cdef uint8_t out[64]
        packets = []
        if actions & TG_SEND_RRQ:
            packets.append(b"RRQ")
        if actions & TG_SEND_ACK:
            tftp_get_ack(&self.g, out)
            packets.append(out[:4])
        if actions & TG_SEND_ERROR:
            packets.append(out[:tftp_get_error(&self.g, out)])
        return packets

    @property
    def state(self) -> str:
        if self.g.trouble.cause:
            return tftp_sentence(&self.g, "get")
        return ("asked", "receiving", "complete")[self.g.state]

    @property
    def agreed(self) -> dict[str, int]:
        return {"blksize": self.g.blksize, "windowsize": self.g.windowsize, "tsize": self.g.tsize}

    @property
    def deadline_s(self) -> float:
        return self.g.deadline_ns * 1e-9
