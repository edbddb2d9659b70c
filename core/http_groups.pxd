# Turns of large bodies by groups of clients, while shares are active.
from libc.stdint cimport int64_t
from bootplane.core.http_connection cimport connection_t, http_t

# Puts one that wants a turn into its group's queue; finds its group, and sets its pace, when the groups have changed.
cdef void group_enqueue(http_t* http, connection_t* c) noexcept nogil
cdef void group_forget(http_t* http, connection_t* c) noexcept nogil     # there are no groups any more: nor a pace
# Gives turns until *most* bytes are spent, nobody waits, or nobody may before http.turn_ns.
cdef void group_round(http_t* http, int64_t most) noexcept nogil
cdef void groups_leave(http_t* http) noexcept nogil      # the service stops: nobody waits here any more
