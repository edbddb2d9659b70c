"""A bounded ring of fixed-size mails with an eventfd.

One consumer thread; one producer thread, or several behind push_locked(). A full ring refuses, it never overwrites: who
posts decides whether to try again. A wake-up costs one write per drain and not one per mail: `armed` says that one is
on its way.

The two sides meet like this (each arrow is a full barrier, else both could miss the other):

    producer: tail := tail + 1  -> armed?        consumer: armed := 0  -> tail?
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from bootplane.core.linux cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, bp_cas_int, bp_fence, bp_load_int, bp_load_u32, bp_store_int, bp_store_u32, close, errno,
    eventfd, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, read, write,
)
from bootplane.core.status cimport ST_FULL, ST_NOMEM, ST_OK, check


cdef int mailbox_init(mailbox_t* m, uint32_t capacity) noexcept nogil:
    cdef uint32_t slots = 16
    while slots < capacity:
        slots *= 2
    m.slots = <mail_t*>calloc(slots, sizeof(mail_t))
    if m.slots == NULL:
        return ST_NOMEM
    m.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if m.fd < 0:
        free(m.slots)
        m.slots = NULL
        return -errno
    m.mask = slots - 1
    m.head = 0
    m.tail = 0
    m.armed = 0
    m.refused = 0
    pthread_mutex_init(&m.lock, NULL)
    return ST_OK


cdef void mailbox_free(mailbox_t* m) noexcept nogil:
    if m.slots == NULL:
        return
    free(m.slots)
    m.slots = NULL
    close(m.fd)
    pthread_mutex_destroy(&m.lock)


cdef int mailbox_push(mailbox_t* m, const mail_t* mail) noexcept nogil:
    cdef uint32_t tail = m.tail
    cdef uint64_t one = 1
    if tail - bp_load_u32(&m.head) > m.mask:
        m.refused += 1
        return ST_FULL
    m.slots[tail & m.mask] = mail[0]
    bp_store_u32(&m.tail, tail + 1)
    bp_fence()
    if bp_load_int(&m.armed) == 0 and bp_cas_int(&m.armed, 0, 1):
        write(m.fd, &one, sizeof(one))      # cannot block: the count is 0 or 1
    return ST_OK


cdef int mailbox_push_locked(mailbox_t* m, const mail_t* mail) noexcept nogil:
    cdef int status
    pthread_mutex_lock(&m.lock)
    status = mailbox_push(m, mail)
    pthread_mutex_unlock(&m.lock)
    return status


cdef int mailbox_begin(mailbox_t* m) noexcept nogil:
    cdef uint64_t wakes = 0
    read(m.fd, &wakes, sizeof(wakes))       # EAGAIN when there was none: as good
    bp_store_int(&m.armed, 0)
    bp_fence()
    return ST_OK


cdef bint mailbox_pop(mailbox_t* m, mail_t* out) noexcept nogil:
    cdef uint32_t head = m.head
    if head == bp_load_u32(&m.tail):
        return False
    out[0] = m.slots[head & m.mask]
    bp_store_u32(&m.head, head + 1)
    return True


cdef class Mailbox:
    """A mailbox with both ends in Python: what the tests drive. Mails carry numbers only."""

    cdef mailbox_t m

    def __cinit__(self, uint32_t capacity=4096):
        check(mailbox_init(&self.m, capacity), "mailbox")

    def __dealloc__(self):
        mailbox_free(&self.m)

    def fileno(self):
        return self.m.fd

    @property
    def refused(self):
        return self.m.refused

    def push(self, uint32_t kind, int status=0, uint64_t a=0, uint64_t b=0):
        """Adds a mail; False when the ring is full. Safe from several threads."""
        cdef mail_t mail = mail_t(kind=kind, status=status, a=a, b=b, p=NULL, q=NULL)
        cdef int result
        with nogil:
            result = mailbox_push_locked(&self.m, &mail)
        return result == ST_OK

    def take(self):
        """Clears the wake-up, then returns every mail as (kind, status, a, b)."""
        cdef mail_t mail
        out = []
        mailbox_begin(&self.m)
        while mailbox_pop(&self.m, &mail):
            out.append((mail.kind, mail.status, mail.a, mail.b))
        return out
