# The head of an HTTP/1 reply, read from bytes.
from libc.stdint cimport int64_t, uint8_t
from bootplane.core.client cimport trouble_t

cdef struct http_reply_t:        # what a reply head says
    int status
    int64_t length               # Content-Length; -1: none
    uint8_t close                # the connection ends with this reply
    uint8_t coded                # Transfer-Encoding is there
    uint8_t ranged               # Content-Range is there
    int64_t range_first          # of a satisfied Content-Range; -1: unsatisfied or unknown
    int64_t range_last
    int64_t range_total          # -1: unknown

# Reads a head of *n* bytes that ends in an empty line. ST_OK, or ST_BAD with the offending line as trouble.text. With
# `coded` set, trouble.text is the Transfer-Encoding.
cdef int http_reply_parse(const char* head, size_t n, http_reply_t* out, trouble_t* trouble) noexcept nogil
