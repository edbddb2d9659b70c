# The files of the cache. On fill threads only: every call may wait for the disk.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from bootplane.core.linux cimport off_t

# A new file of *length* bytes: a descriptor, or -errno and *what* says which step failed (static text).
cdef int file_make(int dirfd, const uint8_t* digest, uint32_t index, off_t length, const char** what) noexcept nogil
# The file again: a descriptor, or -errno and *what*; -ESTALE: there is something else than a regular file of that length.
cdef int file_open(int dirfd, const uint8_t* digest, uint32_t index, off_t length, int64_t* ctime_ns,
                   const char** what) noexcept nogil
cdef int file_ctime(int fd, int64_t* ctime_ns) noexcept nogil    # of the inode: its last change of any kind; ST_OK or -errno
cdef bint file_has_data(int fd, off_t offset, off_t length) noexcept nogil   # no: a hole, nobody ever wrote there
# ST_OK (also when it was not there) or -errno. *last*: the blob's directory is removed too, if it is empty.
cdef int file_unlink(int dirfd, const uint8_t* digest, uint32_t index, bint last) noexcept nogil
cdef int file_write(int fd, const uint8_t* data, size_t n, off_t offset) noexcept nogil      # all of it (ST_OK), or -errno
