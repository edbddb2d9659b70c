"""The head of an HTTP/1 reply, read from bytes: status, how long the body is, whether the connection ends with it.

Pure: no socket, no memory of its own. Strict where a boot loader would stumble (a folded line, white space before a
colon, two lengths that differ, an interim reply); what the caller may accept beyond that (chunks, a range nobody asked
for) is only told.
"""

from libc.stdint cimport int64_t
from libc.string cimport memchr, memset
from bootplane.core.client cimport trouble_quote, trouble_t
from bootplane.core.status cimport ST_BAD, ST_OK

from bootplane.core.status import RemoteError

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char* a, const char* b, size_t n)


cdef int64_t number(const char* p, const char* end) noexcept nogil:
    """Decimal digits from *p* to *end*; -1 when there is anything else, nothing, or too much."""
    cdef int64_t v = 0
    if p >= end or end - p > 18:
        return -1
    while p < end:
        if not c"0" <= p[0] <= c"9":
            return -1
        v = v * 10 + (p[0] - c"0")
        p += 1
    return v


cdef bint named(const char* line, size_t n, const char* name, size_t name_size) noexcept nogil:
    return n > name_size and line[name_size] == c":" and strncasecmp(line, name, name_size) == 0


cdef bint has_token(const char* p, const char* end, const char* token, size_t n) noexcept nogil:
    """Whether the comma-separated list from *p* to *end* names *token*."""
    cdef const char* first
    while p < end:
        while p < end and (p[0] == c"," or p[0] == c" " or p[0] == c"\t"):
            p += 1
        first = p
        while p < end and p[0] != c"," and p[0] != c" " and p[0] != c"\t":
            p += 1
        if <size_t>(p - first) == n and strncasecmp(first, token, n) == 0:
            return True
    return False


cdef bint content_range(const char* p, const char* end, http_reply_t* out) noexcept nogil:
    """"bytes 0-99/100", "bytes 0-99/*" or "bytes */100" (RFC 9110, 14.4)."""
    cdef const char* slash
    cdef const char* dash
    if end - p < 6 or strncasecmp(p, b"bytes ", 6) != 0:
        return False
    p += 6
    slash = <const char*>memchr(p, c"/", end - p)
    if slash is NULL:
        return False
    out.ranged = 1
    out.range_total = -1
    if not (end - slash == 2 and slash[1] == c"*"):
        out.range_total = number(slash + 1, end)
        if out.range_total < 0:
            return False
    if slash - p == 1 and p[0] == c"*":
        out.range_first = -1
        return out.range_total >= 0
    dash = <const char*>memchr(p, c"-", slash - p)
    if dash is NULL:
        return False
    out.range_first = number(p, dash)
    out.range_last = number(dash + 1, slash)
    return 0 <= out.range_first <= out.range_last and (out.range_total < 0 or out.range_last < out.range_total)


cdef int http_reply_parse(const char* head, size_t n, http_reply_t* out, trouble_t* trouble) noexcept nogil:
    """Read a head of *n* bytes that ends in an empty line. ST_OK, or ST_BAD with the offending line in *trouble*."""
    cdef const char* line = head
    cdef const char* head_end = head + n - 2      # without the empty line
    cdef const char* end
    cdef const char* value
    cdef const char* colon
    cdef int64_t length
    cdef bint bad
    cdef bint closes = False
    memset(out, 0, sizeof(http_reply_t))
    out.length = -1
    out.range_first = -1
    while line < head_end:
        end = <const char*>memchr(line, c"\n", head_end - line)
        if end is NULL or end == line or (end - 1)[0] != c"\r":
            end = head_end if end is NULL else end
            bad = True
        elif line == head:                        # HTTP/1.1 200 OK
            end -= 1
            bad = (end - line < 12 or strncasecmp(line, b"HTTP/1.", 7) != 0 or line[8] != c" "
                   or not (line[7] == c"0" or line[7] == c"1") or (end - line > 12 and line[12] != c" "))
            if not bad:
                out.status = <int>number(line + 9, line + 12)
                out.close = line[7] == c"0"
                bad = out.status < 200            # interim replies are nobody's business with a GET
        else:
            end -= 1
            colon = <const char*>memchr(line, c":", end - line)
            bad = colon is NULL or colon == line or line[0] == c" " or line[0] == c"\t"
            bad = bad or (colon - 1)[0] == c" " or (colon - 1)[0] == c"\t"
            bad = bad or memchr(line, 0, end - line) is not NULL
            if not bad:
                value = colon + 1
                while value < end and (value[0] == c" " or value[0] == c"\t"):
                    value += 1
                if named(line, end - line, b"content-length", 14):
                    length = number(value, end)
                    bad = length < 0 or (out.length >= 0 and out.length != length)
                    out.length = length
                elif named(line, end - line, b"transfer-encoding", 17):
                    out.coded = 1
                    trouble_quote(trouble, value, end - value)
                elif named(line, end - line, b"connection", 10):
                    closes = closes or has_token(value, end, b"close", 5)
                    if closes or has_token(value, end, b"keep-alive", 10):
                        out.close = closes
                elif named(line, end - line, b"content-range", 13):
                    bad = not content_range(value, end, out)
        if bad:
            trouble_quote(trouble, line, end - line)
            return ST_BAD
        line = end + 2
    return ST_OK


def parse_reply(bytes head not None) -> dict[str, int]:
    """Read one reply head that ends in an empty line. Raises RemoteError with the offending line."""
    cdef http_reply_t reply
    cdef trouble_t trouble
    if not head.endswith(b"\r\n\r\n"):
        raise ValueError("expected a head that ends in an empty line")
    memset(&trouble, 0, sizeof(trouble))
    if http_reply_parse(head, len(head), &reply, &trouble) != ST_OK:
        line = trouble.text.decode("ascii")
        raise RemoteError(f"expected the head of an HTTP/1 reply, got the line {line!r}", ST_BAD)
    return dict(reply)
