"""From the head of an HTTP request to the end of its response: what its record will say.

A connection drops the bytes of a head as soon as its response begins, so that waiting costs no memory; name and agent
are copied here before. Blocks of many are allocated at once and never given back while the service runs.

Invariant: every pending_t is in use by one exchange, or in the free list of its size. What a response is, and how it
ended, is http_exchange's.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove
from bootplane.core.counters cimport C_RECORDS_LOST, count
from bootplane.core.linux cimport bp_add_int, bp_load_int
from bootplane.core.loop cimport PROTO_HTTP
from bootplane.core.records cimport (
    RECORD_AGENT, RECORD_NAME, record_agent, record_name, record_t, records_next, records_push,
)

cdef enum:
    BLOCK = 64                       # of one size per allocation: 8 or 22 KiB

cdef struct block_t:
    block_t* next

cdef int all_blocks = 0              # atomic; of all services, for the tests


cdef inline char* text_of(pending_t* p) noexcept nogil:
    return <char*>p + sizeof(pending_t)


cdef bint more(journal_t* j, int large) noexcept nogil:
    cdef size_t size = sizeof(pending_t) + RECORD_NAME + RECORD_AGENT + 2 if large else PENDING_SMALL
    cdef block_t* block = <block_t*>malloc(sizeof(block_t) + BLOCK * size)
    cdef pending_t* p
    cdef int i
    if block == NULL:
        return False
    bp_add_int(&all_blocks, 1)
    block.next = j.blocks
    j.blocks = block
    for i in range(BLOCK):
        p = <pending_t*>(<char*>block + sizeof(block_t) + i * size)
        p.large = <uint8_t>large
        p.next = j.unused[large]
        j.unused[large] = p
    return True


cdef void journal_free(journal_t* j) noexcept nogil:
    cdef block_t* block
    while j.blocks != NULL:
        block = j.blocks
        j.blocks = block.next
        free(block)
        bp_add_int(&all_blocks, -1)
    j.unused[0] = NULL
    j.unused[1] = NULL


cdef pending_t* pending_new(journal_t* j, const char* name, size_t name_n, const char* agent,
                            size_t agent_n) noexcept nogil:
    cdef pending_t* p
    cdef int large
    if name_n > RECORD_NAME:
        name_n = RECORD_NAME
    if agent_n > RECORD_AGENT:
        agent_n = RECORD_AGENT
    large = sizeof(pending_t) + name_n + agent_n > PENDING_SMALL
    if j.unused[large] == NULL and not more(j, large):
        count(j.counters, C_RECORDS_LOST)
        return NULL
    p = j.unused[large]
    j.unused[large] = p.next
    p.began_ns = j.now_ns[0]
    p.size = -1
    p.offset = 0
    p.status = 0
    p.source = 0
    p.unread = 0
    p.name_n = <uint8_t>name_n
    p.agent_n = <uint8_t>agent_n
    if name_n:                       # else it may be NULL, which memmove does not take
        memmove(text_of(p), name, name_n)        # for memcpy of at most 255 bytes gcc writes "rep movs": slow to start
    if agent_n:
        memmove(text_of(p) + name_n, agent, agent_n)
    return p


cdef void pending_end(journal_t* j, pending_t* p, int outcome, int64_t sent, bint head,
                      uint32_t number) noexcept nogil:
    cdef record_t* record = records_next(j.records, j.counters)
    if record != NULL:
        record.began_ns = p.began_ns
        record.ended_ns = j.now_ns[0]
        record.size = p.size
        record.offset = p.offset
        record.sent = sent
        record.reused = 0 if p.unread else number
        record.status = p.status
        record.port = j.port
        if j.ip != NULL:
            memcpy(record.address, j.ip, 16)
        record.proto = PROTO_HTTP
        record.outcome = <uint8_t>outcome
        record.source = p.source
        record.head = head
        record_agent(record, text_of(p) + p.name_n, p.agent_n)
        record_name(record, text_of(p), p.name_n)
        records_push(j.records, j.counters)
    pending_drop(j, p)


cdef void pending_drop(journal_t* j, pending_t* p) noexcept nogil:
    if p != NULL:
        p.next = j.unused[p.large]
        j.unused[p.large] = p


# -- for Python ------------------------------------------------------------------------------------------------------

def blocks():
    """Blocks of pending records that all services of the process hold; each has 64 of one size."""
    return bp_load_int(&all_blocks)
