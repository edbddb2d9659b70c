# cython: language_level=3
"""libFuzzer's loop for Python, and the parsers on a buffer that ends where the input ends.

A bytes object has a NUL behind it and an allocator's slack, so a parser that reads one byte too far reads something;
libFuzzer's own buffer is as long as the input, and AddressSanitizer sees the first byte behind it. So each parser is
called on that buffer first, and then the target's check() on a copy.

Left to others: what must hold (targets/), building and starting this (run.py).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcpy
from bootplane.core.http_head cimport FIELD_COUNT, head_next, head_scan, head_t, slice_t, target_path
from bootplane.core.http_range cimport etag_listed, range_parse
from bootplane.core.linux cimport off_t
from bootplane.core.table cimport MAX_NAME, name_kind, name_normalise
from bootplane.core.tftp_packet cimport ERROR_ROOM, OACK_ROOM, error_write, oack_write, request_parse, request_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    typedef int (*callback_t)(const uint8_t *data, size_t n);
    int LLVMFuzzerRunDriver(int *argc, char ***argv, callback_t callback);
    """
    ctypedef int (*callback_t)(const uint8_t* data, size_t n) noexcept
    int LLVMFuzzerRunDriver(int* argc, char*** argv, callback_t callback)

cdef object checked = None
ctypedef void (*exact_t)(const uint8_t*, size_t) noexcept nogil
cdef exact_t exact = NULL


cdef void http_head(const uint8_t* data, size_t n) noexcept nogil:
    cdef const char* raw = <const char*>data
    cdef head_t h
    cdef slice_t value
    cdef uint32_t cursor
    cdef int field, room
    cdef char* out
    if head_scan(raw, n, &h) != 0:
        return
    for field in range(FIELD_COUNT):
        cursor = 0
        while head_next(raw, &h, field, &cursor, &value):
            if value.at < raw or value.at + value.n > raw + n:
                abort()
    for room in range(0, 40, 3):
        out = <char*>malloc(room)
        target_path(h.target.at, h.target.n, out, room)
        free(out)


cdef void http_range(const uint8_t* data, size_t n) noexcept nogil:
    cdef slice_t value
    cdef off_t first, end
    value.at = <const char*>data + (n > 0)
    value.n = <uint32_t>(n - (n > 0))
    range_parse(value, 100, &first, &end)
    etag_listed(value, b'"84d898"', False)
    etag_listed(value, b'"84d898"', True)


cdef void tftp_packet(const uint8_t* data, size_t n) noexcept nogil:
    cdef request_t r
    cdef uint8_t* out = <uint8_t*>malloc(ERROR_ROOM)
    cdef uint8_t* oack = <uint8_t*>malloc(OACK_ROOM)
    if request_parse(data, n, &r) == 0:
        error_write(out, 1, b"", r.name, r.name_len, b": nobody has it")
        error_write(out, 1, r.name, r.name, r.name_len, r.name)
        oack_write(oack, &r.options, <unsigned long long>-1)
    free(out)
    free(oack)


cdef void name(const uint8_t* data, size_t n) noexcept nogil:
    cdef char* out = <char*>malloc(MAX_NAME)
    cdef int length = name_normalise(<const char*>data, n, out)
    cdef char* exactly
    if length >= 0:
        exactly = <char*>malloc(length)
        memcpy(exactly, out, length)
        name_kind(exactly, length)
        free(exactly)
    free(out)


cdef int one(const uint8_t* data, size_t n) noexcept:
    if exact != NULL:
        exact(data, n)
    try:
        checked((<const char*>data)[:n])
    except BaseException:
        import traceback
        traceback.print_exc()
        abort()                      # libFuzzer keeps the input
    return 0


def run(str target not None, check, list arguments not None):
    """Never returns: libFuzzer with *arguments* (bytes, the program's name first) on *check*, and ends the process."""
    global checked, exact
    checked = check
    if target == "http_head" or target == "http_exchange":
        exact = http_head
    elif target == "http_range":
        exact = http_range
    elif target == "tftp_packet":
        exact = tftp_packet
    elif target == "name":
        exact = name
    cdef int argc = len(arguments)
    cdef char** argv = <char**>malloc((argc + 1) * sizeof(char*))
    cdef int i
    for i in range(argc):
        argv[i] = <char*><bytes>arguments[i]
    argv[argc] = NULL
    return LLVMFuzzerRunDriver(&argc, &argv, one)
