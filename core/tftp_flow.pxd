# One TFTP read transfer on a socket of its own: drives tftp_client's machine, never waits.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.client cimport body_t, endpoint_t
from bootplane.core.linux cimport iovec, mmsghdr, sockaddr_storage
from bootplane.core.tftp_client cimport tftp_get_t
from bootplane.core.tftp_network cimport network_t

cdef enum:
    ARENA_PACKETS = 64           # most datagrams of one recvmmsg
    DISCARD_ROOM = 132           # bytes copied of a DATA nobody wants; enough for an OACK or an ERROR's text

cdef struct arena_t:             # receive buffers of one client thread
    uint32_t packets             # datagrams it holds
    size_t room                  # bytes for each
    uint8_t* bytes               # owned
    mmsghdr messages[64]
    iovec vectors[64]
    sockaddr_storage names[64]

cdef struct flow_t:              # zeroed, then the wishes set (those of get, too), then flow_begin
    tftp_get_t get
    const endpoint_t* server     # borrowed
    const endpoint_t* source     # borrowed; length 0: any local address
    const char* name             # borrowed
    size_t name_size
    uint32_t drop_every          # each Nth DATA is lost on arrival; 0: none
    network_t network            # its generator seeded; zeroed: a perfect one
    body_t body
    int fd                       # owned; -1: closed
    uint8_t connected            # to the server's TID
    uint64_t data_seen           # DATA received, lost ones among them
    int64_t started_ns
    int64_t first_ns             # first payload; 0: not yet

cdef int arena_init(arena_t* a, uint32_t blksize) noexcept nogil       # ST_OK or ST_NOMEM
cdef void arena_free(arena_t* a) noexcept nogil

# Opens a socket (closed by flow_close) and sends the RRQ. ST_AGAIN: wait for POLLIN or get.deadline_ns.
cdef int flow_begin(flow_t* f, int64_t now_ns) noexcept nogil
# Takes what has arrived. ST_OK: complete. ST_AGAIN. Any other: failed, facts in get.trouble. Closes at its end.
cdef int flow_step(flow_t* f, arena_t* a, int64_t now_ns) noexcept nogil
cdef int flow_tick(flow_t* f, int64_t now_ns) noexcept nogil           # the same for get.deadline_ns
cdef int flow_expire(flow_t* f) noexcept nogil                         # the deadline of the whole has passed
cdef void flow_close(flow_t* f) noexcept nogil
