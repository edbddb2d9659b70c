# TLS by the system's libssl, found with dlopen (ADR 6, ADR 17): a certificate with its key, and what a connection says.
from libc.stdint cimport uint8_t
from bootplane.core.linux cimport pthread_mutex_t

cdef struct tls_context_t:
    pthread_mutex_t lock         # over *context*; held for a pointer move
    void* context                # SSL_CTX*, owned; replaced whole

cdef class Tls:
    cdef tls_context_t c
    cdef readonly str certificate
    cdef readonly str key

# What a connection's next step waits for on its socket, after ST_AGAIN.
cdef enum tls_wait_t:
    TLS_READY = 0
    TLS_WAITS_IN = 1             # bytes of the client
    TLS_WAITS_OUT = 2            # room for bytes to it

# An SSL* on a connected, non-blocking socket, which stays the caller's; NULL: no memory. Freed by tls_free, which sends
# nothing: no close_notify, ever (tls_session says why).
cdef void* tls_new(tls_context_t* t, int fd) noexcept nogil
cdef void tls_free(void* ssl) noexcept nogil

# ST_OK, ST_AGAIN with what it waits for in *wait*, ST_CLOSED (the client's end, orderly or not), or ST_BAD (no more can
# be said on this connection; an alert was sent where one is due). ST_AGAIN and TLS_READY from the first two: a message
# that was no data was dealt with, and there may be more; call again.
cdef int tls_accept(void* ssl, uint8_t* wait) noexcept nogil
cdef int tls_read(void* ssl, uint8_t* into, int n, int* got, uint8_t* wait) noexcept nogil
# Sends as much as the socket takes. After ST_AGAIN the bytes from *sent* on must come again, all of them and no more.
cdef int tls_write(void* ssl, const uint8_t* data, int n, int* sent, uint8_t* wait) noexcept nogil
