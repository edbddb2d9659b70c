# Reactor: one thread, one loop_t, its two mailboxes and counters; the Python face of them.
from bootplane.core.counters cimport CounterBlock
from bootplane.core.loop cimport loop_t
from bootplane.core.mailbox cimport mailbox_t
from bootplane.core.records cimport records_t

cdef class Reactor:
    cdef loop_t loop
    cdef mailbox_t inbox         # Python -> reactor, several producers
    cdef mailbox_t outbox        # reactor -> Python
    cdef records_t ring          # reactor -> Python: transfers that have ended
    cdef CounterBlock block
    cdef object thread           # threading.Thread or None
    cdef int pid                 # of the process that started the thread: a forked child has none to join
    cdef bint opened             # loop_init succeeded
    cdef bint finished           # the thread has left loop_run
    cdef readonly int index
    cdef object __weakref__
    cdef object shares           # Shares or None: the groups of its HTTP clients
    cdef object tftp_shares      # and of its TFTP clients
    cdef object addresses        # Addresses that its HTTP service counts in
    cdef object tls              # (Tls, Addresses) of its HTTPS service
    cdef int post(self, const void* mail) except -1
