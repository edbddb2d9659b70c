"""What would leave the cache next, if something new were fetched.

Idea: lru_policy finds out what was used again when it looks for a victim; here that is done for every segment, on a copy,
and nothing is moved. An estimate: uses, fills and pins after the look are not in it.

A storm's own segments are NEW and the newest, so what may leave for it is all that is NEW now, and of what was REUSED the
oldest beyond that class's share; then it would be the storm's own turn. PROTECTED ones are left out, although a share of
their own binds them too: they are few and small.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, qsort
from libc.string cimport memcmp, memcpy

from bootplane.core.linux cimport bp_relaxed_u64, pthread_mutex_lock, pthread_mutex_unlock
from bootplane.core.lru_policy cimport CLASS_NEW, CLASS_PROTECTED, CLASS_REUSED, policy_is_reused
from bootplane.core.segments cimport segment_t


cdef int goes_before(const void* a, const void* b) noexcept nogil:
    cdef const leaver_t* first = <const leaver_t*>a
    cdef const leaver_t* second = <const leaver_t*>b
    if first.lru_class != second.lru_class:
        return -1 if first.lru_class < second.lru_class else 1
    if first.stamp != second.stamp:
        return -1 if first.stamp < second.stamp else 1
    return 0


cdef leaver_t* cache_leavers(cache_t* c, uint64_t* count) noexcept nogil:
    cdef leaver_t* found
    cdef segment_t* seg
    cdef uint64_t n = 0, kept = 0, reused = 0, share, stamp, i
    cdef int group
    pthread_mutex_lock(&c.lock)
    share = c.limit - c.policy.orders[CLASS_PROTECTED].bytes if c.limit > c.policy.orders[CLASS_PROTECTED].bytes else 0
    share = share // 4 * 3               # as lru_policy has it
    found = <leaver_t*>calloc(c.segments + 1, sizeof(leaver_t))
    for group in range(CLASS_NEW, CLASS_PROTECTED):
        seg = c.policy.orders[group].oldest if found != NULL else NULL
        while seg != NULL:
            stamp = bp_relaxed_u64(&seg.stamp)
            memcpy(found[n].digest, seg.blob.digest, 32)
            found[n].lru_class = CLASS_REUSED if policy_is_reused(&c.policy, seg) else CLASS_NEW
            found[n].stamp = stamp if stamp > seg.lru_stamp else seg.lru_stamp
            found[n].bytes = seg.charge
            found[n].segments = 1
            if found[n].lru_class == CLASS_REUSED:
                reused += seg.charge
            n += 1
            seg = seg.lru_next
    pthread_mutex_unlock(&c.lock)
    if found == NULL:
        return NULL
    qsort(found, n, sizeof(leaver_t), goes_before)
    for i in range(n):
        if found[i].lru_class == CLASS_REUSED:
            if reused <= share:
                break
            reused -= found[i].bytes
        if kept and memcmp(found[kept - 1].digest, found[i].digest, 32) == 0:
            found[kept - 1].bytes += found[i].bytes
            found[kept - 1].segments += found[i].segments
        else:
            if kept != i:
                memcpy(&found[kept], &found[i], sizeof(leaver_t))
            kept += 1
    count[0] = kept
    return found
