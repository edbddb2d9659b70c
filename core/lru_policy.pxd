# What leaves first. Everything here runs under the mutex of the cache that owns the policy_t.
from libc.stdint cimport uint64_t
from bootplane.core.lru_order cimport order_t
from bootplane.core.segments cimport segment_t

cdef enum:                       # class_t, of segment_t.lru_class; in the order in which they give way while each has its share
    CLASS_NEW = 0                # nobody has used it again, long after it was filled
    CLASS_REUSED = 1
    CLASS_PROTECTED = 2          # of a blob_t that is `protected`
    CLASSES = 3

cdef struct policy_t:
    order_t orders[3]            # by class_t
    uint64_t reuse_ns            # a use counts as "again" this long after the last fill

cdef void policy_add(policy_t* p, segment_t* seg, bint reused) noexcept nogil    # a new one; charge, blob, stamps are set
# A new one, not added yet, that had left before *bytes* others did: it is REUSED. *filled*: its lru_filled then.
cdef bint policy_has_proven(policy_t* p, segment_t* seg, uint64_t bytes, uint64_t filled) noexcept nogil
cdef void policy_put_back(policy_t* p, segment_t* seg) noexcept nogil            # after policy_remove; lru_stamp is set
cdef void policy_remove(policy_t* p, segment_t* seg) noexcept nogil
# Whether it is in an order: of a segment that is the cache's, it is not on its way out, nor out.
cdef bint policy_has(policy_t* p, segment_t* seg) noexcept nogil
cdef void policy_protect(policy_t* p, segment_t* seg) noexcept nogil             # its blob has become protected; idempotent
# REUSED, or will be when it is looked at next. For the record at the end.
cdef bint policy_is_reused(policy_t* p, segment_t* seg) noexcept nogil
# The segment to evict next for a cache of *limit* bytes; stays where it is. NULL when none may go. *incoming*: bytes of the
# protected segment that the room is for; 0: for another.
cdef segment_t* policy_pick(policy_t* p, uint64_t limit, uint64_t incoming) noexcept nogil
