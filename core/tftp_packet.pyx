"""TFTP packets <-> structs, in the caller's buffer (RFC 1350, 2347, 2348, 2349, 7440).

    RRQ    00 01 | name 00 | mode 00 | (option 00 value 00)*        options in any order, any case
    DATA   00 03 | block (2) | 0..blksize bytes
    ACK    00 04 | block (2)
    ERROR  00 05 | code (2) | text 00
    OACK   00 06 | (option 00 value 00)*

Invariant: nothing past the packet's end is read, and what request_parse returns lies in the packet. What to grant of
the options is decided in tftp_transfer; names are made canonical by table.
"""

from typing import NamedTuple

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memset, strlen
from bootplane.core.status cimport ST_BAD, ST_OK


cdef bint is_word(const uint8_t* text, size_t n, const char* word) noexcept nogil:
    """Compares with a lower-case ASCII word in any case; no locale."""
    cdef size_t i
    cdef uint8_t c
    if strlen(word) != n:
        return False
    for i in range(n):
        c = text[i]
        if c >= 65 and c <= 90:
            c |= 32
        if c != <uint8_t>word[i]:
            return False
    return True


cdef bint number(const uint8_t* text, size_t n, uint32_t low, uint32_t high, uint32_t* out) noexcept nogil:
    """Reads decimal digits; False for anything else and for a value outside low..high."""
    cdef uint64_t value = 0
    cdef size_t i
    if n == 0 or n > 10:             # ten digits fit in 64 bits; no option of ours needs more
        return False
    for i in range(n):
        if text[i] < 48 or text[i] > 57:
            return False
        value = value * 10 + (text[i] - 48)
    if value < low or value > high:
        return False
    out[0] = <uint32_t>value
    return True


