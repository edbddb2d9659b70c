"""What a cache tells Python of itself: its numbers, its segments, what left last and what would leave next.

Idea: the copy is made without the GIL under the cache's lock, the Python objects of it afterwards.

Left to others: the numbers (lru_steps), the names they are told by to anybody else (dataplane.metrics, cachereport).
"""

from typing import NamedTuple

from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from bootplane.core.lru_evictions cimport (
    EVICTIONS, REASON_DISK, REASON_LIMIT, REASON_ROOM, eviction_t, evictions_t,
)
from bootplane.core.lru_forecast cimport cache_leavers, leaver_t
from bootplane.core.lru_policy cimport CLASS_PROTECTED, CLASS_REUSED
from bootplane.core.lru_recheck cimport cache_survey, survey_t
from bootplane.core.lru_steps cimport cache_evictions, cache_look, cache_t
from bootplane.core.segments cimport CHUNK_BYTES
from bootplane.core.status cimport ST_NOMEM, check

_REASONS = ("", "room", "limit", "disk", "dropped", "rotten")            # by reason_t


class Eviction(NamedTuple):
    """Segments of one blob that left one after another for one reason: another segment needed the *room*, a smaller *limit*,
    a full *disk*, *dropped* (nothing names the blob any more), *rotten* (damaged on the disk)."""

    sha256: str
    segments: int
    bytes: int                       # on the disk
    reason: str
    at: float                        # Unix seconds, of the last
    idle_s: float                    # since the last use by anybody; the shortest of them
    wanted_by: str                   # sha256 of the blob that needed the room, of the last; ""


cdef list segments_of(cache_t* c):
    cdef survey_t* found
    cdef uint64_t count = 0, i
    with nogil:
        found = cache_survey(c, &count)
    if found == NULL:
        check(ST_NOMEM, "segments of a cache")
    try:
        return [
            (found[i].digest[:32].hex(), found[i].index,
             found[i].state[:(found[i].length + CHUNK_BYTES - 1) // CHUNK_BYTES], found[i].length)
            for i in range(count)
        ]
    finally:
        free(found)


cdef list leavers_of(cache_t* c):
    cdef leaver_t* found
    cdef uint64_t count = 0, i
    with nogil:
        found = cache_leavers(c, &count)
    if found == NULL:
        check(ST_NOMEM, "segments of a cache")
    try:
        return [(found[i].digest[:32].hex(), found[i].bytes, found[i].segments) for i in range(count)]
    finally:
        free(found)


cdef list evictions_of(cache_t* c):
    cdef evictions_t kept
    cdef eviction_t* each
    cdef uint64_t i
    with nogil:
        cache_evictions(c, &kept)
    found = []
    for i in range(kept.count - min(kept.count, <uint64_t>EVICTIONS), kept.count):
        each = &kept.ring[i % EVICTIONS]
        wanted_by = each.wanted_by[:32]
        found.append(Eviction(
            each.digest[:32].hex(), each.segments, each.bytes, _REASONS[each.reason], each.at_ns / 1e9, each.idle_ns / 1e9,
            wanted_by.hex() if any(wanted_by) else ""))
    return found


cdef dict stats_of(cache_t* c):
    cdef cache_t now
    with nogil:
        cache_look(c, &now)
    room = now.evicted_segments[REASON_ROOM]
    lowered = now.evicted_segments[REASON_LIMIT]
    disk = now.evicted_segments[REASON_DISK]
    return {
        "limit_bytes": now.limit,
        "charged_bytes": now.charged,
        "condemned_bytes": now.condemned,
        "segments": now.segments,
        "protected_bytes": now.policy.orders[CLASS_PROTECTED].bytes,
        "reused_bytes": now.policy.orders[CLASS_REUSED].bytes,
        "made_segments": now.made_segments,
        "ghost_double_segments": now.ghost_double_segments,
        "ghost_quadruple_segments": now.ghost_quadruple_segments,
        "evicted_segments": room + lowered + disk,
        "evicted_room_segments": room,
        "evicted_limit_segments": lowered,
        "evicted_disk_segments": disk,
        "evicted_bytes": now.evicted_bytes,
        "filled_bytes": now.filled_bytes,
        "misfit_segments": now.misfit_segments,
        "refused_chunks": now.refused_chunks,
        "kept_segments": now.kept_segments,
        "rechecked_chunks": now.rechecked_chunks,
        "rotten_chunks": now.rotten_chunks,
        "open_segments": now.open_segments,
        "reopened_segments": now.reopened_segments,
    }
