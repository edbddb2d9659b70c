# Bytes of a blob to a socket without a copy in user space. Sockets are non-blocking; nothing here waits.
#
# Results: ST_OK       all of it is with the kernel
#          ST_AGAIN    the kernel took less; *sent says how much (see send_file about less and more than zero)
#          ST_CLOSED   the peer is gone
#          -errno      anything else, see is_damage
from libc.stdint cimport int64_t, uint8_t
from bootplane.core.linux cimport off_t
from bootplane.core.pipe cimport pipe_t
from bootplane.core.segments cimport blob_t

# Head and body in one sendmsg; body may be NULL. *more*: a body follows, keep a short packet back (MSG_MORE).
# ST_TRUNCATED: the body's mapping ends before it should.
cdef int send_parts(int sock, const char* head, size_t head_n, const uint8_t* body, size_t body_n, bint more,
                    size_t* sent) noexcept nogil

# One sendfile of [offset, offset + n) of *fd*. ST_AGAIN with *sent* > 0 has two causes that look alike: no room, or the
# file ends here. The next call tells: 0 bytes are ST_TRUNCATED. The caller must make that call even if no edge comes.
cdef int send_file(int sock, int fd, off_t offset, size_t n, size_t* sent) noexcept nogil

# Up to *budget* bytes of [offset, end) of *blob*. ST_OK: the budget or the end was reached. ST_ABSENT: the byte at
# offset + sent is not here. ST_TRUNCATED: the blob's file is shorter than promised. *pipe*: to go through; NULL: none.
cdef int send_blob(int sock, blob_t* blob, off_t offset, off_t end, off_t budget, int64_t now_ns,
                   pipe_t* pipe, size_t* sent) noexcept nogil

# Whether a status of these functions says that the file cannot be read, and nothing about the peer.
cdef bint is_damage(int status) noexcept nogil

# Closes with RST: what is still unsent is thrown away, and the peer sees an error instead of an end.
cdef void socket_reset(int sock) noexcept nogil
