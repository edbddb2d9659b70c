# A request head as slices of the caller's buffer; nothing is copied, nothing is owned.
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    MAX_HEAD = 16384                 # bytes of a request head, the empty line included; above: 431
    MAX_TARGET = 8192                # bytes of a request target (RFC 9110 section 4.1: at least 8000); above: 414
    MAX_METHOD = 64                  # bytes of a method

cdef enum method_t:
    METHOD_NONE = 0                  # not read yet
    METHOD_GET
    METHOD_HEAD
    METHOD_OTHER

cdef enum head_flag_t:
    HEAD_CLOSE = 1                   # Connection: close
    HEAD_KEEP_ALIVE = 2              # Connection: keep-alive
    HEAD_TRANSFER = 4                # Transfer-Encoding is there: a body follows, of a length only its coding tells

cdef enum field_t:                   # fields this server looks at
    FIELD_OTHER = 0
    FIELD_HOST
    FIELD_RANGE
    FIELD_IF_RANGE
    FIELD_IF_MATCH
    FIELD_IF_NONE_MATCH
    FIELD_CONNECTION
    FIELD_CONTENT_LENGTH
    FIELD_TRANSFER_ENCODING
    FIELD_USER_AGENT
    FIELD_COUNT

cdef struct slice_t:                 # borrowed from the buffer that was scanned
    const char* at                   # NULL: not there
    uint32_t n                       # bytes

cdef struct head_t:
    uint32_t size                    # bytes of the whole head, leading and closing empty lines included
    uint32_t fields_at               # offset of the first field line
    uint8_t method                   # method_t; set as soon as it is read, so that a refusal knows HEAD
    uint8_t minor                    # HTTP/1.<minor>, 0 or 1 (a higher one counts as 1)
    uint8_t flags                    # head_flag_t
    slice_t method_name
    slice_t target
    slice_t field[10]                # the first of each field_t, surrounding white space cut off
    uint32_t times[10]               # how often each field_t is there
    int64_t content_length           # -1: none
    const char* why                  # after a refusal: what is wrong, in one phrase

# Reads one request head from the front of data[0:n]. ST_OK; ST_AGAIN: it goes on beyond n; 400, 414, 431 or 505:
# refused, and *why* says so. The same bytes give the same answer however they were cut: AGAIN is only said of a
# prefix of something that may still become a head.
cdef int head_scan(const char* data, size_t n, head_t* h) noexcept nogil

# Walks every line of one field (RFC 9110 section 5.3: a list may be spread over several). *cursor* begins at 0; false
# at the end. *data* is the buffer that was scanned.
cdef bint head_next(const char* data, const head_t* h, int field, uint32_t* cursor, slice_t* value) noexcept nogil

# Is *word* (lower case) one element of the comma-separated list *value*, in any case?
cdef bint list_has(slice_t value, const char* word) noexcept nogil

# The path that *target* names, percent-decoded, without scheme, authority and query. Returns its length; -1: not a
# target of GET or HEAD, or a wrong escape; -2: longer than *room*. RFC 9112 section 3.2.
cdef int target_path(const char* target, size_t n, char* out, size_t room) noexcept nogil
