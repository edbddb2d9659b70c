# What the load clients (HTTP, TFTP) share: an address, where a body goes, what went wrong, how long it took.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from bootplane.core.linux cimport sockaddr_storage, socklen_t
from bootplane.core.sha256 cimport sha256_t

cdef enum:
    SCRATCH_ROOM = 262144        # bytes of a client thread's receive buffer
    HISTOGRAM_SLOTS = 3776       # 59 powers of two, 64 steps each: a step is at most 1.6 % wide
    TROUBLE_TEXT = 200

cdef struct endpoint_t:
    sockaddr_storage addr
    socklen_t length             # 0: not given

cdef struct body_t:              # where received bytes go; zeroed at birth, ended by body_free
    sha256_t hash
    uint8_t hashing              # 1: every byte is hashed
    uint8_t keeping              # 1: every byte is kept
    uint8_t sinking              # 1: every byte is written to sink_fd
    uint8_t sink_failed          # 1: the -errno that body_take returned was the sink's
    int sink_fd                  # borrowed
    uint8_t* kept                # owned
    size_t kept_size             # bytes
    size_t kept_room             # bytes allocated
    uint64_t size                # bytes taken since body_begin

cdef struct trouble_t:           # facts of one failure; the module that set it makes the sentence
    int cause                    # 0: none; else an enum of that module
    int err                      # errno, or a code from the wire
    int64_t expected             # -1: unknown
    int64_t got
    char text[200]               # piece of what was received, NUL-terminated

cdef struct histogram_t:         # of durations
    uint64_t total
    uint64_t slots[3776]

# Not for reactors: hashing may take the GIL (sha256.pxd), a sink may block.
cdef int body_begin(body_t* b) noexcept nogil            # ready for a new body; ST_OK, ST_NOMEM or ST_BAD
cdef int body_take(body_t* b, const uint8_t* data, size_t n) noexcept nogil   # ST_OK, ST_NOMEM, ST_BAD or -errno
cdef int body_digest(body_t* b, uint8_t* out32) noexcept nogil
cdef void body_free(body_t* b) noexcept nogil

cdef void trouble_set(trouble_t* t, int cause, int err, int64_t expected, int64_t got) noexcept nogil
cdef void trouble_quote(trouble_t* t, const char* text, size_t n) noexcept nogil  # printable ASCII; the rest become "?"

cdef void histogram_add(histogram_t* h, int64_t ns) noexcept nogil
cdef double histogram_quantile(const histogram_t* h, double fraction) noexcept nogil   # seconds; 0 when empty

cdef int64_t thread_cpu_ns() noexcept nogil              # CPU time of the calling thread

cdef int endpoint_find(str host, int port, int socktype, endpoint_t* out) except -1
cdef str authority(str host, int port)                   # "h:p", "[h]:p" for IPv6
