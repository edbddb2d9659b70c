# Base64 with padding, RFC 4648 section 4.
from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    static const char bp_base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    """
    const char* bp_base64

# Writes 4 * ((n + 2) / 3) characters and returns where they end.
cdef inline char* put_base64(char* out, const uint8_t* data, size_t n) noexcept nogil:
    cdef size_t i = 0
    cdef uint32_t word
    while i + 2 < n:
        word = (<uint32_t>data[i] << 16) | (<uint32_t>data[i + 1] << 8) | data[i + 2]
        out[0] = bp_base64[word >> 18]
        out[1] = bp_base64[(word >> 12) & 63]
        out[2] = bp_base64[(word >> 6) & 63]
        out[3] = bp_base64[word & 63]
        out += 4
        i += 3
    if i < n:
        word = <uint32_t>data[i] << 16
        if i + 1 < n:
            word |= <uint32_t>data[i + 1] << 8
        out[0] = bp_base64[word >> 18]
        out[1] = bp_base64[(word >> 12) & 63]
        out[2] = bp_base64[(word >> 6) & 63] if i + 1 < n else <char>61
        out[3] = <char>61
        out += 4
    return out
