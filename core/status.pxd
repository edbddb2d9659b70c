# Status codes of every nogil function: 0 and above are ours, below zero is -errno.
# check() in status.pyx is the only road from a code to an exception.
cdef enum status_t:
    ST_OK = 0
    ST_AGAIN = 1        # the kernel would block; come back on the edge
    ST_ABSENT = 2       # the byte is not in the cache yet: park and ask
    ST_FULL = 3         # a bounded ring or table has no room
    ST_CLOSED = 4       # the peer has closed
    ST_BAD = 5          # malformed input from the wire
    ST_TRUNCATED = 6    # a file is shorter than its digest promised
    ST_MISMATCH = 7     # bytes differ from their digest
    ST_NOMEM = 8        # malloc failed
    ST_TIMEOUT = 9      # a deadline passed
    ST_UNKNOWN = 10     # a name or id nobody has
    ST_REMOTE = 11      # the other side answered with an error
    ST_GONE = 12        # it was here and has been removed
    ST_UPSTREAM = 13    # nobody upstream could give the right bytes

cdef object check(int status, str what=*)   # returns None for ST_OK, raises otherwise; needs the GIL
