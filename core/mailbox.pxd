# A bounded ring of fixed-size mails with an eventfd, between Python and one reactor.
# One consumer always. Producers: push() is for a single producer thread, push_locked() for several.
from libc.stdint cimport int32_t, uint32_t, uint64_t
from bootplane.core.linux cimport pthread_mutex_t

cdef struct mail_t:              # 40 bytes
    uint32_t kind                # mail_kind_t of loop.pxd
    int32_t status               # a status code, or a descriptor
    uint64_t a
    uint64_t b
    void* p                      # ownership passes with the mail
    void* q

cdef struct mailbox_t:
    mail_t* slots                # owned, capacity is a power of two
    uint32_t mask
    uint32_t head                # atomic; next to read, written by the consumer
    uint32_t tail                # atomic; next to write, written by the producer
    int fd                       # eventfd, non-blocking, owned
    int armed                    # atomic; 1 while a wake-up is already on its way: one write per drain, not per mail
    uint64_t refused             # pushes that found the ring full
    pthread_mutex_t lock         # producers of push_locked

cdef int mailbox_init(mailbox_t* m, uint32_t capacity) noexcept nogil      # ST_OK, ST_NOMEM or -errno
cdef void mailbox_free(mailbox_t* m) noexcept nogil
cdef int mailbox_push(mailbox_t* m, const mail_t* mail) noexcept nogil     # ST_OK or ST_FULL; wakes the consumer
cdef int mailbox_push_locked(mailbox_t* m, const mail_t* mail) noexcept nogil
cdef int mailbox_begin(mailbox_t* m) noexcept nogil                        # consumer: clears eventfd and `armed` first
cdef bint mailbox_pop(mailbox_t* m, mail_t* out) noexcept nogil            # then until it returns 0
