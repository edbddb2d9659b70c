# A blob as a Python object, and one reference on a segment of it.
from bootplane.core.linux cimport off_t
from bootplane.core.segments cimport blob_t, segment_t

cdef class Blob:
    cdef blob_t* b               # one reference, dropped in __dealloc__
    cdef readonly str sha256     # 64 hex digits
    cdef readonly object chunks  # bytes, 32 per chunk, or None when the blob needs no fill
    cdef object __weakref__

cdef Blob blob_wrap(blob_t* b, str sha256, object chunks)     # a Blob that takes over one reference of the caller's
cdef bytes digest_of(str sha256)                              # 32 bytes; ValueError unless 64 lower-case hex digits

cdef class Pin:                  # one reference on a segment, for Python code that sends from it
    cdef segment_t* seg          # dropped by release() or with the object; NULL afterwards
    cdef readonly int fd         # borrowed: open until release(); -1 for memory
    cdef readonly off_t offset   # of the first byte, in the file
    cdef readonly off_t length   # bytes that may be sent from there
