# The HTTP service of one reactor: listeners, connections, the exchange on each, the sender.
from libc.stdint cimport int64_t, uint32_t
from bootplane.core.loop cimport loop_t

cdef struct http_options_t:
    uint32_t max_connections         # per reactor; above it new ones get 503 and a close
    uint32_t max_per_address         # open connections of one client address
    int64_t head_timeout_ns          # from the first byte of a head to its end
    int64_t idle_timeout_ns          # keep-alive without a request
    int64_t send_timeout_ns          # no progress while we owe bytes
    uint32_t turn_bytes              # most a connection sends before others get their turn
    uint32_t control                 # 1: hand over /MAAS/, /api/, /metrics and other methods; 0: 404 and 405 (bulk port)

# Registers listening sockets (non-blocking, SO_REUSEPORT by the caller) with the loop. Borrowed: the caller closes them
# after the thread has ended. ST_OK, ST_NOMEM or -errno.
cdef int http_start(loop_t* loop, const int* fds, int n, const http_options_t* options) noexcept nogil
cdef void http_stop(loop_t* loop) noexcept nogil      # closes every connection, frees everything; on the loop's thread
