# The HTTPS listeners of one reactor, whose connections are HTTP's once their handshake is done.
from bootplane.core.loop cimport loop_t
from bootplane.core.tls_sessions cimport tls_options_t

# The loop must have its HTTP service. Listening sockets are borrowed, as HTTP's. ST_OK, ST_NOMEM or -errno.
cdef int tls_start(loop_t* loop, const int* fds, int n, const tls_options_t* options) noexcept nogil
# After http_stop: passes on what clients take, then closes everything.
cdef void tls_stop(loop_t* loop) noexcept nogil
