# One read transfer as a machine: (state, event, now) -> (state, action). No socket, no clock, no allocation.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.tftp_packet cimport options_t

cdef enum transfer_state_t:
    TRANSFER_OACK = 1            # an OACK is owed or out, ACK 0 has not come
    TRANSFER_DATA = 2
    TRANSFER_OVER = 3

cdef enum event_t:
    EV_ACK = 1                   # arg: the block number in the packet
    EV_GONE = 2                  # the client's ERROR, or ICMP says that nobody listens there
    EV_REPEAT = 3                # the same RRQ again
    EV_TICK = 4                  # the clock may have reached the deadline
    EV_PARKED = 5                # the next byte is not here; deadlines rest until EV_WOKEN
    EV_WOKEN = 6                 # it may be here now

cdef enum action_t:
    DO_NOTHING = 0
    DO_SEND = 1                  # send what transfer_owes_oack / transfer_owes say
    DO_FINISH = 2                # the last block was acknowledged
    DO_ABORT = 3
    DO_GIVE_UP = 4               # the client has been silent for `retries` deadlines
    DO_RESTART = 5               # the client has begun anew: forget this transfer and start one for its request

cdef enum:
    WINDOW_MOST = 32767          # half of the block numbers: a late ACK is told from one of a block ahead
    RTO_MIN_NS = 200000000       # 200 ms, as Linux does for TCP: firmware that pauses shorter is not slow

cdef struct limits_t:            # what the operator allows
    uint32_t max_blksize         # bytes
    uint32_t max_windowsize      # blocks, at most WINDOW_MOST
    int64_t timeout_ns           # longest first deadline, unless the client names its own
    uint32_t retries             # deadlines without progress before a transfer ends

cdef struct transfer_t:
    uint64_t size                # bytes of the file
    uint64_t last  # number of the last block, which is shorter than blksize; blocks count from 1, no rollover
    uint64_t acked               # highest block acknowledged
    uint64_t next                # next block to send; acked < next
    uint64_t top                 # highest block ever sent
    uint64_t mark                # what `top` was when the window now in flight was begun: blocks up to here went twice
    int64_t timeout_ns
    int64_t sent_ns              # when the kernel last took something
    int64_t srtt_ns              # smoothed time from a window to its ACK, 0 = none measured (RFC 6298)
    int64_t rttvar_ns            # and its variation
    int64_t deadline_ns          # absolute; 0 = none: something is still to be sent, or the transfer is parked
    uint32_t retries
    uint32_t expired             # deadlines passed since the last progress
    uint32_t packets             # DATA sent, all
    uint32_t retransmits         # of them sent before
    uint32_t duplicate_acks      # ACKs that moved nothing: repeated, late, or of what never was sent
    uint8_t state
    uint8_t oack_owed
    uint8_t repeated             # a repeated RRQ was answered since the last deadline or progress
    uint8_t parked
    uint8_t by_deadline          # the window now in flight was begun by a deadline, ours or the client's own
    options_t options            # granted; blksize and windowsize are set even when nobody asked

# Grants options (never more than asked) and begins; the first DO_SEND is implied.
cdef void transfer_start(transfer_t* t, const options_t* asked, uint64_t size, const limits_t* limits) noexcept nogil
cdef int transfer_step(transfer_t* t, int event, uint32_t arg, int64_t now_ns) noexcept nogil       # action_t

cdef inline bint transfer_owes_oack(const transfer_t* t) noexcept nogil:
    return t.state == TRANSFER_OACK and t.oack_owed

cdef inline uint64_t transfer_owes(const transfer_t* t) noexcept nogil:       # blocks from t.next that may go now
    cdef uint64_t end = t.acked + t.options.windowsize
    if t.state != TRANSFER_DATA:
        return 0
    if end > t.last:
        end = t.last
    return end + 1 - t.next if t.next <= end else 0

cdef inline uint64_t block_offset(const transfer_t* t, uint64_t block) noexcept nogil:
    return (block - 1) * t.options.blksize

cdef inline uint32_t block_bytes(const transfer_t* t, uint64_t block) noexcept nogil:
    return t.options.blksize if block < t.last else <uint32_t>(t.size - block_offset(t, block))

cdef inline uint64_t transfer_delivered(const transfer_t* t) noexcept nogil:  # bytes the client has acknowledged
    return t.size if t.acked == t.last else t.acked * t.options.blksize

# The kernel took blocks first .. first+count-1, or the OACK (count 0). Returns how many of them had been sent before.
cdef uint64_t transfer_sent(transfer_t* t, uint64_t first, uint64_t count, int64_t now_ns) noexcept nogil
