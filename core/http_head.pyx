"""Request heads of HTTP/1.x, read strictly and in place.

What is refused and what is not follows RFC 9112; where it leaves a choice between mending and refusing, this refuses:
the same bytes may be handed on to a second parser, and two readings of one head are how requests are smuggled. So: no
bare LF, no folded lines, no space before a colon, one Host, one Content-Length, never both framings.

Leaves to others: which file a path means (table), what the conditions and Range are worth (http_range), what to do
about any of it (http_exchange).
"""

from typing import NamedTuple

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset, strlen
from bootplane.core.status cimport ST_AGAIN, ST_OK

cdef extern from *:
    """
    enum { BP_TOKEN = 1, BP_TARGET = 2, BP_VALUE = 4, BP_HOST = 8, BP_ALL = 15 };
    static const unsigned char bp_class[256] = {
        ['\\t'] = BP_VALUE, [' '] = BP_VALUE,
        ['0' ... '9'] = BP_ALL, ['A' ... 'Z'] = BP_ALL, ['a' ... 'z'] = BP_ALL,
        ['!'] = BP_ALL, ['$'] = BP_ALL, ['%'] = BP_ALL, ['&'] = BP_ALL, ['\\''] = BP_ALL, ['*'] = BP_ALL,
        ['+'] = BP_ALL, ['-'] = BP_ALL, ['.'] = BP_ALL, ['_'] = BP_ALL, ['~'] = BP_ALL,
        ['^'] = 7, ['`'] = 7, ['|'] = 7,
        ['('] = 14, [')'] = 14, [','] = 14, [':'] = 14, [';'] = 14, ['='] = 14, ['['] = 14, [']'] = 14,
        ['"'] = 6, ['/'] = 6, ['<'] = 6, ['>'] = 6, ['?'] = 6, ['@'] = 6, ['\\\\'] = 6, ['{'] = 6, ['}'] = 6,
        ['#'] = 5,                  /* a fragment is never sent (RFC 9110 section 7.1) */
        [0x80 ... 0xff] = BP_VALUE, /* obs-text */
    };
    """
    const uint8_t* bp_class
    enum: BP_TOKEN
    enum: BP_TARGET
    enum: BP_VALUE
    enum: BP_HOST


cdef inline bint is_of(char c, int kind) noexcept nogil:
    return (bp_class[<uint8_t>c] & kind) != 0


cdef inline bint same(const char* at, size_t n, const char* lower) noexcept nogil:
    """Compares a token with a lower-case word, without case. No other token byte turns into a letter by |0x20."""
    cdef size_t i
    if n != strlen(lower):
        return False
    for i in range(n):
        if (at[i] | 0x20) != lower[i]:
            return False
    return True


cdef int field_of(const char* name, size_t n) noexcept nogil:
    if n == 4 and same(name, n, b"host"):
        return FIELD_HOST
    if n == 5 and same(name, n, b"range"):
        return FIELD_RANGE
    if n == 8:
        if same(name, n, b"if-match"):
            return FIELD_IF_MATCH
        if same(name, n, b"if-range"):
            return FIELD_IF_RANGE
    if n == 10:
        if same(name, n, b"user-agent"):
            return FIELD_USER_AGENT
        if same(name, n, b"connection"):
            return FIELD_CONNECTION
    if n == 13 and same(name, n, b"if-none-match"):
        return FIELD_IF_NONE_MATCH
    if n == 14 and same(name, n, b"content-length"):
        return FIELD_CONTENT_LENGTH
    if n == 17 and same(name, n, b"transfer-encoding"):
        return FIELD_TRANSFER_ENCODING
    return FIELD_OTHER


cdef int refuse(head_t* h, int status, const char* why) noexcept nogil:
    h.why = why
    return status


cdef int cut_short(head_t* h, size_t n, int status) noexcept nogil:
    """The head goes on beyond the n bytes that are here: wait, unless no head may be that long."""
    if n < MAX_HEAD:
        return ST_AGAIN
    return refuse(h, status, b"the head is longer than 16384 bytes")


