# The socket that a TID sends from, and how wide the way to a client is.
from bootplane.core.tftp_sessions cimport path_t

# A second socket on the port of *fd*, to send from: nothing that arrives ever comes to it. Descriptor or -errno.
cdef int outlet_socket(int fd) noexcept nogil
# Whether IPv4 datagrams larger than the path leave in pieces or are refused with EMSGSIZE. ST_OK or -errno.
cdef int allow_fragments(int fd, bint allow) noexcept nogil
# The largest block that reaches the client of *path* in one piece, as far as the kernel knows by now; never below 512,
# which needs no agreement. 65464 when it does not know.
cdef unsigned int path_blksize(const path_t* path) noexcept nogil
