"""The deadlines of thousands of transfers: a timer wheel whose timers move lazily.

In lockstep every ACK moves a deadline by a second. Moving a timer each time would cost two list operations per packet;
instead a timer stays where it stands, comes out early, and is armed again if its owner's deadline has moved. That is
one operation per timeout instead of one per packet.

Invariant: a timer comes out at most one tick (8.4 ms) after its time, and before it only when it stood earlier or its
time is further away than the wheel is long. What a deadline means is tftp_transfer's.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


cdef extern from * nogil:
    int __builtin_ctzll(unsigned long long v)


cdef void wheel_init(wheel_t* w, int64_t now_ns) noexcept nogil:
    memset(w, 0, sizeof(wheel_t))
    w.tick = <uint64_t>now_ns >> TICK_SHIFT


cdef void wheel_arm(wheel_t* w, timer_t* timer, int64_t at_ns, int64_t now_ns) noexcept nogil:
    cdef uint64_t tick = <uint64_t>at_ns >> TICK_SHIFT
    cdef uint64_t now = <uint64_t>now_ns >> TICK_SHIFT
    cdef uint32_t slot
    if w.count == 0 and w.tick < now:
        w.tick = now                 # nobody popped while the wheel was empty
    if tick < w.tick:
        tick = w.tick
    elif tick >= w.tick + WHEEL_SLOTS:
        tick = w.tick + WHEEL_SLOTS - 1
    if timer.linked:
        if timer.tick <= tick:
            return
        wheel_disarm(w, timer)
    slot = tick % WHEEL_SLOTS
    timer.tick = tick
    timer.prev = NULL
    timer.next = w.slots[slot]
    if timer.next != NULL:
        timer.next.prev = timer
    w.slots[slot] = timer
    w.used[slot // 64] |= <uint64_t>1 << (slot % 64)
    timer.linked = 1
    w.count += 1


cdef void wheel_disarm(wheel_t* w, timer_t* timer) noexcept nogil:
    cdef uint32_t slot = timer.tick % WHEEL_SLOTS
    if not timer.linked:
        return
    if timer.prev != NULL:
        timer.prev.next = timer.next
    else:
        w.slots[slot] = timer.next
        if timer.next == NULL:
            w.used[slot // 64] &= ~(<uint64_t>1 << (slot % 64))
    if timer.next != NULL:
        timer.next.prev = timer.prev
    timer.linked = 0
    w.count -= 1


cdef uint64_t next_used(const wheel_t* w) noexcept nogil:
    """The first tick from w.tick on that has a timer; there is one."""
    cdef uint32_t start = w.tick % WHEEL_SLOTS
    cdef uint32_t word = start // 64
    cdef uint64_t bits = w.used[word] >> (start % 64)
    cdef uint64_t ahead = 64 - start % 64
    if bits:
        return w.tick + __builtin_ctzll(bits)
    while True:                      # at most once round: the bits below start in its own word come last
        word = (word + 1) % (WHEEL_SLOTS // 64)
        bits = w.used[word]
        if bits:
            return w.tick + ahead + __builtin_ctzll(bits)
        ahead += 64


cdef timer_t* wheel_pop(wheel_t* w, int64_t now_ns) noexcept nogil:
    cdef uint64_t end = <uint64_t>now_ns >> TICK_SHIFT       # ticks before this one have passed whole
    cdef uint64_t tick
    cdef timer_t* timer
    if w.count > 0:
        tick = next_used(w)
        if tick < end:
            w.tick = tick
            timer = w.slots[tick % WHEEL_SLOTS]
            wheel_disarm(w, timer)
            return timer
    if end > w.tick:
        w.tick = end
    return NULL


cdef int64_t wheel_due(const wheel_t* w) noexcept nogil:
    if w.count == 0:
        return NO_DEADLINE
    return <int64_t>((next_used(w) + 1) << TICK_SHIFT)


# -- the same for tests ----------------------------------------------------------------------------------------------

cdef class WheelProbe:
    """A wheel with numbered timers; times in seconds."""

    cdef wheel_t w
    cdef timer_t* timers
    cdef int n

    def __cinit__(self, int timers, double now=0.0):
        self.n = timers
        self.timers = <timer_t*>calloc(timers, sizeof(timer_t))
        if self.timers == NULL:
            raise MemoryError("no memory for timers")
        wheel_init(&self.w, <int64_t>(now * 1e9 + 0.5))

    def __dealloc__(self):
        free(self.timers)

    def arm(self, int number, double at, double now=0.0):
        wheel_arm(&self.w, &self.timers[number], <int64_t>(at * 1e9 + 0.5), <int64_t>(now * 1e9 + 0.5))

    def disarm(self, int number):
        wheel_disarm(&self.w, &self.timers[number])

    def pop(self, double now):
        """Returns the numbers that come out at *now*, in order."""
        cdef timer_t* timer
        out = []
        while True:
            timer = wheel_pop(&self.w, <int64_t>(now * 1e9 + 0.5))
            if timer == NULL:
                return out
            out.append(timer - self.timers)

    @property
    def due(self):
        """When to pop next, or None."""
        cdef int64_t due = wheel_due(&self.w)
        return None if due == NO_DEADLINE else due / 1e9

    @property
    def count(self):
        return self.w.count
