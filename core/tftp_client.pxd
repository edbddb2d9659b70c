# One TFTP read transfer from the client's side, as a state machine: no socket, no clock.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.client cimport trouble_t

cdef enum:
    TFTP_NAME_ROOM = 1024        # longest name asked for, bytes
    TFTP_REQUEST_ROOM = 1152     # a RRQ with that name and every option

cdef enum tftp_get_state_t:
    TG_ASKED = 0                 # the RRQ is out
    TG_RECEIVING
    TG_ENDED

cdef enum tftp_get_action_t:     # bits of what the caller is to do, in this order
    TG_TAKE = 1                  # the DATA's payload is the next of the file
    TG_SEND_RRQ = 2
    TG_SEND_ACK = 4              # tftp_get_ack
    TG_SEND_ERROR = 8            # tftp_get_error
    TG_DONE = 16                 # the file is complete
    TG_FAILED = 32               # facts in trouble

cdef enum tftp_cause_t:
    TX_ERROR = 1                 # an ERROR packet; err: its code; text
    TX_MALFORMED                 # got: opcode or -1; text
    TX_OPTION                    # an OACK that answers what was not asked; text: option=value
    TX_LENGTH                    # DATA longer than blksize; expected, got
    TX_SIZE                      # expected: tsize; got: bytes
    TX_NO_OPTIONS                # a probe was answered with DATA
    TX_SILENCE                   # err: how often it was repeated; got: last block, -1: the RRQ
    TX_TIMEOUT                   # deadline for the whole; expected (tsize), got: bytes
    TX_NETWORK                   # err
    TX_SINK                      # err
    TX_LOCAL                     # err
    TX_DIGEST                    # text

cdef struct tftp_get_t:          # zeroed, then the wishes set, then tftp_get_begin
    uint32_t ask_blksize         # bytes; 0: option not sent
    uint32_t ask_windowsize      # blocks; 0 or 1: option not sent
    uint8_t ask_tsize
    uint8_t probe                # 1: only the size is wanted: ERROR 8 after the OACK, as OVMF does
    int64_t retry_ns             # first wait before the last packet is repeated; doubled each time up to 8 s
    uint32_t retries             # repeats without progress before it ends
    uint8_t state
    uint8_t agreed               # an OACK came
    uint32_t blksize             # bytes, agreed
    uint32_t windowsize          # blocks, agreed
    int64_t tsize                # bytes, -1: not told
    uint64_t next                # number of the next DATA in order, from 1, not wrapped at 65536
    uint32_t in_window           # DATA taken since the last ACK
    uint8_t gap                  # the ACK for a gap is out; others of that window say nothing new
    uint64_t bytes               # payload taken
    int64_t deadline_ns          # a deadline: set by progress, not by every packet
    int64_t wait_ns
    uint32_t tries
    uint32_t error_code          # of the ERROR to send
    uint64_t duplicates          # DATA before `next`
    uint64_t gaps                # times a DATA beyond `next` was answered
    uint64_t repeated            # packets of ours sent again by the deadline
    trouble_t trouble

cdef void tftp_get_begin(tftp_get_t* g, int64_t now_ns) noexcept nogil
# One datagram of *full* bytes, of which the first *have* (at least 4, or all) are in *p*. Returns actions.
cdef int tftp_get_packet(tftp_get_t* g, const uint8_t* p, size_t have, size_t full, int64_t now_ns) noexcept nogil
cdef int tftp_get_tick(tftp_get_t* g, int64_t now_ns) noexcept nogil       # call when now >= deadline_ns; actions

cdef size_t tftp_get_request(const tftp_get_t* g, const char* name, size_t n, uint8_t* out) noexcept nogil
cdef void tftp_get_ack(const tftp_get_t* g, uint8_t* out4) noexcept nogil
cdef size_t tftp_get_error(const tftp_get_t* g, uint8_t* out64) noexcept nogil
cdef str tftp_sentence(tftp_get_t* g, str what, str promised=*)
cdef object tftp_raise(tftp_get_t* g, int status, str what)
