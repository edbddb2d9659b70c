"""The files of the cache: `<directory>/<sha256>.d/<index>`, one per segment, and the lock on the directory.

Invariant: a file is made at its final length and never truncated, punched or overwritten where it was published; its bytes
leave by unlink alone. No component below the directory may be a symbolic link.

Left to others: what a file is worth and when it goes (lru_steps), closing descriptors (segments), files of an earlier run
(kept_segments).
"""

import fcntl
import os

from libc.errno cimport EBADF, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from bootplane.core.linux cimport (
    EEXIST, EINTR, ENOENT, ENOSPC, ENXIO, EROFS, ESTALE, O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, close,
    ftruncate, off_t, openat, pwrite, ssize_t, timespec, unlinkat,
)
from bootplane.core.status cimport ST_FULL, ST_OK

from bootplane.core.status import CoreError

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        unsigned int st_mode
        off_t st_size
        timespec st_ctim
    int mkdirat(int dirfd, const char* path, unsigned int mode)
    int fstat(int fd, stat_t* status)
    int fstatat(int dirfd, const char* path, stat_t* status, int flags)
    bint S_ISDIR(unsigned int mode)
    bint S_ISREG(unsigned int mode)

cdef extern from "<unistd.h>" nogil:
    off_t lseek(int fd, off_t offset, int whence)
    enum: SEEK_DATA

cdef extern from "<fcntl.h>" nogil:
    enum: O_DIRECTORY
    enum: O_NONBLOCK
    enum: AT_REMOVEDIR
    enum: AT_SYMLINK_NOFOLLOW

cdef enum:
    MAKE_TRIES = 16                  # a directory may be removed under us by an eviction this often


cdef void dir_name(const uint8_t* digest, char* out) noexcept nogil:      # out: 72 bytes
    cdef const char* digits = b"0123456789abcdef"
    cdef int i
    for i in range(32):
        out[2 * i] = digits[digest[i] >> 4]
        out[2 * i + 1] = digits[digest[i] & 15]
    memcpy(out + 64, b".d", 3)


cdef int file_make(int dirfd, const uint8_t* digest, uint32_t index, off_t length, const char** what) noexcept nogil:
    # A new file of *length* bytes; a descriptor or -errno. No component of the path may be a link.
    cdef char directory[72]
    cdef char name[16]
    cdef int sub, fd, error = 0, _tries
    dir_name(digest, directory)
    snprintf(name, sizeof(name), b"%u", index)
    for _tries in range(MAKE_TRIES):
        what[0] = b"directory cannot be made"
        if mkdirat(dirfd, directory, 0o700) != 0 and errno != EEXIST:
            return -errno
        sub = openat(dirfd, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        if sub < 0:
            if errno == ENOENT:
                continue             # its last segment has just been evicted
            return -errno
        what[0] = b"file cannot be made"
        fd = openat(sub, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        if fd < 0:
            error = errno
            if error == EEXIST and unlinkat(sub, name, 0) != 0:     # nobody's: its slot is empty and we have the name
                close(sub)
                return -EEXIST
            close(sub)
            if error == EEXIST or error == ENOENT:
                continue
            return -error
        if ftruncate(fd, length) == 0:
            close(sub)
            return fd
        error = errno
        close(fd)
        close(sub)
        return -error                # the caller cleans up with file_unlink
    return -error if error else -ENOENT


cdef int file_ctime(int fd, int64_t* ctime_ns) noexcept nogil:
    cdef stat_t status
    if fstat(fd, &status) != 0:
        return -errno
    ctime_ns[0] = <int64_t>status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec
    return ST_OK


cdef int file_open(int dirfd, const uint8_t* digest, uint32_t index, off_t length, int64_t* ctime_ns,
                   const char** what) noexcept nogil:
    cdef char directory[72]
    cdef char name[16]
    cdef stat_t status
    cdef int sub, fd, error
    dir_name(digest, directory)
    snprintf(name, sizeof(name), b"%u", index)
    what[0] = b"file cannot be opened"
    sub = openat(dirfd, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    if sub < 0:
        return -errno
    fd = openat(sub, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)     # not blocked by a pipe put in its place
    if fd < 0 and errno == EROFS:    # since remounted: good for reading still
        fd = openat(sub, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    error = errno
    close(sub)
    if fd < 0:
        return -error
    if fstat(fd, &status) != 0:
        error = errno
    elif not S_ISREG(status.st_mode) or status.st_size != length:
        what[0] = b"file is not the one that was left here"
        error = ESTALE
    else:
        ctime_ns[0] = <int64_t>status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec
        return fd
    close(fd)
    return -error


cdef bint file_has_data(int fd, off_t offset, off_t length) noexcept nogil:
    cdef off_t data = lseek(fd, offset, SEEK_DATA)
    if data < 0:
        return errno != ENXIO        # no data from here to the end; any other error says nothing
    return data < offset + length


cdef int file_unlink(int dirfd, const uint8_t* digest, uint32_t index, bint last) noexcept nogil:
    cdef char path[96]
    cdef stat_t folder
    cdef int status = ST_OK
    dir_name(digest, path)
    # A look instead of a descriptor: what is evicted because none is left must not need one.
    if fstatat(dirfd, path, &folder, AT_SYMLINK_NOFOLLOW) != 0:
        return ST_OK if errno == ENOENT else -errno
    if not S_ISDIR(folder.st_mode):  # a link or file of somebody's: nothing behind it is ours
        return ST_OK
    snprintf(path + 66, 16, b"/%u", index)
    if unlinkat(dirfd, path, 0) != 0 and errno != ENOENT:
        status = -errno
    if last:
        path[66] = 0
        unlinkat(dirfd, path, AT_REMOVEDIR)      # best effort: a foreign file or a new segment may be in it
    return status


cdef int file_write(int fd, const uint8_t* data, size_t n, off_t offset) noexcept nogil:
    # All of it or an error. A short write is how btrfs begins to say that it is full: the next call has the reason.
    cdef ssize_t took
    while n > 0:
        took = pwrite(fd, data, n, offset)
        if took < 0:
            if errno == EINTR:
                continue
            return -EROFS if errno == EBADF else -errno      # opened when it could only be read: file_open
        if took == 0:
            return -ENOSPC
        data += took
        offset += took
        n -= <size_t>took
    return ST_OK


class CacheInUse(CoreError):
    """Somebody else has this directory."""


def lock_directory(int dirfd, str directory) -> int:
    """A descriptor that holds the lock of *directory*. Raises CacheInUse when another one does.

    The lock ends with the process, so a killed rack leaves nothing to clean up. The directory itself (*dirfd*, which the
    caller keeps open) is locked as well: a lock file may be removed, or replaced by a copy, while its rack runs."""
    cdef int fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dirfd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(dirfd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:              # some network file systems lock files only
            pass
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise CacheInUse(f"cache directory {directory}: expected to be its only user, got process {holder} holding "
                         f"{directory}/lock", ST_FULL) from None
    except BaseException:
        os.close(fd)
        raise
    return fd
