# What an HTTP request's record will need once its head is gone: kept from the head to the end of the response.
#
# A connection between requests has none, so an idle one pays for a pointer. Two sizes, each with a free list: nearly
# all requests fit the small one, and ten thousand slow readers hold one each.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from bootplane.core.counters cimport counters_t
from bootplane.core.records cimport records_t, source_waited

cdef enum:
    PENDING_SMALL = 128              # bytes of a pending_t and its texts, which may then have 88 bytes

cdef struct pending_t:
    pending_t* next                  # in its free list
    int64_t began_ns
    int64_t size                     # of the file, bytes; -1: unknown
    int64_t offset                   # first byte that was asked for
    uint16_t status                  # of the response; 0: none yet
    uint8_t source                   # source_t
    uint8_t unread                   # 1: refused before a request was read
    uint8_t large                    # which free list it belongs to
    uint8_t name_n                   # bytes of the name, which follows this struct; then the agent
    uint8_t agent_n

cdef struct block_t

cdef struct journal_t:               # zeroed at birth; one per service
    records_t* records               # borrowed, as are the others
    counters_t* counters
    const int64_t* now_ns
    const uint8_t* ip                # of the peer of the connection that is running; NULL: unknown
    uint16_t port
    pending_t* unused[2]             # small, large
    block_t* blocks                  # given back in journal_free

cdef void journal_free(journal_t* j) noexcept nogil
# Begins the record of a request; the texts are cut and copied. NULL: no memory, counted as a lost record.
cdef pending_t* pending_new(journal_t* j, const char* name, size_t name_n, const char* agent,
                            size_t agent_n) noexcept nogil
# Writes it into the ring and gives it back; *number*: of the request on its connection.
cdef void pending_end(journal_t* j, pending_t* p, int outcome, int64_t sent, bint head, uint32_t number) noexcept nogil
cdef void pending_drop(journal_t* j, pending_t* p) noexcept nogil  # gives it back: somebody else answers. May be NULL

cdef inline void pending_waited(pending_t* p, bint followed) noexcept nogil:     # *followed*: as loop_park set it
    if p != NULL:
        p.source = source_waited(p.source, followed)
