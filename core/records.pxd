# Transfers that have ended: a bounded ring of fixed-size records from one reactor to Python, which polls it.
#
# One producer, the reactor's thread; one consumer, whoever calls Reactor.records(). No eventfd, no lock, no allocation.
# A full ring drops the newest record and counts it in C_RECORDS_LOST: the ones that wait are never overwritten, so what
# is read is the unbroken beginning of what happened. Refusals may fill a quarter of it: who asks for names that nobody
# has, as fast as a network allows, must not push the transfers of machines out of the timeline.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from bootplane.core.counters cimport C_COALESCED, C_HITS, C_MISSES, counters_t

cdef enum:
    RECORDS = 4096                   # per reactor: 1.5 MiB, touched as it fills; bounds what a reader can have to do
    RECORD_NAME = 255                # bytes of a name that are kept
    RECORD_AGENT = 47                # bytes of a User-Agent that are kept

cdef enum outcome_t:                 # the order is that of OUTCOMES in records.pyx
    OUTCOME_NONE = 0                 # not decided yet
    OUTCOME_COMPLETE                 # HTTP: the last byte is with the kernel; TFTP: the last block was acknowledged
    OUTCOME_ABORTED                  # the peer ended it: closed, ERROR, unreachable, another request from its port
    OUTCOME_TIMEOUT                  # the peer fell silent. TFTP: also when all that was missing is the last ACK, as in
                                     # C_TFTP_TIMED_OUT; `sent` then lacks the blocks that were not acknowledged
    OUTCOME_CUT                      # we could not give the bytes, or were stopped
    OUTCOME_REFUSED                  # unknown name, limit, 4xx, 5xx; TFTP: our ERROR before any DATA
    OUTCOME_PROBE                    # TFTP: the OACK, with the size, was all it wanted (is_probe in tftp_lifecycle)

cdef enum source_t:                  # where the bytes came from; the order is that of SOURCES in records.pyx
    SOURCE_NONE = 0                  # no byte of a file was to be sent
    SOURCE_HIT                       # never waited
    SOURCE_MISS                      # waited for a chunk that this transfer was the first to ask for
    SOURCE_COALESCED                 # waited, but only for chunks that another transfer of this reactor had asked for
    SOURCE_DYNAMIC                   # made by Python for this machine, or denied by it

cdef struct record_t:
    int64_t began_ns                 # CLOCK_MONOTONIC, as loop.now_ns: the wake-up in which the request was read
    int64_t ended_ns
    int64_t size                     # of the file, bytes; -1: unknown
    int64_t offset                   # first byte that was asked for
    int64_t sent                     # payload bytes delivered, each once. HTTP: taken by the kernel; TFTP: acknowledged
    uint32_t blksize                 # TFTP, granted; 0: there was no transfer
    uint32_t windowsize
    uint32_t packets                 # DATA packets sent, all
    uint32_t retransmits             # of them sent before
    uint32_t duplicate_acks          # ACKs that moved nothing
    uint32_t reused                  # HTTP: number of the request on its connection, from 1
    uint16_t status                  # HTTP status, 0: none was sent. TFTP: code of the ERROR sent or received, 0: none
    uint16_t port                    # of the peer
    uint8_t address[16]              # of the peer, IPv4 as ::ffff:a.b.c.d
    uint8_t proto                    # proto_t
    uint8_t outcome                  # outcome_t
    uint8_t source                   # source_t
    uint8_t head                     # HTTP HEAD
    uint8_t agent_n
    uint8_t name_n
    char agent[47]                   # RECORD_AGENT; a short record touches the front of its slot alone
    char name[255]                   # RECORD_NAME

cdef struct records_t:
    record_t* slots                  # owned
    uint32_t mask
    uint32_t head                    # atomic; next to read, written by the consumer
    uint32_t tail                    # atomic; next to write, written by the producer
    uint32_t refusals                # written by the producer
    uint32_t refusals_read           # atomic; written by the consumer

cdef int records_init(records_t* r, uint32_t capacity) noexcept nogil          # ST_OK or ST_NOMEM
cdef void records_free(records_t* r) noexcept nogil                            # safe on a zeroed struct
# The slot for the next record, or NULL (counted): the ring is full. All fields but the bytes of the texts are 0.
cdef record_t* records_next(records_t* r, counters_t* counters) noexcept nogil
# Publishes and counts that slot. False: dropped and counted as lost, a refusal that found their share full.
cdef bint records_push(records_t* r, counters_t* counters) noexcept nogil
cdef void record_name(record_t* record, const char* name, size_t n) noexcept nogil
cdef void record_agent(record_t* record, const char* agent, size_t n) noexcept nogil

# What *source* becomes by a wait; *followed*: as loop_park sets it.
cdef inline uint8_t source_waited(uint8_t source, bint followed) noexcept nogil:
    return SOURCE_COALESCED if followed and source != SOURCE_MISS else SOURCE_MISS

# Where a transfer of a file whose bytes came from *source* is counted.
cdef inline int source_counter(uint8_t source) noexcept nogil:
    return C_MISSES if source == SOURCE_MISS else (C_COALESCED if source == SOURCE_COALESCED else C_HITS)

cdef list records_read(records_t* r, Py_ssize_t limit)
