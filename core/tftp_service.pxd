# The TFTP service of one reactor: the request sockets, a few shared TID sockets, transfers and their deadlines.
from libc.stdint cimport int64_t, uint32_t
from bootplane.core.loop cimport loop_t
from bootplane.core.shares cimport shares_t

cdef struct tftp_options_t:
    shares_t* shares                 # borrowed; NULL: nobody is limited
    uint32_t max_transfers           # per reactor; above it RRQs get ERROR 0 with a message, or a
                                 # stranger's place (tftp_sessions)
    uint32_t max_blksize             # cap on blksize (RFC 2348), bytes
    uint32_t max_windowsize          # cap on windowsize (RFC 7440), blocks
    int64_t timeout_ns               # first retransmit deadline; the client's timeout option (RFC 2349) replaces it
    uint32_t retries                 # deadlines without any progress before a transfer ends
    uint32_t tids                    # TID sockets for each request socket, >= 4
    uint32_t single_port             # 1: no TID sockets, every packet leaves from the request socket's port
    uint32_t hold                    # 1: no request is read before loop.opened: it waits in its socket
    uint32_t gso                     # 1: windows go as UDP_SEGMENT messages where the route takes them

# Request sockets are bound, non-blocking UDP sockets; borrowed. TID sockets are made here on the same addresses.
cdef int tftp_start(loop_t* loop, const int* fds, int n, const tftp_options_t* options) noexcept nogil
cdef void tftp_stop(loop_t* loop) noexcept nogil
