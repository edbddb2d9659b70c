# Lists of deadlines. What is in one is due the list's span after it was put there, so appending keeps them in order,
# and whoever looks for what is due looks at heads only, ten thousand entries or one.
#
# A deadline is a member of what has it, which is in one list at most and knows in which one: nothing is allocated, and
# nothing looked up. All of it is on the way of every request, so it stands here, where the C compiler sees it.
from libc.stdint cimport int64_t

cdef struct deadline_t:
    int64_t due_ns
    deadline_t* before
    deadline_t* after

cdef struct deadlines_t:             # one list
    deadline_t* first
    deadline_t* last
    int64_t span_ns                  # from being put into it to being due

cdef inline void deadlines_append(deadlines_t* l, deadline_t* d, int64_t now_ns) noexcept nogil:     # it is in none
    d.due_ns = now_ns + l.span_ns
    d.before = l.last
    d.after = NULL
    if l.last != NULL:
        l.last.after = d
    else:
        l.first = d
    l.last = d

cdef inline void deadlines_remove(deadlines_t* l, deadline_t* d) noexcept nogil:                     # it is in this one
    if d.before != NULL:
        d.before.after = d.after
    else:
        l.first = d.after
    if d.after != NULL:
        d.after.before = d.before
    else:
        l.last = d.before

# When the earliest of all in lists[0:n] is due, or *never*.
cdef inline int64_t deadlines_next(const deadlines_t* lists, int n, int64_t never) noexcept nogil:
    cdef int i
    for i in range(n):
        if lists[i].first != NULL and lists[i].first.due_ns < never:
            never = lists[i].first.due_ns
    return never
