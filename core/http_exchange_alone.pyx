"""One exchange on its own, for tests and fuzzing: bytes and events in, the name of the next action out.

What the service of a reactor gives an exchange besides is here at its simplest: a table, counters, a ring of records, a
clock that stands still, and the bytes that no response has begun to answer.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset
from bootplane.core.blob cimport Blob
from bootplane.core.counters import COUNTERS
from bootplane.core.counters cimport counters_t
from bootplane.core.http_exchange cimport (
    DEADLINE_HEAD, DEADLINE_IDLE, DEADLINE_SEND, DO_ASK, DO_CLOSE, DO_HAND_OVER, DO_MEND, DO_PARK, DO_READ, DO_RESET,
    DO_SEND, DO_TEXT, exchange_absent, exchange_answer, exchange_cut, exchange_damaged, exchange_drop,
    exchange_expire, exchange_feed, exchange_head, exchange_parked, exchange_sent, exchange_t, exchange_take_back,
    exchange_text_sent, exchange_wake, scene_t,
)
from bootplane.core.http_record cimport journal_free
from bootplane.core.http_response cimport RESPONSE_ROOM
from bootplane.core.records cimport records_free, records_init, records_read, records_t
from bootplane.core.segments cimport blob_t
from bootplane.core.status cimport check
from bootplane.core.table cimport Table

_ACTIONS = {
    DO_READ: "read", DO_TEXT: "text", DO_SEND: "send", DO_ASK: "ask", DO_PARK: "park", DO_MEND: "mend",
    DO_HAND_OVER: "hand over", DO_CLOSE: "close", DO_RESET: "reset",
}
_DEADLINES = {"idle": DEADLINE_IDLE, "head": DEADLINE_HEAD, "send": DEADLINE_SEND}


cdef class Exchange:
    """Every method that is an event returns the next action's name."""

    cdef exchange_t x
    cdef scene_t scene
    cdef counters_t counters
    cdef counters_t recorded         # counts() is about the exchange alone
    cdef records_t ring
    cdef int64_t now_ns              # the journal's clock stands still
    cdef char out[RESPONSE_ROOM]
    cdef Table table                 # keeps scene.table alive
    cdef bytearray data              # what feed() was given and no response has begun to answer

    def __cinit__(self):
        memset(&self.x, 0, sizeof(self.x))
        memset(&self.scene, 0, sizeof(self.scene))
        memset(&self.counters, 0, sizeof(self.counters))
        memset(&self.recorded, 0, sizeof(self.recorded))
        check(records_init(&self.ring, 64), "ring of records")
        self.scene.journal.records = &self.ring
        self.scene.journal.counters = &self.recorded
        self.scene.journal.now_ns = &self.now_ns

    def __init__(self, Table table, *, bint control=False):
        self.table = table
        self.scene.table = table.t if table is not None else NULL
        self.scene.counters = &self.counters
        self.scene.date = b"Sat, 21 Nov 2026 20:57:00 GMT"
        self.scene.control = control
        self.scene.out = self.out
        self.data = bytearray()

    def __dealloc__(self):
        if self.scene.counters != NULL:
            exchange_drop(&self.x, &self.scene)
        journal_free(&self.scene.journal)
        records_free(&self.ring)

    cdef str done(self, int action):
        if action == DO_TEXT or action == DO_SEND:
            del self.data[:self.x.head_bytes]
            self.x.head_bytes = 0
        return _ACTIONS[action]

    def feed(self, bytes more=b""):
        self.data += more
        cdef const char* raw = self.data
        return self.done(exchange_feed(&self.x, &self.scene, raw, len(self.data)))

    def answer(self, Blob blob, int status=0):
        cdef const char* raw = self.data
        cdef blob_t* b = blob.b if blob is not None else NULL
        return self.done(exchange_answer(&self.x, &self.scene, raw, len(self.data), status, b))

    def head(self):
        exchange_head(&self.x, &self.scene)
        return self.reply

    def sent(self, size_t n):
        return _ACTIONS[exchange_sent(&self.x, &self.scene, n)]

    def text_sent(self):
        return _ACTIONS[exchange_text_sent(&self.x, &self.scene)]

    def absent(self, bint followed=False):
        action = exchange_absent(&self.x)
        exchange_parked(&self.x, followed)
        return _ACTIONS[action]

    def damaged(self):
        return _ACTIONS[exchange_damaged(&self.x)]

    def take_back(self):
        exchange_take_back(&self.x, &self.scene)

    def wake(self, int status=0, *, bytes kept=b"", Table table=None):
        """*kept*: the request's head, which the service has unless it sent some of the response or gave up its turn;
        *table*: a snapshot that has come meanwhile."""
        cdef const char* raw = kept
        if table is not None:
            self.table = table
            self.scene.table = table.t
        return self.done(exchange_wake(&self.x, &self.scene, raw, len(kept), status))

    def cut(self):
        return _ACTIONS[exchange_cut(&self.x, &self.scene)]

    def expire(self, str deadline not None):
        return _ACTIONS[exchange_expire(&self.x, &self.scene, _DEADLINES[deadline])]

    def drop(self):
        exchange_drop(&self.x, &self.scene)

    def records(self):
        """What has ended since the last call."""
        return records_read(&self.ring, 16)

    def drain(self):
        self.scene.draining = 1

    @property
    def reply(self):
        """The reply, or response head, that the last action wants sent."""
        return self.out[:self.scene.length]

    @property
    def owed(self):
        """(first, end) of the file still owed, or None."""
        return (self.x.offset, self.x.end) if self.x.blob != NULL else None

    @property
    def name(self):
        return self.scene.name[:self.scene.name_length]

    @property
    def left(self):
        """Bytes fed that belong to no answered request."""
        return bytes(self.data)

    def counts(self):
        """name -> count, those above zero."""
        cdef int i
        return {counter.name: self.counters.v[i] for i, counter in enumerate(COUNTERS) if self.counters.v[i]}
