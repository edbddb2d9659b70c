# Turns of TFTP transfers by groups of clients, while shares are active.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from bootplane.core.shares cimport shares_t
from bootplane.core.tftp_sessions cimport line_t, session_t

cdef struct held_t:                  # of one reactor; zeroed, then `shares` and `due_ns` set
    shares_t* shares                 # borrowed; NULL: nobody is ever limited
    int64_t due_ns                   # when to ask again for a turn; NEVER while nobody waits
    uint64_t groups                  # bit: somebody of this group waits
    uint16_t version                 # of the groups, as these lines were made
    line_t lines[64]                 # by group, SHARE_GROUPS of them

cdef bint held_active(const held_t* held) noexcept nogil
# Takes *session*, which has something to send, out of its TID's line: it waits for a turn of its group.
cdef void held_wait(held_t* held, session_t* session, int64_t now_ns) noexcept nogil
# The next transfer whose turn it is, in its TID's line again, with session.granted set; settle it with held_settle once
# what it may send is gathered. NULL: nobody's before due_ns.
cdef session_t* held_next(held_t* held, int64_t now_ns) noexcept nogil
cdef void held_settle(held_t* held, session_t* session, int64_t sent) noexcept nogil
# The kernel has refused *bytes* of what was settled: its group has not had them.
cdef void held_refund(held_t* held, session_t* session, int64_t bytes) noexcept nogil
cdef void held_forget(held_t* held, session_t* session) noexcept nogil     # it ends; safe if it waits for nothing
