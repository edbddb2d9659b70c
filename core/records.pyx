"""Transfers that have ended: a bounded ring of fixed-size records, written by a reactor, polled by Python.

One producer and one consumer, so a release store of the tail publishes a record and one of the head gives its slot
back. Nothing waits and nothing is woken: a record is an account of what happened, not a message that somebody needs
now.

Invariant: a record that waits is never overwritten; a full ring drops the newest and counts it, as a full quarter of it
does with a refusal, so that three quarters are left to transfers (and at least that share of what the reader reads).
Names and agents are kept as the bytes that came; control characters become "?" on their way to Python, because people
read them in terminals.

Leaves to others: when a transfer has ended and how (http_record, tftp_lifecycle), what to make of it (dataplane).
"""

from typing import NamedTuple

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memmove, memset
from bootplane.core.counters cimport C_RECORDS, C_RECORDS_LOST, C_RECORDS_LOST_REFUSED, CounterBlock, count, counters_t
from bootplane.core.linux cimport AF_INET, AF_INET6, bp_load_u32, bp_prefetch_write, bp_store_u32
from bootplane.core.status cimport ST_NOMEM, ST_OK, check

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* out, unsigned int n)


cdef int records_init(records_t* r, uint32_t capacity) noexcept nogil:
    cdef uint32_t slots = 1
    while slots < capacity:
        slots *= 2
    r.slots = <record_t*>calloc(slots, sizeof(record_t))
    if r.slots == NULL:
        return ST_NOMEM
    r.mask = slots - 1
    r.head = 0
    r.tail = 0
    r.refusals = 0
    r.refusals_read = 0
    return ST_OK


cdef void records_free(records_t* r) noexcept nogil:
    free(r.slots)
    r.slots = NULL


cdef record_t* records_next(records_t* r, counters_t* counters) noexcept nogil:
    cdef record_t* record
    if r.tail - bp_load_u32(&r.head) > r.mask:
        count(counters, C_RECORDS_LOST)
        return NULL
    record = &r.slots[r.tail & r.mask]
    memset(record, 0, <size_t>&(<record_t*>NULL).agent)
    return record


cdef bint records_push(records_t* r, counters_t* counters) noexcept nogil:
    cdef char* after = <char*>&r.slots[(r.tail + 1) & r.mask]
    cdef int i
    if r.slots[r.tail & r.mask].outcome == OUTCOME_REFUSED:
        if r.refusals - bp_load_u32(&r.refusals_read) > r.mask // 4:
            count(counters, C_RECORDS_LOST)
            count(counters, C_RECORDS_LOST_REFUSED)
            return False
        r.refusals += 1
    count(counters, C_RECORDS)
    bp_store_u32(&r.tail, r.tail + 1)
    for i in range(4):               # the ring is larger than a core's cache: have the next slot there when needed
        bp_prefetch_write(after + 64 * i)
    return True


cdef void record_name(record_t* record, const char* name, size_t n) noexcept nogil:
    record.name_n = <uint8_t>(n if n < RECORD_NAME else RECORD_NAME)
    memmove(record.name, name, record.name_n)    # not memcpy: see http_record


cdef void record_agent(record_t* record, const char* agent, size_t n) noexcept nogil:
    record.agent_n = <uint8_t>(n if n < RECORD_AGENT else RECORD_AGENT)
    memmove(record.agent, agent, record.agent_n)


# -- to Python -------------------------------------------------------------------------------------------------------

class Record(NamedTuple):
    """One transfer that has ended; what the fields mean stands in reactor.pyi."""

    began_ns: int
    ended_ns: int
    proto: str
    peer: tuple[str, int]
    name: str
    outcome: str
    status: int
    size: int
    offset: int
    sent: int
    source: str
    blksize: int
    windowsize: int
    packets: int
    retransmits: int
    duplicate_acks: int
    head: bool
    agent: str
    reused: int


PROTOS = ("", "http", "tftp")
OUTCOMES = ("", "complete", "aborted", "timeout", "cut", "refused", "probe")
SOURCES = ("", "hit", "miss", "coalesced", "dynamic")

cdef object make = tuple.__new__         # a NamedTuple's own constructor runs Python code: twice the time
cdef dict CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "?")


cdef str text_of(const char* raw, size_t n):
    text = raw[:n].decode("latin-1")
    return text if text.isprintable() else text.translate(CONTROLS)


cdef tuple peer_of(const record_t* record):
    cdef char text[64]
    if memcmp(record.address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0:
        inet_ntop(AF_INET, record.address + 12, text, sizeof(text))
    else:
        inet_ntop(AF_INET6, record.address, text, sizeof(text))
    return (text.decode("ascii"), record.port)


cdef list records_read(records_t* r, Py_ssize_t limit):
    """The oldest *limit* records. One thread at a time."""
    cdef const record_t* it
    cdef uint32_t head = r.head
    cdef uint32_t tail = bp_load_u32(&r.tail)
    cdef uint32_t refusals = r.refusals_read
    out = []
    while head != tail and len(out) < limit:
        it = &r.slots[head & r.mask]
        out.append(make(Record, (
            it.began_ns, it.ended_ns, PROTOS[it.proto], peer_of(it), text_of(it.name, it.name_n), OUTCOMES[it.outcome],
            it.status, it.size, it.offset, it.sent, SOURCES[it.source], it.blksize, it.windowsize, it.packets,
            it.retransmits, it.duplicate_acks, it.head != 0, text_of(it.agent, it.agent_n), it.reused,
        )))
        refusals += it.outcome == OUTCOME_REFUSED
        head += 1
    bp_store_u32(&r.refusals_read, refusals)
    bp_store_u32(&r.head, head)
    return out


cdef class RecordRing:
    """A ring with both ends in Python: what the tests drive. Records carry a name and a size only."""

    cdef records_t r
    cdef CounterBlock block

    def __cinit__(self, uint32_t capacity=RECORDS):
        self.block = CounterBlock()
        check(records_init(&self.r, capacity), "ring of records")

    def __dealloc__(self):
        records_free(&self.r)

    def write(self, bytes name=b"", bytes agent=b"", size=0, refused=False):
        """Adds a record; False when the ring, or a refusal's share of it, is full."""
        cdef record_t* record = records_next(&self.r, &self.block.c)
        if record == NULL:
            return False
        record_name(record, name, len(name))
        record_agent(record, agent, len(agent))
        record.size = size
        record.outcome = OUTCOME_REFUSED if refused else OUTCOME_NONE
        return records_push(&self.r, &self.block.c)

    def read(self, Py_ssize_t limit=1024):
        return records_read(&self.r, limit)

    def counters(self):
        return self.block.read()
