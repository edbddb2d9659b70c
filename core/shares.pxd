# Who may send how much: groups of clients by subnet, with weights, caps, and a total. One table for all reactors.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from bootplane.core.linux cimport pthread_mutex_t

cdef enum:
    SHARE_GROUPS = 64                # a mask of them is one word
    SHARE_PREFIXES = 1024
    SHARE_OTHERS = 0                 # the group of everybody else

cdef struct share_t:                 # one group
    uint8_t used
    uint32_t weight                  # 1 and up
    uint64_t cap_bytes_s             # of all its clients together; 0: none
    uint64_t pace_bytes_s            # of each of its TCP connections, SO_MAX_PACING_RATE; 0: none
    int64_t tokens                   # bytes that its cap allows now; below 0: borrowed
    uint64_t virtual                 # bytes sent x 1024 / weight: who has the least is next
    uint32_t ready                   # connections and transfers that wait for a turn, on all reactors
    uint64_t bytes                   # sent since the group is there

cdef struct prefix_t:
    uint8_t ip[16]                   # IPv4 as ::ffff:a.b.c.d
    uint8_t bits                     # of 128
    uint8_t group

cdef struct turn_t:
    int group
    int64_t bytes                    # may be sent now, and counts as sent until shares_settle
    int64_t retry_ns                 # when there is no turn: ask again then

cdef struct shares_t:
    int active                       # atomic; 0: nobody is limited, and nobody need ask
    int version                      # atomic; a change of it makes every group_of of before old
    pthread_mutex_t lock             # over all below; held for a look at 64 groups
    uint64_t total_bytes_s           # 0: as much as the machine gives
    int64_t tokens
    int64_t refilled_ns
    uint64_t passed                  # virtual time of the last turn: where a group begins that has been idle
    uint32_t prefix_n
    share_t groups[64]               # SHARE_GROUPS
    prefix_t prefixes[1024]          # SHARE_PREFIXES, the longest first

cdef class Shares:
    cdef shares_t s
    cdef object _groups
    cdef object _put(self, object prefixes, uint64_t total_bytes_s, object kept)

cdef int shares_group(shares_t* s, const uint8_t* ip) noexcept nogil               # of a client, by its 16 bytes
cdef uint64_t shares_pace(shares_t* s, int group) noexcept nogil
# One more, or one less, of *group* waits for a turn.
cdef void shares_ready(shares_t* s, int group, int64_t now_ns) noexcept nogil
cdef void shares_unready(shares_t* s, int group) noexcept nogil
# Whose turn it is among the groups in *mask* (bit: group), for at most *most* bytes. False: nobody's before retry_ns.
cdef bint shares_turn(shares_t* s, uint64_t mask, int64_t most, int64_t now_ns, turn_t* turn) noexcept nogil
cdef void shares_settle(shares_t* s, const turn_t* turn, int64_t sent) noexcept nogil      # once after each turn
