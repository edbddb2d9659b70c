"""One TFTP read transfer as a machine: (state, event, now) -> (state, action). No socket, no clock, no allocation.

    blocks   1 ... acked | acked+1 ... next-1 | next ... acked+windowsize | ... last
                  done      in flight            owed now                   later

Rules, each paid for by real firmware (RFC 1350, 2349, 7440):
- Only an ACK that moves makes us send; a duplicate never does. UEFI firmware answers every stale block with the same
  ACK: a server that resends for each of them never ends.
- An ACK inside the window restarts from the block after it (RFC 7440): the client has a gap there. Unless the block
  after it is on its way already, see is_stale(): there, restarting would send every block twice until the end of the
  file.
- A deadline is absolute. Our own sending sets it, nothing that arrives extends it: PXELINUX repeats its ACK ten times a
  second, which keeps a "time since the last packet" from ever passing.
- The first deadline after progress adapts to the client (RFC 1123, 4.2.3.2), the ones after it do not: a loss is healed
  in 0.2 s instead of 1 s, and a client that pauses is still given 21 s.
- A repeated RRQ is the same transfer: GRUB repeats it every 0.4 s while a cold file is fetched.

Invariant: a live transfer has a deadline, or something to send, or is parked. What to send is in transfer_owes(); how
it goes out, and what a parked transfer waits for, is the service's.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from bootplane.core.tftp_packet cimport (
    BLKSIZE_DEFAULT, OPT_BLKSIZE, OPT_TIMEOUT, OPT_TSIZE, OPT_WINDOWSIZE, options_t,
)


cdef void transfer_start(transfer_t* t, const options_t* asked, uint64_t size, const limits_t* limits) noexcept nogil:
    memset(t, 0, sizeof(transfer_t))
    t.size = size
    t.next = 1
    t.retries = limits.retries
    t.timeout_ns = limits.timeout_ns
    t.options = asked[0]
    if not t.options.present & OPT_BLKSIZE:
        t.options.blksize = BLKSIZE_DEFAULT
    elif t.options.blksize > limits.max_blksize:
        t.options.blksize = limits.max_blksize
    if not t.options.present & OPT_WINDOWSIZE:
        t.options.windowsize = 1
    elif t.options.windowsize > limits.max_windowsize:
        t.options.windowsize = limits.max_windowsize
    if t.options.present & OPT_TIMEOUT:
        t.timeout_ns = <int64_t>t.options.timeout_s * 1000000000
    t.last = size // t.options.blksize + 1           # an exact multiple ends with an empty block
    t.state = TRANSFER_OACK if t.options.present else TRANSFER_DATA
    t.oack_owed = 1


cdef inline int64_t interval(const transfer_t* t) noexcept nogil:
    """What the client has needed so far, then 1, 2, 2, 4, 4, 4 ... times the timeout; 1, 1, 2, 2, 4 ... before anything
    is known. Always exactly the timeout when the client chose it (RFC 2349)."""
    cdef int64_t rto
    if t.options.present & OPT_TIMEOUT:
        return t.timeout_ns
    if t.expired == 0 and t.srtt_ns > 0:
        rto = t.srtt_ns + 4 * t.rttvar_ns
        if rto < RTO_MIN_NS:
            rto = RTO_MIN_NS
        return rto if rto < t.timeout_ns else t.timeout_ns
    return t.timeout_ns << (t.expired // 2 if t.expired < 4 else 2)


cdef inline void rewind(transfer_t* t, bint by_deadline) noexcept nogil:
    t.next = t.acked + 1
    t.mark = t.top
    t.by_deadline = by_deadline
    t.deadline_ns = 0


cdef inline void progress(transfer_t* t) noexcept nogil:
    t.expired = 0
    t.repeated = 0
    t.deadline_ns = 0


cdef void measure(transfer_t* t, int64_t took_ns) noexcept nogil:
    """RFC 6298, section 2, with its constants 1/8 and 1/4."""
    cdef int64_t off = took_ns - t.srtt_ns
    if t.srtt_ns == 0:
        t.srtt_ns = took_ns if took_ns > 0 else 1
        t.rttvar_ns = took_ns // 2
        return
    t.rttvar_ns += ((off if off > 0 else -off) - t.rttvar_ns) // 4
    t.srtt_ns += off // 8
    if t.srtt_ns <= 0:
        t.srtt_ns = 1


cdef bint is_stale(const transfer_t* t, uint64_t block) noexcept nogil:
    """Whether an ACK of *block*, inside the window, answers a block that came twice, and not a gap after it.

    After a deadline the client may well have had some of what we sent again; UEFI firmware answers the first such
    block with all it has, and the block after that is on its way. To restart there sends it twice, which is answered
    in the same way, and so on until the end of the file. In a model of that firmware
    (tests/core/test_tftp_transfer.py: windowsize 4, 7507 blocks, 0.1 % lost each way, 10 seeds) that cost 1.25 DATA
    per block, 1.48 at worst; this way 1.005. Should it have been a gap after all, the next deadline heals it.
    """
    return t.by_deadline and block <= t.mark


cdef inline bint is_by_timer(const transfer_t* t, int64_t now_ns) noexcept nogil:
    """Whether an ACK came so long after the last block that a timer of the client's brought it, and no block.

    U-Boot then names its last good block, and its next ACK is still for the end of the old window, in the middle of the
    new one. Taken for a gap, that one brings the window again, and so does every other one to the end of the file: 1.28
    DATA per block were recorded (windowsize 8, block 348 of 477 lost); this way 1.01.
    """
    return now_ns - t.sent_ns >= t.srtt_ns + RTO_MIN_NS


cdef int on_ack(transfer_t* t, uint32_t arg, int64_t now_ns) noexcept nogil:
    cdef uint64_t moved
    if t.state == TRANSFER_OACK:
        if arg != 0:
            t.duplicate_acks += 1
            return DO_NOTHING
        t.state = TRANSFER_DATA
        progress(t)
        t.by_deadline = False
        return DO_SEND
    moved = <uint16_t>(arg - <uint32_t>t.acked)      # block numbers on the wire roll over
    if moved == 0 or t.acked + moved > t.top:
        t.duplicate_acks += 1
        return DO_NOTHING                            # a duplicate, or a block that never was sent
    if (t.acked + moved + 1 == t.next and t.mark <= t.acked and t.expired == 0 and not t.parked
            and transfer_owes(t) == 0):
        measure(t, now_ns - t.sent_ns)               # of a whole window, each block of it sent once (Karn)
    t.acked += moved
    progress(t)
    if t.acked == t.last:
        t.state = TRANSFER_OVER
        return DO_FINISH
    if t.acked >= t.next or not is_stale(t, t.acked):
        rewind(t, is_by_timer(t, now_ns))
    elif transfer_owes(t) == 0:
        t.deadline_ns = now_ns + interval(t)         # all is on its way, to the last block
        return DO_NOTHING
    return DO_SEND


cdef int on_repeat(transfer_t* t) noexcept nogil:
    if t.acked > 0 or (t.options.present and t.state == TRANSFER_DATA):
        # It has had our answer. Either this RRQ was late on the wire, or the machine has been reset and asks again from
        # the same port; in the second case it is silent about the blocks we sent, so a deadline has passed.
        return DO_RESTART if t.expired > 0 else DO_NOTHING
    if t.repeated:
        return DO_NOTHING
    t.repeated = 1
    t.oack_owed = 1
    t.next = 1                       # and the deadline stays
    t.mark = t.top
    t.by_deadline = True
    return DO_SEND


cdef int on_tick(transfer_t* t, int64_t now_ns) noexcept nogil:
    if t.deadline_ns == 0 or now_ns < t.deadline_ns:
        return DO_NOTHING
    t.expired += 1
    if t.expired >= t.retries:
        t.state = TRANSFER_OVER
        return DO_GIVE_UP
    t.repeated = 0
    if transfer_owes(t) > 0 or transfer_owes_oack(t):
        t.deadline_ns = now_ns + interval(t)  # the kernel still refuses the rest of this window: not the client's fault
        return DO_NOTHING
    t.oack_owed = 1
    rewind(t, True)
    return DO_SEND


cdef int transfer_step(transfer_t* t, int event, uint32_t arg, int64_t now_ns) noexcept nogil:
    if t.state == TRANSFER_OVER:
        return DO_NOTHING
    if event == EV_ACK:
        return on_ack(t, arg, now_ns)
    if event == EV_TICK:
        return on_tick(t, now_ns)
    if event == EV_REPEAT:
        return on_repeat(t)
    if event == EV_PARKED:
        t.parked = 1
        t.deadline_ns = 0
        return DO_NOTHING
    if event == EV_WOKEN:
        t.parked = 0
        t.deadline_ns = 0
        if transfer_owes(t) > 0:
            return DO_SEND
        t.deadline_ns = now_ns + interval(t)
        return DO_NOTHING
    t.state = TRANSFER_OVER                          # EV_GONE
    return DO_ABORT


cdef uint64_t transfer_sent(transfer_t* t, uint64_t first, uint64_t count, int64_t now_ns) noexcept nogil:
    cdef uint64_t again = 0
    cdef uint64_t end = first + count                # one past the last
    t.sent_ns = now_ns
    if count > 0:
        if first <= t.top:
            again = (t.top + 1 if t.top + 1 < end else end) - first
        if end - 1 > t.top:
            t.top = end - 1
    t.packets += <uint32_t>count
    t.retransmits += <uint32_t>again
    if not t.parked and (t.deadline_ns == 0 or not t.repeated):
        t.deadline_ns = now_ns + interval(t)
    return again


# -- the same for tests ----------------------------------------------------------------------------------------------

_EVENTS = {"ack": EV_ACK, "gone": EV_GONE, "repeat": EV_REPEAT, "tick": EV_TICK, "parked": EV_PARKED, "woken": EV_WOKEN}
_ACTIONS = {DO_NOTHING: "nothing", DO_SEND: "send", DO_FINISH: "finish", DO_ABORT: "abort", DO_GIVE_UP: "give up",
            DO_RESTART: "restart"}


cdef class TransferProbe:
    """A transfer on a clock of the test's own, in seconds, with a sender that sends all that is owed at once."""

    cdef transfer_t t
    cdef public object room      # how many packets the kernel takes per send, None = all

    def __init__(self, size, *, blksize=None, timeout=None, tsize=False, windowsize=None, max_blksize=65464,
                 max_windowsize=64, timeout_s=1.0, retries=8):
        cdef options_t asked
        cdef limits_t limits
        memset(&asked, 0, sizeof(asked))
        if blksize is not None:
            asked.present |= OPT_BLKSIZE
            asked.blksize = blksize
        if timeout is not None:
            asked.present |= OPT_TIMEOUT
            asked.timeout_s = timeout
        if tsize:
            asked.present |= OPT_TSIZE
        if windowsize is not None:
            asked.present |= OPT_WINDOWSIZE
            asked.windowsize = windowsize
        limits.max_blksize = max_blksize
        limits.max_windowsize = min(max_windowsize, <int>WINDOW_MOST)
        limits.timeout_ns = <int64_t>(timeout_s * 1e9)
        limits.retries = retries
        self.room = None
        transfer_start(&self.t, &asked, size, &limits)

    def send(self, now=0.0):
        """Sends what is owed and returns it: "OACK" and block numbers."""
        cdef int64_t now_ns = <int64_t>(now * 1e9 + 0.5)
        cdef uint64_t first, n
        out = []
        if transfer_owes_oack(&self.t) and self.room != 0:
            self.t.oack_owed = 0
            transfer_sent(&self.t, 0, 0, now_ns)
            out.append("OACK")
        n = transfer_owes(&self.t)
        if self.room is not None and n > self.room:
            n = self.room
        if n > 0:
            first = self.t.next
            self.t.next += n
            transfer_sent(&self.t, first, n, now_ns)
            out.extend(range(first, first + n))
        return out

    def feed(self, str event, uint32_t arg=0, now=0.0):
        """Returns (action, what was sent because of it)."""
        cdef int action = transfer_step(&self.t, _EVENTS[event], arg, <int64_t>(now * 1e9 + 0.5))
        return _ACTIONS[action], self.send(now) if action == DO_SEND else []

    def block_bytes(self, uint64_t block):
        return block_bytes(&self.t, block)

    @property
    def deadline(self):
        """Seconds, or None."""
        return self.t.deadline_ns / 1e9 if self.t.deadline_ns else None

    @property
    def granted(self):
        o = {"blksize": self.t.options.blksize, "windowsize": self.t.options.windowsize}
        if self.t.options.present & OPT_TIMEOUT:
            o["timeout"] = self.t.options.timeout_s
        return o

    @property
    def wire(self):
        """(DATA sent, of them sent before, ACKs that moved nothing, bytes acknowledged)."""
        return self.t.packets, self.t.retransmits, self.t.duplicate_acks, transfer_delivered(&self.t)

    @property
    def last(self):
        return self.t.last

    @property
    def acked(self):
        return self.t.acked
