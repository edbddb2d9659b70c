# Response heads and the one-line texts of refusals, written into the caller's buffer.
from libc.stdint cimport int64_t, uint32_t
from bootplane.core.linux cimport off_t
from bootplane.core.segments cimport blob_t

cdef enum:
    RESPONSE_ROOM = 2048             # bytes that anything written here fits in

cdef enum connection_t:              # what a response says about the connection
    CONNECTION_IMPLIED = 0           # nothing: HTTP/1.1 stays open by itself
    CONNECTION_CLOSE
    CONNECTION_KEEP                  # "keep-alive", for an HTTP/1.0 client that asked

# Head of 200, 206 or 304 for the bytes [first, end) of *blob*. Returns its length.
cdef size_t response_file(char* out, const char* date, const blob_t* blob, int status, off_t first, off_t end,
                          int connection) noexcept nogil

cdef struct refusal_t:
    int status                       # 4xx or 5xx
    int connection                   # connection_t
    const char* name                 # what it is about, or NULL; borrowed
    size_t name_length               # at most 512 bytes are shown
    const char* why                  # one phrase
    uint32_t retry_after_s           # 0: no Retry-After
    off_t size                       # of the file, for 416
    bint allow                       # 405: names the methods that are allowed
    bint no_body                     # the request was HEAD: the body is counted, not sent
    bint is_cut                      # one byte is promised and none is there: the connection will be reset

# A whole refusal, head and text. Returns its length; *head_length* gets how much of it is head.
cdef size_t response_refusal(char* out, const char* date, const refusal_t* r, size_t* head_length) noexcept nogil
