# One table of counters: a block per reactor, written by its thread alone, summed on read.
from libc.stdint cimport uint64_t
from bootplane.core.linux cimport bp_relaxed_u64, bp_store_relaxed_u64

cdef enum counter_t:             # keep in step with COUNTERS in counters.pyx; a test compares the two
    C_HTTP_CONNECTIONS = 0       # accepted
    C_HTTP_CLOSED                # closed; accepted - closed - handed_over + adopted = open
    C_HTTP_REQUESTS              # request heads parsed, of every outcome
    C_HTTP_OK                    # answered 200
    C_HTTP_PARTIAL               # 206
    C_HTTP_NOT_MODIFIED          # 304
    C_HTTP_CLIENT_ERROR          # 4xx
    C_HTTP_SERVER_ERROR          # 5xx
    C_HTTP_BODY_BYTES            # body bytes accepted by the kernel
    C_HTTP_HEAD_BYTES            # head bytes accepted by the kernel
    C_HTTP_HANDED_OVER           # descriptors given to Python
    C_HTTP_ADOPTED               # descriptors that came back
    C_HTTP_CUT                   # responses ended short on purpose (bytes could not be had, or deadline)
    C_HTTP_ABORTED               # responses whose peer went away
    C_HTTP_SHED                  # connections ended to make room: idle, unfinished heads, slow readers
    C_HTTP_REFUSED               # connections told 503 because there was no place
    C_TLS_CONNECTIONS            # accepted; handshakes + failed + refused + under way
    C_TLS_CLOSED                 # closed
    C_TLS_HANDSHAKES             # came to their end, and the connection to HTTP
    C_TLS_FAILED_PLAIN           # spoke plain HTTP: told 400
    C_TLS_FAILED_PROTOCOL        # no TLS, no version, cipher or message that both know
    C_TLS_FAILED_TIMEOUT         # took longer than a request head may take, or than others would wait
    C_TLS_FAILED_GONE            # the client went away, or this rack is ending
    C_TLS_REFUSED                # closed before a handshake because there was no place, in all or for the address
    C_TFTP_REQUESTS              # RRQs that began a transfer
    C_TFTP_REPEATED              # RRQs that were the same transfer again
    C_TFTP_COMPLETED             # transfers whose last block was acknowledged
    C_TFTP_ABORTED               # ended by the client's ERROR (the tsize probe among them) or unreachable
    C_TFTP_TIMED_OUT
    C_TFTP_ERRORS                # ERROR packets sent
    C_TFTP_DATA                  # DATA packets sent, retransmitted ones included
    C_TFTP_RETRANSMITTED         # DATA packets sent again
    C_TFTP_DATA_BYTES            # payload bytes sent, retransmitted ones included
    C_TFTP_MALFORMED             # datagrams dropped in silence
    C_LOOKUPS                    # names looked up; found + dynamic + unknown = lookups
    C_NAMES_FOUND
    C_NAMES_DYNAMIC
    C_NAMES_UNKNOWN
    C_HITS                       # transfers of files that never waited; hits + misses + coalesced = those that ended
    C_MISSES                     # waited at least once for a chunk that they were the first to ask for
    C_COALESCED                  # waited, but only for chunks that another transfer of their reactor had asked for
    C_PARKED                     # times a transfer was parked for a chunk
    C_PARK_TIMEOUTS              # parked longer than the limit
    C_UNREADABLE                 # times a file could not be read while it was sent
    C_MAIL_REFUSED               # mails to Python that found the ring full (retried)
    C_RECORDS                    # transfers that ended and were written into the ring of records
    C_RECORDS_LOST               # transfers that ended while the ring was full
    C_RECORDS_LOST_REFUSED       # of them refusals that found their quarter of it full
    C_COUNT

cdef struct counters_t:
    uint64_t v[64]               # relaxed; index by counter_t

# Not an atomic addition: nobody else writes. But a store that readers on other threads may meet.
cdef inline void count(counters_t* c, int which) noexcept nogil:
    bp_store_relaxed_u64(&c.v[which], bp_relaxed_u64(&c.v[which]) + 1)

cdef inline void count_n(counters_t* c, int which, uint64_t n) noexcept nogil:
    bp_store_relaxed_u64(&c.v[which], bp_relaxed_u64(&c.v[which]) + n)

cdef class CounterBlock:
    cdef counters_t c
