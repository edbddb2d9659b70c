# One HTTP connection as a state machine: bytes and events in, one action out. No socket, no clock, no memory of its
# own.
#
#            feed: a whole head                     sent: the last byte, keep-alive
#   HEAD ───────────────────────▶ TEXT or BODY ──────────────────────────────────────▶ HEAD
#    │ ▲                           ▲   │  ▲
#    │ └── more bytes are needed   │   │  │ wake: the chunk is here
#    │                             │   ▼  │
#    └──────▶ ASKED ───────────────┘  PARKED ──▶ TEXT (503; nothing was sent yet) or ENDED (reset)
#      a dynamic name   answer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from bootplane.core.counters cimport counters_t
from bootplane.core.http_record cimport journal_t, pending_t, pending_waited
from bootplane.core.linux cimport off_t
from bootplane.core.segments cimport blob_t
from bootplane.core.table cimport table_t

cdef enum exchange_state_t:
    EXCHANGE_HEAD = 0                # between requests, or inside a request head
    EXCHANGE_ASKED                   # waits for the answer to a dynamic name
    EXCHANGE_TEXT                    # owes a reply that stands complete in the scene
    EXCHANGE_BODY                    # owes the bytes [offset, end) of blob, and their head unless EXCHANGE_BEGUN
    EXCHANGE_PARKED                  # the same, but the byte at offset is not here yet
    EXCHANGE_ENDED                   # nothing more is served

cdef enum exchange_flag_t:
    EXCHANGE_KEEP = 1                # the connection stays open after this response
    EXCHANGE_OLD = 2                 # the request was HTTP/1.0
    EXCHANGE_BODYLESS = 4            # the request was HEAD
    EXCHANGE_BEGUN = 8               # the response head was written: from here on a failure is a reset
    EXCHANGE_WAITED = 16             # it was parked at least once
    EXCHANGE_GRUB = 32               # the client is GRUB, which takes the text of a refusal for the file it asked for
    EXCHANGE_FIRST = 64              # it was the first to ask for a chunk that it waited for

cdef enum action_t:
    DO_READ = 0                      # bytes are needed: feed again with more of them, or with what is left
    DO_TEXT                          # send scene.out[0:scene.length], then exchange_text_sent
    DO_SEND                          # send from blob, then exchange_sent; first the exchange_head, unless BEGUN
    DO_ASK                           # ask for scene.name, then exchange_answer
    DO_PARK                          # wait for the chunk at offset, then exchange_wake
    DO_MEND                          # the same, but it is here and its file cannot be read
    DO_HAND_OVER                     # the connection and all its unanswered bytes belong to Python
    DO_CLOSE                         # end it cleanly
    DO_RESET                         # end it so that nobody takes what was sent for whole

cdef enum overdue_t:
    DEADLINE_IDLE                    # no byte of a request came
    DEADLINE_HEAD                    # a head was begun and not ended
    DEADLINE_SEND                    # the peer takes nothing of what is owed

cdef struct scene_t:                 # what a step may look at, and where it puts its words; one per service
    table_t* table                   # borrowed; NULL before the first snapshot
    counters_t* counters
    journal_t journal                # where what has ended is recorded
    const char* date
    uint8_t control                  # 1: hand over what is not ours to answer; 0: 404, 405 or 400
    uint8_t draining                 # 1: no response promises a further one
    char* out                        # RESPONSE_ROOM bytes
    size_t length                    # bytes of a reply in out
    size_t head_length               # how many of them are head
    uint32_t name_length
    char name[512]                   # MAX_NAME: of the request just fed, normalised

cdef struct exchange_t:              # zeroed at birth
    blob_t* blob                     # retained while a body is owed; released when it was sent, or by exchange_drop
    off_t offset                     # next byte to send
    off_t end
    pending_t* pending               # owned, from the head of a request to the end of its response; else NULL
    uint32_t requests                # heads read on this connection
    uint32_t head_bytes              # of the request head being answered
    uint32_t seen                    # bytes of an unfinished head that were scanned already
    uint16_t status                  # of the response
    uint8_t state
    uint8_t flags

# Every request head that is read and not handed over leaves one record when its response, or its connection, ends; so
# does a refusal without a request (exchange_refuse, exchange_expire).
#
# Reads the next request from the front of data[0:n], all bytes of this connection that no response has begun to
# answer. After DO_TEXT and DO_SEND the caller drops head_bytes of them; after DO_ASK and DO_PARK it keeps them until
# the answer, because a refusal names what was asked for.
cdef int exchange_feed(exchange_t* x, scene_t* scene, const char* data, size_t n) noexcept nogil
cdef int exchange_answer(exchange_t* x, scene_t* scene, const char* data, size_t n, int status,
                         blob_t* blob) noexcept nogil                    # blob: borrowed, or NULL with a status
cdef void exchange_head(exchange_t* x, scene_t* scene) noexcept nogil    # writes the head of a body into scene.out
cdef int exchange_sent(exchange_t* x, scene_t* scene, size_t n) noexcept nogil        # n body bytes are with the kernel
cdef int exchange_text_sent(exchange_t* x, scene_t* scene) noexcept nogil
cdef int exchange_absent(exchange_t* x) noexcept nogil                   # the byte at offset is not here
cdef int exchange_damaged(exchange_t* x) noexcept nogil                  # it is, cannot be read, and can be had again
cdef void exchange_take_back(exchange_t* x, scene_t* scene) noexcept nogil       # nothing of the head just written went
cdef inline void exchange_parked(exchange_t* x, bint followed) noexcept nogil:   # after DO_PARK; as loop_park set it
    if not followed:
        x.flags |= EXCHANGE_FIRST
    pending_waited(x.pending, followed)
# data[0:n]: the head that was kept, or nothing when it was dropped before the byte was missed.
cdef int exchange_wake(exchange_t* x, scene_t* scene, const char* data, size_t n, int status) noexcept nogil
cdef int exchange_cut(exchange_t* x, scene_t* scene) noexcept nogil      # a promised byte cannot be sent
cdef int exchange_expire(exchange_t* x, scene_t* scene, int deadline) noexcept nogil
cdef int exchange_refuse(exchange_t* x, scene_t* scene, int status, const char* why,
                         uint32_t retry_after_s) noexcept nogil          # the service's own 503s; the connection ends
cdef void exchange_handed_over(exchange_t* x, scene_t* scene) noexcept nogil     # Python has it: no record
cdef void exchange_record(exchange_t* x, scene_t* scene, int outcome) noexcept nogil     # outcome_t; once per request
# The connection is gone: lets go of the blob; a response under way was aborted, unless its record says otherwise.
cdef void exchange_drop(exchange_t* x, scene_t* scene) noexcept nogil
