# Thousands of deadlines that mostly move later: a wheel of slots, moved lazily. Times are absolute monotonic ns.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    WHEEL_SLOTS = 512
    TICK_SHIFT = 23              # 8.4 ms; the wheel spans 4.3 s, what is due later is looked at again on the way
    NO_DEADLINE = 0x7fffffffffffffff     # the loop's NEVER, without depending on the loop

cdef struct timer_t:             # embedded in what it times; zeroed at birth
    timer_t* prev
    timer_t* next
    uint64_t tick                # where it stands, not when it is due: at or before that
    uint32_t linked

cdef struct wheel_t:
    timer_t* slots[512]
    uint64_t used[8]             # bit per slot
    uint64_t tick                # next tick to look at; every linked timer stands in tick .. tick+WHEEL_SLOTS-1
    uint32_t count

cdef void wheel_init(wheel_t* w, int64_t now_ns) noexcept nogil
# Makes sure that *timer* comes out of wheel_pop at *at_ns* or earlier. One that already stands earlier is left where it
# is: the owner compares with its real deadline when it comes out, and arms it again.
cdef void wheel_arm(wheel_t* w, timer_t* timer, int64_t at_ns, int64_t now_ns) noexcept nogil
cdef void wheel_disarm(wheel_t* w, timer_t* timer) noexcept nogil         # safe when not linked
cdef timer_t* wheel_pop(wheel_t* w, int64_t now_ns) noexcept nogil  # one whose time may have come, unlinked, or NULL
cdef int64_t wheel_due(const wheel_t* w) noexcept nogil                   # when to pop next, or NO_DEADLINE