cdef int note_content_length(head_t* h, slice_t value) noexcept nogil:
    cdef uint32_t i
    if h.times[<int>FIELD_CONTENT_LENGTH] > 1:
        return refuse(h, 400, b"Content-Length is there twice")
    if value.n == 0 or value.n > 18:             # 18 digits: below 2**63
        return refuse(h, 400, b"Content-Length is not a number of bytes")
    h.content_length = 0
    for i in range(value.n):
        if value.at[i] < 48 or value.at[i] > 57:
            return refuse(h, 400, b"Content-Length is not a number of bytes")
        h.content_length = h.content_length * 10 + (value.at[i] - 48)
    return ST_OK


cdef int note_field(head_t* h, int field, slice_t value) noexcept nogil:
    cdef uint32_t i
    h.times[field] += 1
    if h.times[field] == 1:
        h.field[field] = value
    if field == FIELD_CONTENT_LENGTH:
        return note_content_length(h, value)
    if field == FIELD_TRANSFER_ENCODING:
        h.flags |= HEAD_TRANSFER
    elif field == FIELD_CONNECTION:
        if list_has(value, b"close"):
            h.flags |= HEAD_CLOSE
        if list_has(value, b"keep-alive"):
            h.flags |= HEAD_KEEP_ALIVE
    elif field == FIELD_HOST:
        if h.times[field] > 1:
            return refuse(h, 400, b"Host is there twice")
        for i in range(value.n):
            if not is_of(value.at[i], BP_HOST):
                return refuse(h, 400, b"Host is not a host and port")
    return ST_OK


cdef int scan_line(const char* data, size_t n, size_t* at, head_t* h) noexcept nogil:
    """The request line: method SP target SP HTTP/x.y CRLF."""
    cdef size_t p = at[0]
    cdef size_t start = p
    while p < n and is_of(data[p], BP_TOKEN):
        p += 1
    if p - start > MAX_METHOD:
        return refuse(h, 400, b"the method is longer than 64 bytes")
    if p == n:
        return cut_short(h, n, 414)
    if data[p] != 32 or p == start:
        return refuse(h, 400, b"the request line does not begin with a method and a space")
    h.method_name.at = data + start
    h.method_name.n = <uint32_t>(p - start)
    h.method = METHOD_OTHER
    if p - start == 3 and memcmp(data + start, b"GET", 3) == 0:
        h.method = METHOD_GET
    elif p - start == 4 and memcmp(data + start, b"HEAD", 4) == 0:
        h.method = METHOD_HEAD
    p += 1
    start = p
    while p < n and is_of(data[p], BP_TARGET):
        p += 1
    if p - start > MAX_TARGET:
        return refuse(h, 414, b"the target is longer than 8192 bytes")
    if p == n:
        return cut_short(h, n, 414)
    if p == start:
        return refuse(h, 400, b"the target is empty")
    h.target.at = data + start
    h.target.n = <uint32_t>(p - start)
    if data[p] == 13 or data[p] == 10:
        return refuse(h, 400, b"the request line names no HTTP version")
    if data[p] != 32:
        return refuse(h, 400, b"the target holds a byte that must be percent-encoded")
    p += 1
    start = p                        # HTTP/x.y CRLF: 10 bytes
    while p < n and p - start < 10:
        if not version_byte(data[p], p - start):
            return refuse(h, 400, b"the request line does not end in HTTP/x.y and CRLF")
        p += 1
    if p - start < 10:
        return cut_short(h, n, 414)
    if data[start + 5] != 49:
        return refuse(h, 505, b"only HTTP/1.0 and HTTP/1.1 are spoken here")
    h.minor = 0 if data[start + 7] == 48 else 1
    at[0] = p
    return ST_OK


cdef inline bint version_byte(char c, size_t i) noexcept nogil:
    if i == 5 or i == 7:
        return 48 <= c <= 57
    return c == (<const char*>b"HTTP/0.0\r\n")[i]


