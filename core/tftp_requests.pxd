# What a datagram on a request socket means: a transfer, a question, an ERROR, or nothing.
from libc.stdint cimport uint32_t
from bootplane.core.loop cimport loop_t
from bootplane.core.tftp_lifecycle cimport listener_t

# Datagram *i* of the service's request inbox, received on *listener*.
cdef void on_request(loop_t* loop, listener_t* listener, uint32_t i) noexcept nogil
