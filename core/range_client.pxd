# One kept connection to a source: ranges are asked for on it, bodies are received into the caller's memory.
from libc.stdint cimport int64_t, uint8_t
from bootplane.core.client cimport trouble_t
from bootplane.core.http_reply cimport http_reply_t

cdef enum:
    RANGE_HEAD_ROOM = 8192       # longest reply head taken, bytes; what follows it in the same recv is body

cdef struct range_client_t:
    int fd                       # borrowed from the RangeClient's socket, non-blocking
    int stall_ms                 # longest wait for one byte
    int low_water                # SO_RCVLOWAT as it is set now
    uint8_t room[8192]           # RANGE_HEAD_ROOM; reply head, then the body bytes that came with it
    size_t filled                # bytes in it
    size_t taken                 # of those, given to somebody
    int64_t left                 # body bytes owed; 0: the next request may be sent
    http_reply_t reply
    trouble_t trouble

# Without the GIL. ST_OK; ST_TIMEOUT: not a byte in stall_ms, or not all by until_ns (0: no such bound); ST_CLOSED: ended before; ST_BAD: malformed; or -errno.
cdef int range_ask(range_client_t* c, const char* request, size_t n) noexcept nogil
cdef int range_receive(range_client_t* c, uint8_t* out, size_t n, int64_t until_ns) noexcept nogil
