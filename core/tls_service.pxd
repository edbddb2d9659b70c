# The HTTPS listeners of one reactor, whose connections are HTTP's once their handshake is done.
from libc.stdint cimport int64_t, uint32_t
from bootplane.core.http_addresses cimport addresses_t
from bootplane.core.loop cimport loop_t
from bootplane.core.tls cimport tls_context_t

cdef struct tls_options_t:
    tls_context_t* context           # borrowed
    addresses_t* addresses           # borrowed: the counts for the next two; others than HTTP's
    uint32_t max_sessions            # above it the oldest that has sent no hello leaves, or the new one is closed
    uint32_t max_per_address
    uint32_t max_handshakes          # under way at a time on this reactor: each holds 43 KiB
    int64_t hello_timeout_ns         # from accept to a whole first record; the same again for the rest of the handshake
    int64_t send_timeout_ns          # no progress with the last bytes of a connection that HTTP has ended
    uint32_t hold                    # as HTTP's
    uint32_t inherited               # as HTTP's

# The loop must have its HTTP service. Listening sockets are borrowed, as HTTP's. ST_OK, ST_NOMEM or -errno.
cdef int tls_start(loop_t* loop, const int* fds, int n, const tls_options_t* options) noexcept nogil
cdef void tls_stop(loop_t* loop) noexcept nogil      # after http_stop: passes on what clients take, then closes everything