cdef int scan_field(const char* data, size_t n, size_t* at, head_t* h) noexcept nogil:
    """One field line: name ":" OWS value OWS CRLF."""
    cdef size_t p = at[0]
    cdef size_t start = p
    cdef size_t end
    cdef slice_t value
    while p < n and is_of(data[p], BP_TOKEN):
        p += 1
    if p == n:
        return cut_short(h, n, 431)
    if data[p] != 58:
        if p == start and (data[p] == 32 or data[p] == 9):
            return refuse(h, 400, b"a field is folded over two lines")
        return refuse(h, 400, b"a field has no name, or a byte between name and colon")
    if p == start:
        return refuse(h, 400, b"a field has no name")
    end = p
    p += 1
    while p < n and (data[p] == 32 or data[p] == 9):
        p += 1
    value.at = data + p
    while p < n and is_of(data[p], BP_VALUE):
        p += 1
    if p == n:
        return cut_short(h, n, 431)
    if data[p] != 13:
        return refuse(h, 400, b"a field's value holds a control byte or ends in a bare LF")
    if p + 1 == n:
        return cut_short(h, n, 431)
    if data[p + 1] != 10:
        return refuse(h, 400, b"a field's value holds a bare CR")
    at[0] = p + 2
    while data + p > value.at and (data[p - 1] == 32 or data[p - 1] == 9):
        p -= 1
    value.n = <uint32_t>(data + p - value.at)
    cdef int field = field_of(data + start, end - start)
    return ST_OK if field == FIELD_OTHER else note_field(h, field, value)


cdef int head_scan(const char* data, size_t n, head_t* h) noexcept nogil:
    cdef size_t p = 0
    cdef int status
    memset(h, 0, sizeof(head_t))
    h.content_length = -1
    if n > MAX_HEAD:                 # what lies beyond cannot belong to a head that is taken
        n = MAX_HEAD
    while p + 1 < n and data[p] == 13 and data[p + 1] == 10:     # RFC 9112 section 2.2: left over by an old client
        p += 2
        if p > 8:
            return refuse(h, 400, b"empty lines stand where a request should")
    if p == n or (p + 1 == n and data[p] == 13):
        return ST_AGAIN
    status = scan_line(data, n, &p, h)
    if status != ST_OK:
        return status
    h.fields_at = <uint32_t>p
    while True:
        if p == n:
            return cut_short(h, n, 431)
        if data[p] == 13:
            break
        status = scan_field(data, n, &p, h)
        if status != ST_OK:
            return status
    if p + 1 == n:
        return cut_short(h, n, 431)
    if data[p + 1] != 10:
        return refuse(h, 400, b"a bare CR stands between the fields")
    h.size = <uint32_t>(p + 2)
    if h.minor == 1 and h.times[<int>FIELD_HOST] == 0:
        return refuse(h, 400, b"HTTP/1.1 needs a Host")
    if h.flags & HEAD_TRANSFER and (h.content_length >= 0 or h.minor == 0):
        return refuse(h, 400, b"Transfer-Encoding stands with Content-Length or in HTTP/1.0")
    return ST_OK


cdef bint head_next(const char* data, const head_t* h, int field, uint32_t* cursor, slice_t* value) noexcept nogil:
    cdef uint32_t p = cursor[0] if cursor[0] else h.fields_at
    cdef uint32_t start, colon, end
    while data[p] != 13:             # the head was scanned: every line is name ":" value CRLF, the last one empty
        start = p
        while data[p] != 58:
            p += 1
        colon = p
        while data[p] != 13:
            p += 1
        end = p
        p += 2
        if field_of(data + start, colon - start) == field:
            start = colon + 1
            while start < end and (data[start] == 32 or data[start] == 9):
                start += 1
            while end > start and (data[end - 1] == 32 or data[end - 1] == 9):
                end -= 1
            value.at = data + start
            value.n = end - start
            cursor[0] = p
            return True
    return False


