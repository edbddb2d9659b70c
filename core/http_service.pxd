# The HTTP service of one reactor: listeners, connections, the exchange on each, the sender.
from bootplane.core.http_connection cimport http_options_t
from bootplane.core.linux cimport sockaddr_storage
from bootplane.core.loop cimport loop_t

# Registers listening sockets (non-blocking, SO_REUSEPORT by the caller) with the loop. Borrowed: the caller closes them
# after the thread has ended. ST_OK, ST_NOMEM or -errno.
cdef int http_start(loop_t* loop, const int* fds, int n, const http_options_t* options) noexcept nogil
# Takes over a connected, non-blocking socket of a client at *peer*, which need not be the socket's own peer.
cdef void http_admit(loop_t* loop, int fd, const sockaddr_storage* peer) noexcept nogil
cdef void http_stop(loop_t* loop) noexcept nogil      # closes every connection, frees everything; on the loop's thread
