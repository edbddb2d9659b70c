# SHA-256 by libcrypto's EVP, found with dlopen (no headers, no link: facts in docs/adr); hashlib where it is missing.
from libc.stdint cimport uint8_t

cdef struct sha256_t:
    void* state                 # of this stream; owned, freed by sha256_free
    uint8_t kind                # private: whose object state is, so that a stream ends with the backend it began with

# All return ST_OK, ST_NOMEM or ST_BAD. None of them takes the GIL while libcrypto is there; without it they take
# the GIL and use hashlib, which is why only fill and client threads call them, never a reactor.
cdef int sha256_init(sha256_t* h) noexcept nogil            # also restarts a stream that was finished
cdef int sha256_update(sha256_t* h, const uint8_t* data, size_t n) noexcept nogil
cdef int sha256_final(sha256_t* h, uint8_t* out32) noexcept nogil
cdef void sha256_free(sha256_t* h) noexcept nogil           # safe on a zeroed struct
cdef int sha256_once(const uint8_t* data, size_t n, uint8_t* out32) noexcept nogil