cdef bint list_has(slice_t value, const char* word) noexcept nogil:
    cdef uint32_t p = 0
    cdef uint32_t start, end
    while p < value.n:
        while p < value.n and (value.at[p] == 32 or value.at[p] == 9 or value.at[p] == 44):
            p += 1
        start = p
        while p < value.n and is_of(value.at[p], BP_TOKEN):
            p += 1
        end = p
        while p < value.n and (value.at[p] == 32 or value.at[p] == 9):
            p += 1
        if (p == value.n or value.at[p] == 44) and same(value.at + start, end - start, word):
            return True
        while p < value.n and value.at[p] != 44:
            p += 1
    return False


cdef inline int hex_of(char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c |= 0x20
    return c - 87 if 97 <= c <= 102 else -1


cdef int target_path(const char* target, size_t n, char* out, size_t room) noexcept nogil:
    cdef size_t p = 0
    cdef size_t length = 0
    cdef int high, low
    if n and target[0] != 47:        # absolute-form: every server must take it (section 3.2.2)
        if n > 7 and same(target, 7, b"http://"):
            p = 7
        elif n > 8 and same(target, 8, b"https://"):
            p = 8
        else:
            return -1
        if target[p] == 47 or target[p] == 63:
            return -1                # an http URI without a host (RFC 9110 section 4.2.1)
        while p < n and target[p] != 47 and target[p] != 63:
            p += 1
    while p < n and target[p] != 63:
        if length == room:
            return -2
        if target[p] != 37:
            out[length] = target[p]
            p += 1
        else:
            if p + 2 >= n:
                return -1
            high = hex_of(target[p + 1])
            low = hex_of(target[p + 2])
            if high < 0 or low < 0:
                return -1
            out[length] = <char>(high * 16 + low)
            p += 3
        length += 1
    return <int>length


# -- the same for Python ---------------------------------------------------------------------------------------------

class Head(NamedTuple):
    """A request head; fields as in head_t, slices as bytes."""

    size: int
    method: bytes
    target: bytes
    minor: int
    close: bool
    keep_alive: bool
    transfer: bool
    content_length: int
    fields: dict[str, list[bytes]]


class Refused(NamedTuple):
    """A head that is answered with *status* because of *why*."""

    status: int
    why: str


_FIELDS = {
    "Host": FIELD_HOST, "Range": FIELD_RANGE, "If-Range": FIELD_IF_RANGE, "If-Match": FIELD_IF_MATCH,
    "If-None-Match": FIELD_IF_NONE_MATCH, "Connection": FIELD_CONNECTION, "Content-Length": FIELD_CONTENT_LENGTH,
    "Transfer-Encoding": FIELD_TRANSFER_ENCODING, "User-Agent": FIELD_USER_AGENT,
}


def parse_head(bytes data not None):
    """Reads one head from the front of *data*: Head, Refused, or None when more bytes are needed."""
    cdef head_t h
    cdef slice_t value
    cdef uint32_t cursor
    cdef const char* raw = data
    cdef int status = head_scan(raw, len(data), &h)
    if status == ST_AGAIN:
        return None
    if status != ST_OK:
        return Refused(status, h.why.decode())
    fields = {}
    for name, field in _FIELDS.items():
        cursor = 0
        lines = []
        while head_next(raw, &h, field, &cursor, &value):
            lines.append(value.at[:value.n])
        if len(lines) != h.times[<int>field]:
            raise AssertionError(f"{name}: counted {h.times[<int>field]} lines, walked over {len(lines)}")
        if lines:
            fields[name] = lines
    return Head(h.size, h.method_name.at[:h.method_name.n], h.target.at[:h.target.n], h.minor,
                bool(h.flags & HEAD_CLOSE), bool(h.flags & HEAD_KEEP_ALIVE), bool(h.flags & HEAD_TRANSFER),
                h.content_length, fields)


def decode_target(bytes target not None, int room=2048):
    """The path a target names, percent-decoded; None for one that is refused. ValueError: longer than *room*."""
    cdef bytearray out = bytearray(room + 1)
    cdef int n = target_path(target, len(target), out, room)
    if n == -2:
        raise ValueError(f"target of {len(target)} bytes: expected at most {room} bytes of path")
    return None if n < 0 else bytes(out[:n])
