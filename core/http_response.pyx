"""What this server says before a file's bytes, or instead of them.

Firmware reads these heads, so its quirks are law: Title-Case names (GRUB compares them so), Content-Length on every
response that may have a body, never chunked, no redirect, no empty value. A refusal carries one line of text that names
the file, because it is what GRUB, iPXE and curl show the person in front of the machine.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, strlen
from bootplane.core.base64 cimport put_base64
from bootplane.core.linux cimport off_t
from bootplane.core.segments cimport blob_t

cdef enum:
    SHOWN_NAME = 512                 # bytes of a name in a refusal

cdef inline char* put(char* out, const char* text) noexcept nogil:
    cdef size_t n = strlen(text)     # a literal's: the compiler knows it
    memcpy(out, text, n)
    return out + n


cdef inline char* put_bytes(char* out, const char* text, size_t n) noexcept nogil:
    memcpy(out, text, n)
    return out + n


cdef char* put_number(char* out, uint64_t value) noexcept nogil:
    cdef char digits[20]
    cdef int n = 0
    while True:
        digits[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    while n:
        n -= 1
        out[0] = digits[n]
        out += 1
    return out


cdef const char* reason_of(int status) noexcept nogil:
    if status == 200:
        return b"200 OK"
    if status == 206:
        return b"206 Partial Content"
    if status == 304:
        return b"304 Not Modified"
    if status == 400:
        return b"400 Bad Request"
    if status == 404:
        return b"404 Not Found"
    if status == 405:
        return b"405 Method Not Allowed"
    if status == 408:
        return b"408 Request Timeout"
    if status == 410:
        return b"410 Gone"
    if status == 412:
        return b"412 Precondition Failed"
    if status == 414:
        return b"414 URI Too Long"
    if status == 416:
        return b"416 Range Not Satisfiable"
    if status == 431:
        return b"431 Request Header Fields Too Large"
    if status == 505:
        return b"505 HTTP Version Not Supported"
    return b"503 Service Unavailable"


cdef char* put_start(char* out, int status, const char* date, int connection) noexcept nogil:
    out = put(out, b"HTTP/1.1 ")
    out = put(out, reason_of(status))
    out = put(out, b"\r\nDate: ")
    out = put(out, date)
    if connection == CONNECTION_CLOSE:
        out = put(out, b"\r\nConnection: close")
    elif connection == CONNECTION_KEEP:
        out = put(out, b"\r\nConnection: keep-alive")
    return out


cdef size_t response_file(char* out, const char* date, const blob_t* blob, int status, off_t first, off_t end,
                          int connection) noexcept nogil:
    cdef char* p = put_start(out, status, date, connection)
    p = put(p, b"\r\nETag: ")
    p = put_bytes(p, blob.etag, 66)                          # 64 hex digits in quotes
    if status != 304:                                        # RFC 9110 section 15.4.5: no metadata but what caches need
        p = put(p, b"\r\nContent-Type: ")
        p = put(p, b"text/plain" if blob.dynamic else b"application/octet-stream")
        p = put(p, b"\r\nContent-Length: ")
        p = put_number(p, <uint64_t>(end - first))
        p = put(p, b"\r\nAccept-Ranges: bytes")
    if status == 206:
        p = put(p, b"\r\nContent-Range: bytes ")
        p = put_number(p, <uint64_t>first)
        p[0] = 45
        p = put_number(p + 1, <uint64_t>(end - 1))
        p[0] = 47
        p = put_number(p + 1, <uint64_t>blob.size)
    elif status == 200:
        p = put(p, b"\r\nRepr-Digest: sha-256=:")            # RFC 9530 section 3
        p = put_bytes(p, blob.digest_base64, 44)
        p[0] = 58
        p += 1
    p = put(p, b"\r\n\r\n")
    return <size_t>(p - out)


cdef size_t response_refusal(char* out, const char* date, const refusal_t* r, size_t* head_length) noexcept nogil:
    cdef char text[768]
    cdef char* t = put(text, reason_of(r.status))
    cdef char* p = put_start(out, r.status, date, r.connection)
    if r.name != NULL:
        t = put(t, b": ")
        t = put_bytes(t, r.name, r.name_length if r.name_length < SHOWN_NAME else SHOWN_NAME)
    if r.why != NULL:
        t = put(t, b": ")
        t = put(t, r.why)
    t[0] = 10
    t += 1
    if r.status == 416:
        p = put(p, b"\r\nContent-Range: bytes */")
        p = put_number(p, <uint64_t>r.size)
    if r.allow:
        p = put(p, b"\r\nAllow: GET, HEAD")
    if r.retry_after_s:
        p = put(p, b"\r\nRetry-After: ")
        p = put_number(p, r.retry_after_s)
    p = put(p, b"\r\nContent-Type: text/plain\r\nContent-Length: ")
    p = put_number(p, 1 if r.is_cut else <uint64_t>(t - text))
    p = put(p, b"\r\n\r\n")
    head_length[0] = <size_t>(p - out)
    if not r.no_body and not r.is_cut:
        p = put_bytes(p, text, <size_t>(t - text))
    return <size_t>(p - out)


# -- the same for Python ---------------------------------------------------------------------------------------------

def base64(bytes data not None):
    """Base64 as Repr-Digest carries it, to be compared with the standard library's."""
    cdef bytearray out = bytearray(4 * ((len(data) + 2) // 3) + 1)
    cdef char* start = out
    cdef const char* raw = data
    cdef char* end = put_base64(start, <const uint8_t*>raw, len(data))
    return bytes(out[:end - start])


def refusal(int status, bytes name=None, str why="", bytes date=b"", *, bint close=False, bint head=False,
            int retry_after=0, off_t size=0, bint allow=False):
    """The whole of a refusal, as bytes."""
    cdef char out[RESPONSE_ROOM]
    cdef size_t head_length = 0
    cdef refusal_t r
    raw = why.encode()
    if len(raw) > 128 or len(date) > 32:
        raise ValueError(f"expected a phrase and a date of at most 128 and 32 bytes, got {len(raw)} and {len(date)}")
    r.status = status
    r.connection = CONNECTION_CLOSE if close else CONNECTION_IMPLIED
    r.name = NULL
    r.name_length = 0
    if name is not None:
        r.name = name
        r.name_length = len(name)
    r.why = raw
    r.retry_after_s = retry_after
    r.size = size
    r.allow = allow
    r.no_body = head
    r.is_cut = False
    cdef size_t n = response_refusal(out, date, &r, &head_length)
    return out[:n]
