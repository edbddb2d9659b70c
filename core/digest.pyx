"""Verifier: one pass over a stream gives its SHA-256, its size and its chunk list, checked against what was promised.

Both digests are fed in pieces small enough to stay in the first-level cache, so the second one reads no memory again.
Nothing is copied and the GIL is released for the whole of update(). What to do with refused bytes is the caller's part.

Invariant: a Verifier that has raised, or finished, never answers again.
"""

from typing import NamedTuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from libc.stdint cimport uint8_t, uint64_t
from bootplane.core.linux cimport bp_cas_int, bp_store_int
from bootplane.core.sha256 cimport sha256_final, sha256_free, sha256_init, sha256_once, sha256_update
from bootplane.core.status cimport ST_MISMATCH, ST_OK, check

from bootplane.core.status import DigestMismatch

cdef enum:
    CHUNK_BYTES = 1048576        # as in segments.pxd; a test compares. Not cimported: blobs are built on digests
    PIECE_BYTES = 16384          # half of a 32 KiB first-level cache


class Verified(NamedTuple):
    """What a stream turned out to be."""

    sha256: str  # hex
    size: int  # bytes
    chunks: bytes  # 32 bytes for each chunk
    root: str  # hex SHA-256 of the chunk list


cdef int verifier_feed(Verifier v, const uint8_t* data, uint64_t n, uint8_t* list_end) noexcept nogil:
    """Hash *n* bytes; the digest of each chunk that ends among them goes to *list_end*, 32 bytes each."""
    cdef uint64_t piece
    cdef int status
    while n:
        piece = min(n, min(<uint64_t>PIECE_BYTES, CHUNK_BYTES - v.in_chunk))
        status = sha256_update(&v.whole, data, piece)
        if status == ST_OK:
            status = sha256_update(&v.chunk, data, piece)
        if status != ST_OK:
            return status
        v.size += piece
        v.in_chunk += piece
        data += piece
        n -= piece
        if v.in_chunk == CHUNK_BYTES:
            status = sha256_final(&v.chunk, list_end)
            if status == ST_OK:
                status = sha256_init(&v.chunk)
            if status != ST_OK:
                return status
            list_end += 32
            v.in_chunk = 0
    return ST_OK


cdef int verifier_enter(Verifier v) except -1:
    """Claim *v* for the calling thread; partner: bp_store_int(&v.busy, 0) in the caller's finally."""
    if not bp_cas_int(&v.busy, 0, 1):
        raise ValueError(f"{v.name}: a Verifier serves one thread at a time")
    if v.finished:
        bp_store_int(&v.busy, 0)
        raise ValueError(f"{v.name}: the Verifier has already finished")
    return 0


cdef class Verifier:
    """Checks a stream against *expected_sha256* (64 hex digits) and *expected_size* (bytes); None: not promised.

    *name* is what messages call the stream. One thread at a time: a second one gets ValueError.
    """

    def __cinit__(self):
        self.chunks = bytearray()

    def __init__(self, expected_sha256: str | None = None, expected_size: int | None = None, str name not None=""):
        if self.whole.state is not NULL:
            raise ValueError("a Verifier is initialised once")
        if expected_sha256 is not None:
            if len(expected_sha256) != 64 or not set(expected_sha256) <= set("0123456789abcdefABCDEF"):
                raise ValueError(f"expected_sha256: expected 64 hex digits, got {expected_sha256!r}")
            expected_sha256 = expected_sha256.lower()
        if expected_size is not None and expected_size < 0:
            raise ValueError(f"expected_size: expected 0 or more bytes, got {expected_size}")
        self.expected_sha256 = expected_sha256
        self.expected_size = expected_size
        self.name = name or "stream"
        check(sha256_init(&self.whole), "SHA-256")
        check(sha256_init(&self.chunk), "SHA-256")

    def __dealloc__(self):
        sha256_free(&self.whole)
        sha256_free(&self.chunk)

    def update(self, data) -> None:
        """Hash the next bytes: any contiguous buffer, read in place without the GIL.

        Raises DigestMismatch as soon as there are more bytes than expected, and ValueError after finish() or an error.
        """
        cdef Py_buffer view
        cdef uint8_t* list_end
        cdef uint64_t n
        cdef Py_ssize_t listed
        cdef int status
        verifier_enter(self)
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                n = <uint64_t>view.len
                if self.expected_size is not None and self.size + n > self.expected_size:
                    self.finished = True
                    raise DigestMismatch(f"{self.name}: size: expected {self.expected_size} bytes, "
                                         f"got at least {self.size + n}", ST_MISMATCH)
                listed = PyByteArray_GET_SIZE(self.chunks)
                PyByteArray_Resize(self.chunks, listed + <Py_ssize_t>(32 * ((self.in_chunk + n) // CHUNK_BYTES)))
                list_end = <uint8_t*>PyByteArray_AS_STRING(self.chunks) + listed
                with nogil:
                    status = verifier_feed(self, <const uint8_t*>view.buf, n, list_end)
                if status != ST_OK:
                    self.finished = True
                check(status, f"{self.name}: SHA-256")
            finally:
                PyBuffer_Release(&view)
        finally:
            bp_store_int(&self.busy, 0)

    def finish(self) -> Verified:
        """End the stream. Raises DigestMismatch when size or digest differ from what was promised."""
        cdef uint8_t digest[32]
        cdef bytes chunks
        verifier_enter(self)
        try:
            self.finished = True
            if self.in_chunk:
                check(sha256_final(&self.chunk, digest), f"{self.name}: SHA-256")
                self.chunks += digest[:32]
            check(sha256_final(&self.whole, digest), f"{self.name}: SHA-256")
            got = digest[:32].hex()
            if self.expected_size is not None and self.size != self.expected_size:
                raise DigestMismatch(f"{self.name}: size: expected {self.expected_size} bytes, "
                                     f"got {self.size}", ST_MISMATCH)
            if self.expected_sha256 is not None and got != self.expected_sha256:
                raise DigestMismatch(f"{self.name}: sha256 differs: expected {self.expected_sha256}, got {got}",
                                     ST_MISMATCH)
            chunks = bytes(self.chunks)
            return Verified(got, self.size, chunks, chunk_root(chunks))
        finally:
            bp_store_int(&self.busy, 0)


def sha256_hex(data) -> str:
    """SHA-256 of any contiguous buffer, in hex, without the GIL."""
    cdef Py_buffer view
    cdef uint8_t digest[32]
    cdef int status
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            status = sha256_once(<const uint8_t*>view.buf, <size_t>view.len, digest)
    finally:
        PyBuffer_Release(&view)
    check(status, "SHA-256")
    return digest[:32].hex()


def chunk_root(bytes chunks not None) -> str:
    """The root of a chunk list: the SHA-256, in hex, of its 32-byte digests one after another."""
    if len(chunks) % 32:
        raise ValueError(f"chunk list: expected a multiple of 32 bytes, got {len(chunks)}")
    return sha256_hex(chunks)
