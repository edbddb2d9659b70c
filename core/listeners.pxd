# The listening TCP sockets of one service on one reactor: accepting, and what stands in its way.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from bootplane.core.linux cimport sockaddr_storage
from bootplane.core.loop cimport handler_t, loop_t, ticker_t

cdef struct listeners_t

cdef struct listener_t:
    handler_t handler                # first
    listeners_t* all
    int fd                           # borrowed
    uint8_t pending                  # 1: accept may find something

cdef struct listeners_t:             # part of the service's own struct
    loop_t* loop
    ticker_t* ticker                 # the service's: made due when somebody comes
    void (*admit)(loop_t* loop, int fd, const sockaddr_storage* peer) noexcept nogil   # owns *fd* from here on
    bint (*make_room)(loop_t* loop) noexcept nogil       # the process has no descriptor left: has one been closed?
    uint32_t hold                    # 1: nobody is let in before loop.opened
    uint32_t inherited               # 1: others have these sockets, too: reactors, and whoever started us
    listener_t* items                # owned
    int n
    int64_t again_ns                 # when descriptors had run out; NEVER otherwise

# With loop to inherited set by the caller. ST_OK, or an error with nothing left behind.
cdef int listeners_start(listeners_t* l, const int* fds, int n) noexcept nogil
cdef void listeners_accept(listeners_t* l) noexcept nogil        # in each tick
# No more come. *rest*: who has come to a socket of our own already is let in; who comes now is refused at once.
cdef void listeners_end(listeners_t* l, bint rest) noexcept nogil
cdef void listeners_free(listeners_t* l) noexcept nogil
