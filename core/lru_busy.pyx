"""Whose turn it is with the file of a segment: a list of (blob, index), each on the stack of the thread that is at work there.

Idea: what happens on the disk happens without the cache's lock. The mark is set before the lock is let go of and taken out
after it was taken again, so that whoever meets it under the lock waits instead of acting on half of something.

Invariant: no thread waits while a mark of its own is set, so the waits end.

Left to others: what is done meanwhile (lru_steps, lru_open).
"""

from libc.stdint cimport uint32_t

from bootplane.core.linux cimport pthread_mutex_t
from bootplane.core.lru_steps cimport busy_t, cache_t, pthread_cond_t
from bootplane.core.segments cimport blob_t

cdef extern from "<pthread.h>" nogil:
    int pthread_cond_wait(pthread_cond_t* cond, pthread_mutex_t* lock)
    int pthread_cond_broadcast(pthread_cond_t* cond)


cdef void cache_wait(cache_t* c) noexcept nogil:
    pthread_cond_wait(&c.changed, &c.lock)


cdef void busy_mark(cache_t* c, busy_t* mark, blob_t* blob, uint32_t index) noexcept nogil:
    mark.blob = blob
    mark.index = index
    mark.next = c.busy
    c.busy = mark


cdef void busy_unmark(cache_t* c, busy_t* mark) noexcept nogil:
    cdef busy_t** at = &c.busy
    while at[0] != mark:
        at = &at[0].next
    at[0] = mark.next
    pthread_cond_broadcast(&c.changed)


cdef bint is_busy(cache_t* c, blob_t* blob, uint32_t index) noexcept nogil:
    cdef busy_t* mark = c.busy
    while mark != NULL:
        if mark.blob == blob and mark.index == index:
            return True
        mark = mark.next
    return False
