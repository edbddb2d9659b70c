"""Conditions and ranges: what a request asks of a file whose size and entity tag are known.

The entity tag is the file's SHA-256, so it is strong and says all there is to say; there is no Last-Modified, so the
conditions on dates never hold and If-Range with a date sends the whole file (RFC 9110 section 13.1.5). A Range that is
wrong or names several parts is ignored, as section 14.2 allows: the whole file is always a right answer.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp, strlen
from bootplane.core.http_head cimport (
    FIELD_IF_MATCH, FIELD_IF_NONE_MATCH, FIELD_IF_RANGE, FIELD_RANGE, METHOD_GET, head_next, head_scan, head_t, slice_t,
)

cdef enum:
    HUGE = 0x3fffffffffffffff        # numbers beyond saturate here: larger than any file, and +1 does not overflow


cdef inline void skip_space(slice_t v, uint32_t* p) noexcept nogil:
    while p[0] < v.n and (v.at[p[0]] == 32 or v.at[p[0]] == 9):
        p[0] += 1


cdef bint number(slice_t v, uint32_t* p, off_t* out) noexcept nogil:
    """One or more digits; false when there is none."""
    cdef uint32_t start = p[0]
    out[0] = 0
    while p[0] < v.n and 48 <= v.at[p[0]] <= 57:
        if out[0] < <off_t>HUGE // 10:
            out[0] = out[0] * 10 + (v.at[p[0]] - 48)
        else:
            out[0] = HUGE
        p[0] += 1
    return p[0] > start


cdef int range_parse(slice_t value, off_t size, off_t* first, off_t* end) noexcept nogil:
    cdef uint32_t p = 6
    cdef int found = RANGE_WHOLE
    cdef off_t a = 0
    cdef off_t b = 0
    cdef bint has_a = False
    cdef bint has_b = False
    if value.n < 6 or value.at[5] != 61 or not is_bytes(value.at):
        return RANGE_WHOLE
    while p < value.n:
        skip_space(value, &p)
        if p < value.n and value.at[p] == 44:            # empty elements of a list mean nothing (section 5.6.1)
            p += 1
            continue
        if p == value.n:
            break
        if found != RANGE_WHOLE:
            return RANGE_WHOLE                           # several parts
        has_a = number(value, &p, &a)
        if p == value.n or value.at[p] != 45:
            return RANGE_WHOLE
        p += 1
        has_b = number(value, &p, &b)
        if (not has_a and not has_b) or (has_a and has_b and b < a):
            return RANGE_WHOLE
        found = RANGE_ONE
        skip_space(value, &p)
        if p < value.n and value.at[p] != 44:
            return RANGE_WHOLE
    if found == RANGE_WHOLE:
        return RANGE_WHOLE
    if not has_a:                                        # the last b bytes
        if b == 0:
            return RANGE_UNSATISFIABLE
        if size == 0:                                    # satisfiable by section 14.1.2, but no 206 can say it
            return RANGE_WHOLE
        first[0] = size - b if b < size else 0
        end[0] = size
        return RANGE_ONE
    if a >= size:
        return RANGE_UNSATISFIABLE
    first[0] = a
    end[0] = b + 1 if has_b and b < size else size
    return RANGE_ONE


cdef inline bint is_bytes(const char* at) noexcept nogil:
    cdef int i
    for i in range(5):
        if (at[i] | 0x20) != (<const char*>b"bytes")[i]:
            return False
    return True


cdef bint etag_listed(slice_t value, const char* etag, bint weak) noexcept nogil:
    cdef uint32_t p = 0
    cdef uint32_t start
    cdef size_t n = strlen(etag)
    cdef bint is_weak
    if value.n == 1 and value.at[0] == 42:
        return True
    while p < value.n:
        skip_space(value, &p)
        if p < value.n and value.at[p] == 44:
            p += 1
            continue
        is_weak = p + 1 < value.n and value.at[p] == 87 and value.at[p + 1] == 47        # W/
        if is_weak:
            p += 2
        if p >= value.n or value.at[p] != 34:
            return False                                 # not a list of entity tags: nothing behind it can be trusted
        start = p
        p += 1
        while p < value.n and value.at[p] != 34:
            p += 1
        if p == value.n:
            return False
        p += 1
        if p - start == n and (weak or not is_weak) and memcmp(value.at + start, etag, n) == 0:
            return True
        skip_space(value, &p)
        if p < value.n and value.at[p] != 44:
            return False
    return False


cdef bint any_listed(const char* data, const head_t* h, int field, const char* etag, bint weak) noexcept nogil:
    cdef uint32_t cursor = 0
    cdef slice_t value
    if h.times[field] == 1:
        return etag_listed(h.field[field], etag, weak)
    while head_next(data, h, field, &cursor, &value):
        if etag_listed(value, etag, weak):
            return True
    return False


cdef int precondition(const char* data, const head_t* h, const char* etag, off_t size,
                      off_t* first, off_t* end) noexcept nogil:
    cdef slice_t condition
    cdef int found
    first[0] = 0
    end[0] = size
    if h.times[<int>FIELD_IF_MATCH] and not any_listed(data, h, FIELD_IF_MATCH, etag, False):
        return 412
    if h.times[<int>FIELD_IF_NONE_MATCH] and any_listed(data, h, FIELD_IF_NONE_MATCH, etag, True):
        return 304
    if h.method != METHOD_GET or h.times[<int>FIELD_RANGE] != 1:         # defined for GET alone (section 14.2)
        return 200
    if h.times[<int>FIELD_IF_RANGE]:
        condition = h.field[<int>FIELD_IF_RANGE]
        if (h.times[<int>FIELD_IF_RANGE] != 1 or condition.n != strlen(etag)
                or memcmp(condition.at, etag, condition.n) != 0):
            return 200
    found = range_parse(h.field[<int>FIELD_RANGE], size, first, end)
    if found == RANGE_UNSATISFIABLE:
        return 416
    return 206 if found == RANGE_ONE else 200


# -- the same for Python ---------------------------------------------------------------------------------------------

def parse_range(bytes value not None, off_t size):
    """A Range field's value against *size* bytes: (first, end), None for the whole file. RFC 9110 section 14.

    Raises ValueError for a range that lies outside of the file (416).
    """
    cdef off_t first = 0
    cdef off_t end = 0
    cdef slice_t v
    v.at = value
    v.n = len(value)
    cdef int found = range_parse(v, size, &first, &end)
    if found == RANGE_UNSATISFIABLE:
        raise ValueError(f"Range {value.decode('latin-1')}: expected a part of {size} bytes")
    return (first, end) if found == RANGE_ONE else None


def evaluate(bytes head not None, bytes etag not None, off_t size):
    """(status, first, end) that a complete request head asks of a file of *size* bytes with this quoted entity tag."""
    cdef head_t h
    cdef off_t first = 0
    cdef off_t end = 0
    if head_scan(head, len(head), &h) != 0:
        raise ValueError("not a complete request head")
    cdef int status = precondition(head, &h, etag, size, &first, &end)
    return status, first, end
