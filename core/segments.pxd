# Blob, segment, chunk: where immutable bytes live and which of them may be sent.
#
#   blob_t --segs[i]--> segment_t --fd, map--> one file       (cache: 4 MiB files; store: one whole file; memory: fd -1)
#
# A slot of segs holds one reference on its segment. A sender takes another before it looks at a chunk's state and drops
# it after its call returned. segment_t memory is type-stable (a pool that is never given back), so taking a reference
# is lock-free: load slot, add one unless zero, load the slot again. The last reference never closes anything itself:
# the segment goes to the graveyard, and reap(), on a fill thread, closes and unmaps (closing an unlinked file frees
# disk blocks, which can take milliseconds: not on a reactor).
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from bootplane.core.linux cimport off_t

cdef struct blob_t
cdef struct segment_t

cdef enum:
    CHUNK_BYTES = 1048576            # 1 MiB, the unit of verification
    SEGMENT_CHUNKS = 4
    SEGMENT_BYTES = 4194304          # the unit of caching and eviction
    SMALL_BYTES = 65536              # up to here HTTP sends head and body in one sendmsg from the mapping

cdef enum chunk_state_t:
    CHUNK_ABSENT = 0
    CHUNK_FILLING = 1                # some fill thread has it; its bytes are nobody's yet
    CHUNK_PRESENT = 2                # digest matched and pwrite returned the full length: may be sent
    CHUNK_UNCHECKED = 3              # bytes are on disk from an earlier run; re-hash before use; senders see ABSENT
    CHUNK_CLOSED = 4                 # verified, but its file is not open (lru_open); senders see ABSENT

cdef struct segment_t:               # of a cache: what must outlive its file's closing is copied in lru_open.succeed
    int refs                         # atomic; 0 = in the pool or in the graveyard
    int fd                           # owned; -1 for a memory segment, and for a cached one whose file is not open
    uint8_t* map                     # owned read-only mapping of all of it; NULL when length is 0 or it is not open
    off_t base                       # offset in the blob of this segment's first byte
    off_t length                     # bytes; the last segment of a blob may be short
    uint8_t complete                 # 1: every byte present for ever (store file, memory); state[] unused
    uint8_t state[4]                 # atomic chunk_state_t of each chunk of a cached segment
    uint64_t stamp                   # last use, monotonic ns, relaxed store by senders, read by the evictor
    uint64_t charge                  # bytes charged to the cache, 0 when not cached
    blob_t* blob                     # borrowed; valid while the segment is in a slot
    uint32_t index                   # slot number in the blob
    void* cache                      # borrowed: the cache_t that charged it, NULL when not cached
    segment_t* lru_prev              # the order it is in (lru_order), under the cache's mutex like all of lru_*
    segment_t* lru_next
    uint64_t lru_stamp               # its place in the order: `stamp` when it was last put there
    uint64_t lru_filled              # when the last fill in it was begun, as `stamp`; 0: by an earlier run
    uint8_t lru_class                # which order (lru_policy.class_t)
    segment_t* next_dead             # graveyard or pool link
    uint8_t doomed                   # not 0: to be removed after its fills (lru_steps); under the cache's mutex
    void (*on_closed)(segment_t* seg) noexcept nogil   # NULL, or called by reap() after the close; seg.blob may be gone
    segment_t* open_older            # the open files of a cache (lru_open), under the cache's mutex like all of open_*
    segment_t* open_newer
    uint64_t open_stamp              # `stamp` when it was last put there
    uint8_t open_listed              # 1: in that list, that is: in a slot, its file open, nobody at work on it
    uint8_t synced                   # 1: as an earlier run left it, on stable storage; nothing was written since
    uint8_t settled                  # whether the disk has taken what was written (lru_settle); under the cache's mutex
    int64_t ctime_ns                 # of the file, when its bytes were last known to be ours; 0: never (lru_open)

cdef struct blob_t:
    int refs                         # atomic; Blob objects, snapshots and transfers hold one each
    uint64_t id                      # unique in the process, never 0, never reused
    off_t size                       # bytes
    off_t seg_bytes                  # bytes of every segment but the last
    uint32_t nsegs
    segment_t** segs                 # atomic slots, NULL = nothing of this segment is here
    char etag[72]                    # "\"<64 hex>\"", NUL-terminated
    char digest_base64[44]           # for Repr-Digest
    uint8_t digest[32]
    uint8_t dynamic                  # 1: made for one request (boot configuration), never cached by name
    uint8_t registered               # 1: a cache's register holds one of refs, and keeps it while cached > 0
    uint8_t protected                # 1: its segments are of the protected class (lru_policy); under the cache's mutex
    uint32_t cached                  # segments in slots that a cache charged; under the cache's mutex
    blob_t* next_dead

# Takes a reference on the segment that holds *offset* (0 <= offset < size) and gives the count of bytes that may be
# sent from there: never across the segment's end, never beyond a chunk that is not PRESENT. Stamps the segment with
# *now_ns*. ST_OK: release *seg after the call. ST_ABSENT: no reference taken. Lock-free, any thread.
cdef int blob_span(blob_t* blob, off_t offset, int64_t now_ns, segment_t** seg, off_t* run) noexcept nogil
cdef segment_t* segment_acquire(blob_t* blob, uint32_t index) noexcept nogil   # or NULL
cdef void segment_release(segment_t* seg) noexcept nogil

cdef void blob_retain(blob_t* blob) noexcept nogil
cdef void blob_release(blob_t* blob) noexcept nogil      # the last one buries blob and segments for reap()

# Used by lru.pyx to make and drop cached segments. Neither is for a reactor: both allocate.
# segment_new maps *fd* and owns it from then on; NULL (no memory, or the mapping was refused): fd is still the
# caller's. The one reference is for the slot; publish with bp_store_ptr(&blob.segs[index], seg) once every field is
# right.
cdef segment_t* segment_new(blob_t* blob, uint32_t index, int fd, off_t base, off_t length) noexcept nogil    # refs = 1
cdef blob_t* blob_new(off_t size, off_t seg_bytes, const uint8_t* digest) noexcept nogil      # refs = 1, empty slots
cdef int64_t blob_reap() noexcept nogil    # reap() without the GIL: segments closed; may block, so never on a reactor
# For leak tests: segments made and not yet closed, blobs made and not yet freed, how many of both wait for reap().
cdef void segment_counts(int* segments, int* blobs, int* graveyard) noexcept nogil
