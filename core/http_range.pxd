# What the conditions and the Range of a request are worth against one file.
from libc.stdint cimport uint8_t, uint32_t
from bootplane.core.http_head cimport head_t, slice_t
from bootplane.core.linux cimport off_t

cdef enum range_t:
    RANGE_WHOLE = 0                  # no range, several, another unit, or not one at all: the whole file
    RANGE_ONE                        # first and end are set, 0 <= first < end <= size
    RANGE_UNSATISFIABLE              # 416

# Reads a Range field's value against *size* bytes. RFC 9110 section 14.
cdef int range_parse(slice_t value, off_t size, off_t* first, off_t* end) noexcept nogil

# Is *etag*, quotes included, in the list *value* of If-Match (strong) or If-None-Match (weak)? "*" is every file.
# RFC 9110 section 8.8.3.2.
cdef bint etag_listed(slice_t value, const char* etag, bint weak) noexcept nogil

# The answer that conditions and Range of a GET or HEAD ask for: 200, 206 (first and end are the part), 304, 412 or 416.
# In the order of RFC 9110 section 13.2.2. *data* is the buffer that was scanned into *h*.
cdef int precondition(const char* data, const head_t* h, const char* etag, off_t size,
                      off_t* first, off_t* end) noexcept nogil
