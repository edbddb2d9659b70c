# How fast the other end takes what a connection owes it.
from bootplane.core.http_connection cimport connection_t, http_t

# For one that has been owed bytes through half of its send timeout: whether its reader has taken any since the last
# call for this stretch. The first call of a stretch says yes.
cdef bint still_reads(http_t* http, connection_t* c) noexcept nogil
# Whether its reader took less than min_bytes_s over min_over_s or more; the first look only begins the measurement.
cdef bint is_slow(http_t* http, connection_t* c) noexcept nogil
