# Verifier: the SHA-256, size and chunk list of a stream in one pass, against what was promised.
from libc.stdint cimport uint8_t, uint64_t
from bootplane.core.sha256 cimport sha256_t

cdef class Verifier:
    cdef sha256_t whole          # over every byte; freed in __dealloc__
    cdef sha256_t chunk          # over the current chunk; freed in __dealloc__
    cdef uint64_t size           # bytes seen
    cdef uint64_t in_chunk       # bytes of the current chunk seen, 0..CHUNK_BYTES-1
    cdef bint finished           # an end of either kind: finish() was called, or bytes were refused
    cdef int busy                # atomic; 1 while a thread is inside: update() runs without the GIL
    cdef bytearray chunks        # 32 bytes for each finished chunk
    cdef readonly object expected_sha256    # hex or None
    cdef readonly object expected_size      # bytes or None
    cdef readonly str name                  # what is verified, for messages
