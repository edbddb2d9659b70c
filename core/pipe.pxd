# Pages of a file to a socket through a pipe of our own. One pipe for each reactor: it is empty between two calls.
from bootplane.core.linux cimport off_t

cdef enum:
    PIPE_BYTES = 1048576         # what it holds; what an unprivileged process may have

cdef struct pipe_t:
    int inlet                    # owned; -1: there is none
    int outlet                   # owned
    int nowhere                  # owned; takes what a socket did not

cdef void pipe_open(pipe_t* p) noexcept nogil        # none (inlet -1) where the system gives no such pipe
cdef void pipe_close(pipe_t* p) noexcept nogil       # also of none

# From [offset, offset + n) of *fd* to *sock*, which is non-blocking. *sent* bytes of it are with the kernel.
# ST_OK: the rest of them, if there is one, is for sendfile: there is no pipe, or too little room for it to be worth
# while, or the file does not give what it should, which sendfile will name. ST_AGAIN: the socket has no room.
# ST_CLOSED: it takes no more ever.
cdef int pipe_send(pipe_t* p, int sock, int fd, off_t offset, size_t n, size_t* sent) noexcept nogil

cdef class Pipe:
    cdef pipe_t p
