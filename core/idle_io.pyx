"""The calling thread's disk I/O in the idle class: served when nobody else wants the disk (ioprio_set(2)).

Schedulers without classes (none, mq-deadline without priorities) ignore it. The thread's CPU priority stays as it is: a thread
that holds the GIL while it is starved would hold up everything else.
"""

from libc.errno cimport errno

cdef extern from "<sys/syscall.h>" nogil:
    enum: SYS_ioprio_set

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)

cdef enum:
    IOPRIO_WHO_PROCESS = 1           # with id 0: the calling thread
    IOPRIO_CLASS_SHIFT = 13
    IOPRIO_CLASS_IDLE = 3


def make_idle() -> int:
    """Returns 0, or the errno of a kernel that refuses (seccomp)."""
    if syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT) == 0:
        return 0
    return errno
