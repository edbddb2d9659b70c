"""TLS by the system's libssl: a certificate with its key, and the few calls that one connection needs.

The prototypes are written out and the library is opened at the first use, as libcrypto is (sha256): nothing is linked,
and the system's security updates count. OpenSSL 1.1.1 and 3 agree on all of these.

TLS 1.2 and 1.3. No renegotiation, no compression, no early data; no tickets and no session cache: a machine boots once,
and nothing is kept of it. ALPN: http/1.1, when it is offered.

Invariant: the context that new connections begin with is replaced whole and only by one whose certificate and key
match; connections keep the one they began with.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp
from bootplane.core.linux cimport (
    EAGAIN, errno, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from bootplane.core.status cimport ST_AGAIN, ST_BAD, ST_CLOSED, ST_OK

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* name, int flags)
    void* dlsym(void* handle, const char* name)
    enum: RTLD_NOW
    enum: RTLD_LOCAL

cdef extern from *:
    """
    #include <errno.h>
    static inline void bp_clear_errno(void) { errno = 0; }
    """
    void bp_clear_errno() nogil

ctypedef int (*alpn_t)(void* ssl, const uint8_t** out, uint8_t* out_n, const uint8_t* offered, unsigned int n,
                       void* argument) noexcept nogil
ctypedef int (*password_t)(char* into, int size, int is_for_writing, void* argument) noexcept nogil

cdef struct libssl_t:
    const void* (*server_method)() noexcept nogil
    void* (*context_new)(const void* method) noexcept nogil
    void (*context_free)(void* context) noexcept nogil
    int (*context_up_ref)(void* context) noexcept nogil
    long (*context_ctrl)(void* context, int what, long value, void* argument) noexcept nogil
    unsigned long (*context_options)(void* context, unsigned long options) noexcept nogil
    int (*context_tickets)(void* context, size_t n) noexcept nogil
    int (*context_certificate)(void* context, const char* path) noexcept nogil
    int (*context_key)(void* context, const char* path, int kind) noexcept nogil
    int (*context_check_key)(const void* context) noexcept nogil
    void (*context_password)(void* context, password_t ask) noexcept nogil
    void (*context_alpn)(void* context, alpn_t select, void* argument) noexcept nogil
    void* (*ssl_new)(void* context) noexcept nogil
    void (*ssl_free)(void* ssl) noexcept nogil
    int (*ssl_set_fd)(void* ssl, int fd) noexcept nogil
    int (*ssl_accept)(void* ssl) noexcept nogil
    int (*ssl_read)(void* ssl, void* into, int n) noexcept nogil
    int (*ssl_write)(void* ssl, const void* data, int n) noexcept nogil
    int (*ssl_get_error)(const void* ssl, int result) noexcept nogil
    void (*err_clear)() noexcept nogil
    unsigned long (*err_peek)() noexcept nogil
    const char* (*err_reason)(unsigned long error) noexcept nogil

cdef enum:                       # of OpenSSL's headers
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_WANT_WRITE = 3
    SSL_ERROR_SYSCALL = 5
    SSL_ERROR_ZERO_RETURN = 6
    SSL_CTRL_MODE = 33
    SSL_CTRL_SET_READ_AHEAD = 41
    SSL_CTRL_SET_SESS_CACHE_MODE = 44
    SSL_CTRL_CLEAR_MODE = 78
    SSL_CTRL_SET_MIN_PROTO_VERSION = 123
    SSL_MODE_ENABLE_PARTIAL_WRITE = 1
    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER = 2
    SSL_MODE_AUTO_RETRY = 4
    SSL_MODE_RELEASE_BUFFERS = 16
    SSL_OP_IGNORE_UNEXPECTED_EOF = 0x80  # OpenSSL 3; 1.1.1 has no such bit, and no alert to keep it from
    SSL_OP_NO_TICKET = 0x4000
    SSL_OP_NO_COMPRESSION = 0x20000
    SSL_OP_CIPHER_SERVER_PREFERENCE = 0x400000
    SSL_OP_NO_RENEGOTIATION = 0x40000000
    SSL_TLSEXT_ERR_OK = 0
    SSL_TLSEXT_ERR_NOACK = 3
    SSL_FILETYPE_PEM = 1
    TLS1_2_VERSION = 0x303

cdef libssl_t lib
cdef object loaded = None        # the library's file name, once it is open; it stays so for the process's life

LIBSSL = ("libssl.so.3", "libssl.so.1.1")


class TlsError(Exception):
    """There is no libssl, or a certificate and its key cannot be used; one sentence."""


def _load(names):
    """Opens the first of *names* that has every function. Returns its name. Raises TlsError."""
    global lib, loaded
    cdef libssl_t found
    cdef void* handle
    if loaded is not None:
        return loaded
    for name in names:
        raw = name.encode()
        handle = dlopen(raw, RTLD_NOW | RTLD_LOCAL)      # never closed: it may have threads' data and exit handlers
        if handle is NULL:
            continue
        found.server_method = <const void* (*)() noexcept nogil>dlsym(handle, b"TLS_server_method")
        found.context_new = <void* (*)(const void*) noexcept nogil>dlsym(handle, b"SSL_CTX_new")
        found.context_free = <void (*)(void*) noexcept nogil>dlsym(handle, b"SSL_CTX_free")
        found.context_up_ref = <int (*)(void*) noexcept nogil>dlsym(handle, b"SSL_CTX_up_ref")
        found.context_ctrl = <long (*)(void*, int, long, void*) noexcept nogil>dlsym(handle, b"SSL_CTX_ctrl")
        found.context_options = <unsigned long (*)(void*, unsigned long) noexcept nogil>dlsym(
            handle, b"SSL_CTX_set_options")
        found.context_tickets = <int (*)(void*, size_t) noexcept nogil>dlsym(handle, b"SSL_CTX_set_num_tickets")
        found.context_certificate = <int (*)(void*, const char*) noexcept nogil>dlsym(
            handle, b"SSL_CTX_use_certificate_chain_file")
        found.context_key = <int (*)(void*, const char*, int) noexcept nogil>dlsym(
            handle, b"SSL_CTX_use_PrivateKey_file")
        found.context_check_key = <int (*)(const void*) noexcept nogil>dlsym(handle, b"SSL_CTX_check_private_key")
        found.context_password = <void (*)(void*, password_t) noexcept nogil>dlsym(
            handle, b"SSL_CTX_set_default_passwd_cb")
        found.context_alpn = <void (*)(void*, alpn_t, void*) noexcept nogil>dlsym(
            handle, b"SSL_CTX_set_alpn_select_cb")
        found.ssl_new = <void* (*)(void*) noexcept nogil>dlsym(handle, b"SSL_new")
        found.ssl_free = <void (*)(void*) noexcept nogil>dlsym(handle, b"SSL_free")
        found.ssl_set_fd = <int (*)(void*, int) noexcept nogil>dlsym(handle, b"SSL_set_fd")
        found.ssl_accept = <int (*)(void*) noexcept nogil>dlsym(handle, b"SSL_accept")
        found.ssl_read = <int (*)(void*, void*, int) noexcept nogil>dlsym(handle, b"SSL_read")
        found.ssl_write = <int (*)(void*, const void*, int) noexcept nogil>dlsym(handle, b"SSL_write")
        found.ssl_get_error = <int (*)(const void*, int) noexcept nogil>dlsym(handle, b"SSL_get_error")
        found.err_clear = <void (*)() noexcept nogil>dlsym(handle, b"ERR_clear_error")
        found.err_peek = <unsigned long (*)() noexcept nogil>dlsym(handle, b"ERR_peek_error")
        found.err_reason = <const char* (*)(unsigned long) noexcept nogil>dlsym(handle, b"ERR_reason_error_string")
        if (found.server_method is NULL or found.context_new is NULL or found.context_free is NULL
                or found.context_up_ref is NULL or found.context_ctrl is NULL or found.context_options is NULL
                or found.context_tickets is NULL or found.context_certificate is NULL or found.context_key is NULL
                or found.context_check_key is NULL or found.context_password is NULL or found.context_alpn is NULL
                or found.ssl_new is NULL or found.ssl_free is NULL or found.ssl_set_fd is NULL
                or found.ssl_accept is NULL or found.ssl_read is NULL or found.ssl_write is NULL
                or found.ssl_get_error is NULL or found.err_clear is NULL or found.err_peek is NULL
                or found.err_reason is NULL):
            continue
        lib = found
        loaded = name
        return name
    raise TlsError(f"HTTPS: expected OpenSSL's library ({' or '.join(names)}) on this host, got none")


def library() -> str | None:
    """The file name of the libssl in use; None before the first Tls."""
    return loaded


# -- a certificate and its key ---------------------------------------------------------------------------------------

cdef int choose_protocol(void* ssl, const uint8_t** out, uint8_t* out_n, const uint8_t* offered, unsigned int n,
                         void* argument) noexcept nogil:
    """ALPN (RFC 7301): names with a byte of length before each."""
    cdef unsigned int at = 0
    while at < n and at + 1 + offered[at] <= n:
        if offered[at] == 8 and memcmp(offered + at + 1, b"http/1.1", 8) == 0:
            out[0] = offered + at + 1
            out_n[0] = 8
            return SSL_TLSEXT_ERR_OK
        at += 1 + <unsigned int>offered[at]
    return SSL_TLSEXT_ERR_NOACK      # it speaks HTTP/1.1 all the same, or notices that nothing was agreed on


cdef int no_password(char* into, int size, int is_for_writing, void* argument) noexcept nogil:
    return 0                         # instead of asking at the terminal


cdef str reason():
    cdef unsigned long error = lib.err_peek()
    cdef const char* text = lib.err_reason(error) if error else NULL
    lib.err_clear()
    return (<bytes>text).decode("ascii", "replace") if text is not NULL else "one that cannot be used"


cdef void* context_of(str certificate, str key) except NULL:
    """A context of its own, owned by the caller."""
    cdef void* context
    for path in (certificate, key):
        with open(path, "rb"):       # says what is wrong better than the library does
            pass
    lib.err_clear()
    context = lib.context_new(lib.server_method())
    if context is NULL:
        raise MemoryError("no memory for a certificate")
    try:
        # A client that ends its side without close_notify: OpenSSL 3 would send an alert in mid-body and say no more.
        lib.context_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE
                            | SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF)
        lib.context_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL)
        lib.context_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, 0, NULL)
        lib.context_ctrl(context, SSL_CTRL_SET_READ_AHEAD, 1, NULL)      # one recv for a record instead of two
        lib.context_ctrl(context, SSL_CTRL_MODE, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                         | SSL_MODE_RELEASE_BUFFERS, NULL)
        # A read ends after each message that is no data: else it ends when a client stops renewing its keys.
        lib.context_ctrl(context, SSL_CTRL_CLEAR_MODE, SSL_MODE_AUTO_RETRY, NULL)
        lib.context_tickets(context, 0)
        lib.context_alpn(context, choose_protocol, NULL)
        lib.context_password(context, no_password)
        if lib.context_certificate(context, certificate.encode()) != 1:
            raise TlsError(f"{certificate}: expected a certificate in PEM, its chain behind it, got {reason()}")
        if lib.context_key(context, key.encode(), SSL_FILETYPE_PEM) != 1 or lib.context_check_key(context) != 1:
            raise TlsError(f"{key}: expected the key of {certificate} in PEM, without a passphrase, got {reason()}")
    except BaseException:            # whatever it was, it goes on to the caller: only the context is not left behind
        lib.context_free(context)
        raise
    return context


cdef class Tls:
    """The certificate of an HTTPS listener, with its key: two files in PEM. Raises TlsError.

    One object may serve several reactors; it must live as long as they do (attach.pyx sees to that).
    """

    def __cinit__(self):
        pthread_mutex_init(&self.c.lock, NULL)

    def __init__(self, str certificate not None, str key not None):
        _load(LIBSSL)
        self.certificate = certificate
        self.key = key
        self.reload()

    def __dealloc__(self):
        if self.c.context is not NULL:
            lib.context_free(self.c.context)
        pthread_mutex_destroy(&self.c.lock)

    def reload(self):
        """Reads both files again; connections that come from now on get what they hold. Raises TlsError, and then
        nothing has changed."""
        cdef void* before
        cdef void* context
        try:
            context = context_of(self.certificate, self.key)
        except OSError as error:
            raise TlsError(f"{error.filename}: expected a readable file, got {error.strerror}") from error
        pthread_mutex_lock(&self.c.lock)
        before = self.c.context
        self.c.context = context
        pthread_mutex_unlock(&self.c.lock)
        if before is not NULL:
            lib.context_free(before) # connections that began with it hold it


# -- a connection ----------------------------------------------------------------------------------------------------

cdef void* tls_new(tls_context_t* t, int fd) noexcept nogil:
    cdef void* context
    cdef void* ssl
    pthread_mutex_lock(&t.lock)
    context = t.context
    lib.context_up_ref(context)
    pthread_mutex_unlock(&t.lock)
    lib.err_clear()
    ssl = lib.ssl_new(context)
    lib.context_free(context)        # the connection holds one of its own
    if ssl is not NULL and lib.ssl_set_fd(ssl, fd) != 1:
        lib.ssl_free(ssl)
        ssl = NULL
    return ssl


cdef void tls_free(void* ssl) noexcept nogil:
    if ssl is not NULL:
        lib.ssl_free(ssl)


cdef int outcome(void* ssl, int result, uint8_t* wait) noexcept nogil:
    cdef int error = lib.ssl_get_error(ssl, result)
    wait[0] = TLS_READY
    if error == SSL_ERROR_WANT_READ:
        wait[0] = TLS_WAITS_IN
        return ST_AGAIN
    if error == SSL_ERROR_WANT_WRITE:
        wait[0] = TLS_WAITS_OUT
        return ST_AGAIN
    if error == SSL_ERROR_ZERO_RETURN or error == SSL_ERROR_SYSCALL:
        return ST_CLOSED
    return ST_BAD


cdef int outcome_of_reading(void* ssl, int result, uint8_t* wait) noexcept nogil:
    cdef int error = errno           # of the recv in it, if there was one: no edge comes for what that did not ask for
    cdef int status = outcome(ssl, result, wait)
    if wait[0] == TLS_WAITS_IN and error != EAGAIN:
        wait[0] = TLS_READY
    return status


cdef int tls_accept(void* ssl, uint8_t* wait) noexcept nogil:
    cdef int result
    lib.err_clear()                  # what stands in this thread's queue is read as this call's
    bp_clear_errno()
    result = lib.ssl_accept(ssl)
    if result == 1:
        wait[0] = TLS_READY
        return ST_OK
    return outcome_of_reading(ssl, result, wait)


cdef int tls_read(void* ssl, uint8_t* into, int n, int* got, uint8_t* wait) noexcept nogil:
    cdef int result
    lib.err_clear()
    bp_clear_errno()
    got[0] = 0
    result = lib.ssl_read(ssl, into, n)
    if result > 0:
        got[0] = result
        wait[0] = TLS_READY
        return ST_OK
    return outcome_of_reading(ssl, result, wait)


cdef int tls_write(void* ssl, const uint8_t* data, int n, int* sent, uint8_t* wait) noexcept nogil:
    cdef int result
    sent[0] = 0
    wait[0] = TLS_READY
    while sent[0] < n:               # one record at a time (SSL_MODE_ENABLE_PARTIAL_WRITE)
        lib.err_clear()
        result = lib.ssl_write(ssl, data + sent[0], n - sent[0])
        if result <= 0:
            return outcome(ssl, result, wait)
        sent[0] += result
    return ST_OK
