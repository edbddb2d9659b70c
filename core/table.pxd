# name -> blob: an immutable snapshot, read without a lock and replaced whole.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from bootplane.core.segments cimport blob_t

cdef enum:
    MAX_NAME = 512               # bytes of a normalised name; longer ones are nobody's

cdef struct entry_t:
    uint64_t hash
    blob_t* blob                 # retained by the table; NULL: the name is of a file that was removed
    uint32_t name_at             # offset in names
    uint16_t name_len            # 0 = free slot

cdef struct table_t:
    int refs                     # atomic: the Table object and each reactor hold one
    uint64_t version
    uint32_t mask                # slots - 1, a power of two
    uint32_t count
    entry_t* slots               # owned, linear probing
    char* names                  # owned, all names in one block

cdef enum name_kind_t:
    NAME_FILE = 0                # look it up
    NAME_DYNAMIC = 1             # grub/grub.cfg*, pxelinux.cfg/*, ipxe.cfg* ...: ask Python
    NAME_EMPTY = 2               # a missing *.lst: a 0-byte success by TFTP (GRUB)
    NAME_CONTROL = 3             # /MAAS/, /api/, /metrics: HTTP hands the descriptor over

# Writes the canonical form of a wire name to *out* (MAX_NAME bytes): backslashes become slashes, empty and "." segments
# vanish, no leading slash. Returns its length, or -1 for "..", NUL, control bytes or a name that is too long.
cdef int name_normalise(const char* raw, size_t n, char* out) noexcept nogil
cdef int name_kind(const char* name, size_t n) noexcept nogil
cdef blob_t* table_find(table_t* table, const char* name, size_t n) noexcept nogil   # borrowed from the snapshot, or NULL
cdef bint table_is_gone(table_t* table, const char* name, size_t n) noexcept nogil   # the name is of a file that was removed
cdef void table_retain(table_t* table) noexcept nogil
cdef void table_release(table_t* table) noexcept nogil        # the last one frees: call it where that may take a while

cdef class Table:
    cdef table_t* t
    cdef bytes checked(self, object name, uint64_t version)
    cdef object fill(self, dict wanted)