cdef bint digits(const uint8_t* text, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if text[i] < 48 or text[i] > 57:
            return False
    return n > 0


cdef void take_option(options_t* o, const uint8_t* key, size_t key_len, const uint8_t* value, size_t n) noexcept nogil:
    # RFC 2347: an option stands once; of a repeated one the first counts. What is not understood is not acknowledged.
    if is_word(key, key_len, "blksize"):
        if not o.present & OPT_BLKSIZE and number(value, n, BLKSIZE_MIN, BLKSIZE_MAX, &o.blksize):
            o.present |= OPT_BLKSIZE
    elif is_word(key, key_len, "tsize"):
        if digits(value, n):         # "0" in a read request; whatever it says, the answer is the file's size
            o.present |= OPT_TSIZE
    elif is_word(key, key_len, "timeout"):
        if not o.present & OPT_TIMEOUT and number(value, n, 1, 255, &o.timeout_s):
            o.present |= OPT_TIMEOUT
    elif is_word(key, key_len, "windowsize"):
        if not o.present & OPT_WINDOWSIZE and number(value, n, 1, 65535, &o.windowsize):
            o.present |= OPT_WINDOWSIZE


cdef const uint8_t* end_of(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """The NUL that ends the string at *at*, or NULL."""
    if at >= end:
        return NULL
    return <const uint8_t*>memchr(at, 0, end - at)


cdef int request_parse(const uint8_t* packet, size_t n, request_t* out) noexcept nogil:
    cdef const uint8_t* end = packet + n
    cdef const uint8_t* at = packet + 2
    cdef const uint8_t* stop
    cdef const uint8_t* value
    cdef const uint8_t* value_stop
    cdef int opcode = opcode_of(packet, n)
    memset(out, 0, sizeof(request_t))
    if opcode != OP_RRQ and opcode != OP_WRQ:
        return ST_BAD
    out.opcode = <uint16_t>opcode
    stop = end_of(at, end)
    if stop == NULL:
        return ST_BAD
    out.name = <const char*>at
    out.name_len = <uint32_t>(stop - at)
    at = stop + 1
    stop = end_of(at, end)
    if stop == NULL:
        return ST_BAD
    if is_word(at, stop - at, "octet"):
        out.mode = MODE_OCTET
    elif is_word(at, stop - at, "netascii"):
        out.mode = MODE_NETASCII
    elif is_word(at, stop - at, "mail"):
        out.mode = MODE_MAIL
    at = stop + 1
    while at < end and at[0] != 0:   # an empty option name: some firmware pads its request with zeros
        stop = end_of(at, end)
        if stop == NULL:
            return ST_BAD
        value = stop + 1
        value_stop = end_of(value, end)
        if value_stop == NULL:
            return ST_BAD
        take_option(&out.options, at, stop - at, value, value_stop - value)
        at = value_stop + 1
    return ST_OK


cdef size_t put(uint8_t* out, const char* key, uint64_t value) noexcept nogil:
    cdef size_t n = strlen(key) + 1
    snprintf(<char*>out, n, "%s", key)
    return n + snprintf(<char*>out + n, 24, "%llu", <unsigned long long>value) + 1


cdef size_t oack_write(uint8_t* out, const options_t* options, uint64_t tsize) noexcept nogil:
    cdef size_t n = 2
    out[0] = 0
    out[1] = OP_OACK
    if options.present & OPT_BLKSIZE:
        n += put(out + n, "blksize", options.blksize)
    if options.present & OPT_TIMEOUT:
        n += put(out + n, "timeout", options.timeout_s)
    if options.present & OPT_TSIZE:
        n += put(out + n, "tsize", tsize)
    if options.present & OPT_WINDOWSIZE:
        n += put(out + n, "windowsize", options.windowsize)
    return n


cdef size_t add_text(uint8_t* out, size_t at, size_t limit, const char* text, size_t n) noexcept nogil:
    cdef size_t i
    cdef uint8_t c
    for i in range(n):
        if at >= limit:
            break
        c = <uint8_t>text[i]         # the text ends on a console: nothing from a peer's name may steer a terminal
        out[at] = c if c >= 32 and c < 127 else 63
        at += 1
    return at


cdef size_t error_write(uint8_t* out, int code, const char* before, const char* name, size_t name_len,
                        const char* after) noexcept nogil:
    cdef size_t at = 4
    cdef size_t tail = strlen(after)
    if tail > ERROR_ROOM - 5:
        tail = ERROR_ROOM - 5
    out[0] = 0
    out[1] = OP_ERROR
    out[2] = <uint8_t>(code >> 8)
    out[3] = <uint8_t>code
    at = add_text(out, at, ERROR_ROOM - 1 - tail, before, strlen(before))
    at = add_text(out, at, ERROR_ROOM - 1 - tail, name, name_len)
    at = add_text(out, at, ERROR_ROOM - 1, after, tail)
    out[at] = 0
    return at + 1


# -- the same for tests ----------------------------------------------------------------------------------------------

class Request(NamedTuple):
    """A parsed RRQ or WRQ. *options* holds the usable ones only; tsize maps to True."""

    opcode: int
    name: bytes
    mode: str
    options: dict


_MODES = {MODE_OCTET: "octet", MODE_NETASCII: "netascii", MODE_MAIL: "mail", MODE_OTHER: "other"}


def parse_request(bytes packet not None):
    """Returns a Request, or None for a malformed packet."""
    cdef request_t r
    if request_parse(<const uint8_t*><const char*>packet, len(packet), &r) != ST_OK:
        return None
    options = {}
    if r.options.present & OPT_BLKSIZE:
        options["blksize"] = r.options.blksize
    if r.options.present & OPT_TIMEOUT:
        options["timeout"] = r.options.timeout_s
    if r.options.present & OPT_TSIZE:
        options["tsize"] = True
    if r.options.present & OPT_WINDOWSIZE:
        options["windowsize"] = r.options.windowsize
    return Request(r.opcode, r.name[:r.name_len], _MODES[r.mode], options)


def build_oack(*, blksize=None, timeout=None, tsize=None, windowsize=None):
    """Returns the OACK with these options."""
    cdef options_t o
    cdef uint8_t[OACK_ROOM] out
    memset(&o, 0, sizeof(o))
    if blksize is not None:
        o.present |= OPT_BLKSIZE
        o.blksize = blksize
    if timeout is not None:
        o.present |= OPT_TIMEOUT
        o.timeout_s = timeout
    if tsize is not None:
        o.present |= OPT_TSIZE
    if windowsize is not None:
        o.present |= OPT_WINDOWSIZE
        o.windowsize = windowsize
    cdef size_t n = oack_write(out, &o, tsize or 0)
    return (<const char*>out)[:n]


def build_error(int code, bytes before not None, bytes name=b"", bytes after=b""):
    """Returns the ERROR packet as it would be sent."""
    cdef uint8_t[ERROR_ROOM] out
    cdef size_t n = error_write(out, code, before, name, len(name), after)
    return (<const char*>out)[:n]


def build_data_header(uint64_t block):
    """Returns the four bytes before a block's data."""
    cdef uint8_t[DATA_HEADER] out
    data_header(out, block)
    return (<const char*>out)[:DATA_HEADER]
