"""SHA-256 for threads that hold no GIL: libcrypto's EVP by dlopen, hashlib where there is no libcrypto.

A stream is a zeroed sha256_t; sha256_init() begins it and sha256_free() ends it. The prototypes are written out here
instead of including OpenSSL's headers, so a fresh machine needs only a compiler, and the library is not linked, so a
wheel carries no private copy that the system's security updates would miss. Speed is that of hashlib either way.

Invariant: a stream ends with the backend that began it (its ``kind``), whatever _load() finds meanwhile.
"""

import hashlib

from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from bootplane.core.status cimport ST_BAD, ST_NOMEM, ST_OK

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* name, int flags)
    void* dlsym(void* handle, const char* name)
    int dlclose(void* handle)
    enum: RTLD_NOW
    enum: RTLD_LOCAL

# OpenSSL 1.1 and 3 agree on these; EVP functions return 1 for success.
ctypedef void* (*evp_new_t)() noexcept nogil
ctypedef void (*evp_free_t)(void* ctx) noexcept nogil
ctypedef const void* (*evp_sha256_t)() noexcept nogil
ctypedef void* (*evp_fetch_t)(void* library, const char* name, const char* properties) noexcept nogil
ctypedef int (*evp_init_t)(void* ctx, const void* md, void* engine) noexcept nogil
ctypedef int (*evp_update_t)(void* ctx, const void* data, size_t n) noexcept nogil
ctypedef int (*evp_final_t)(void* ctx, unsigned char* out, unsigned int* n) noexcept nogil

cdef struct evp_t:
    evp_new_t new_ctx
    evp_free_t free_ctx
    const void* md               # the algorithm; looked up once, kept for the process's life
    evp_init_t init
    evp_update_t update
    evp_final_t final

cdef enum:
    KIND_NONE = 0
    KIND_EVP = 1
    KIND_PYTHON = 2             # state is a reference to a hashlib object

cdef evp_t evp                  # once filled never emptied: streams that began with it still need it
cdef bint evp_chosen = False    # new streams use evp
cdef object chosen_name = None

LIBCRYPTO = ("libcrypto.so.3", "libcrypto.so.1.1")


def _load(names: tuple[str, ...]) -> str | None:
    """Choose the first of *names* that can be opened and has every symbol for new streams; None: hashlib."""
    global evp, evp_chosen, chosen_name
    cdef evp_t found
    cdef evp_sha256_t algorithm
    cdef evp_fetch_t fetch
    cdef void* handle
    for name in names:
        raw = name.encode()
        handle = dlopen(raw, RTLD_NOW | RTLD_LOCAL)
        if handle is NULL:
            continue
        found.new_ctx = <evp_new_t>dlsym(handle, b"EVP_MD_CTX_new")
        found.free_ctx = <evp_free_t>dlsym(handle, b"EVP_MD_CTX_free")
        algorithm = <evp_sha256_t>dlsym(handle, b"EVP_sha256")
        fetch = <evp_fetch_t>dlsym(handle, b"EVP_MD_fetch")      # OpenSSL 3 alone
        found.init = <evp_init_t>dlsym(handle, b"EVP_DigestInit_ex")
        found.update = <evp_update_t>dlsym(handle, b"EVP_DigestUpdate")
        found.final = <evp_final_t>dlsym(handle, b"EVP_DigestFinal_ex")
        if (found.new_ctx is NULL or found.free_ctx is NULL or algorithm is NULL or found.init is NULL
                or found.update is NULL or found.final is NULL):
            dlclose(handle)     # partner of dlopen above; a library that is used stays open for the process's life
            continue
        # EVP_sha256() alone makes OpenSSL 3 look the implementation up again at every init.
        found.md = fetch(NULL, b"SHA256", NULL) if fetch is not NULL else NULL
        if found.md is NULL:
            found.md = algorithm()
        evp = found
        evp_chosen = True
        chosen_name = name
        return name
    evp_chosen = False
    chosen_name = None
    return None


def backend() -> str:
    """What new streams are hashed with: the library's file name, or "hashlib"."""
    return chosen_name or "hashlib"


cdef int sha256_init(sha256_t* h) noexcept nogil:
    if h.kind == KIND_PYTHON or (h.state is NULL and not evp_chosen):
        return python_init(h)
    if h.state is NULL:
        h.state = evp.new_ctx()
        if h.state is NULL:
            return ST_NOMEM
        h.kind = KIND_EVP
    return ST_OK if evp.init(h.state, evp.md, NULL) == 1 else ST_BAD


cdef int sha256_update(sha256_t* h, const uint8_t* data, size_t n) noexcept nogil:
    if h.state is NULL:
        return ST_BAD           # never begun, or finished
    if n == 0:
        return ST_OK
    if h.kind == KIND_PYTHON:
        return python_update(h, data, n)
    return ST_OK if evp.update(h.state, data, n) == 1 else ST_BAD


cdef int sha256_final(sha256_t* h, uint8_t* out32) noexcept nogil:
    if h.state is NULL:
        return ST_BAD
    if h.kind == KIND_PYTHON:
        return python_final(h, out32)
    return ST_OK if evp.final(h.state, out32, NULL) == 1 else ST_BAD


cdef void sha256_free(sha256_t* h) noexcept nogil:
    if h.kind == KIND_PYTHON:
        python_free(h)
    elif h.state is not NULL:
        evp.free_ctx(h.state)
    h.state = NULL
    h.kind = KIND_NONE


cdef int sha256_once(const uint8_t* data, size_t n, uint8_t* out32) noexcept nogil:
    cdef sha256_t h
    cdef int status
    h.state = NULL
    h.kind = KIND_NONE
    status = sha256_init(&h)
    if status == ST_OK:
        status = sha256_update(&h, data, n)
    if status == ST_OK:
        status = sha256_final(&h, out32)
    sha256_free(&h)
    return status


# hashlib. An exception becomes a status: these are called from threads that have nobody to raise to.

cdef int python_init(sha256_t* h) noexcept with gil:
    try:
        stream = hashlib.sha256()
    except MemoryError:
        return ST_NOMEM
    except Exception:
        return ST_BAD
    python_free(h)
    Py_INCREF(stream)           # dropped in python_free
    h.state = <void*>stream
    h.kind = KIND_PYTHON
    return ST_OK


cdef int python_update(sha256_t* h, const uint8_t* data, size_t n) noexcept with gil:
    try:
        (<object>h.state).update(PyMemoryView_FromMemory(<char*>data, <Py_ssize_t>n, PyBUF_READ))
    except MemoryError:
        return ST_NOMEM
    except Exception:
        return ST_BAD
    return ST_OK


cdef int python_final(sha256_t* h, uint8_t* out32) noexcept with gil:
    cdef bytes digest
    try:
        digest = (<object>h.state).digest()
    except MemoryError:
        return ST_NOMEM
    except Exception:
        return ST_BAD
    memcpy(out32, <const char*>digest, 32)
    python_free(h)              # finished: a further update finds no state
    return ST_OK


cdef void python_free(sha256_t* h) noexcept with gil:
    if h.state is not NULL:
        Py_DECREF(<object>h.state)
    h.state = NULL
    h.kind = KIND_NONE


_load(LIBCRYPTO)
