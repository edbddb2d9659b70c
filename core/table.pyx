"""The name table: what a machine asks for, and the blob it means.

Idea: a snapshot is built once from a mapping, never changed, and replaced whole; a reactor reads its own snapshot without
a lock. Open addressing with linear probing at most half full: a miss (firmware asks for many names nobody has) ends at
the first free slot.

Invariant: only canonical names are in a table, and a lookup compares bytes: a name that is not in the table never
reaches a file system. A table holds one reference on each blob it names, once per name. A name of a file that was
removed is in the table without a blob: to TFTP it is nobody's, to HTTP 410.

Left to others: which names exist (dataplane.namespace), percent-decoding and query strings (the HTTP head), whether a
missing *.lst is a success (TFTP only; look the name up before asking for its kind).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from bootplane.core.blob cimport Blob
from bootplane.core.linux cimport bp_add_int, bp_load_int
from bootplane.core.segments cimport blob_release, blob_retain, blob_t
from bootplane.core.status cimport ST_NOMEM, check


# ---- names

cdef int name_normalise(const char* raw, size_t n, char* out) noexcept nogil:
    cdef size_t i = 0, start, length
    cdef int written = 0
    cdef uint8_t c
    while i < n:
        start = i                    # one segment: raw[start:i]
        while i < n:
            c = <uint8_t>raw[i]
            if c == c'/' or c == c'\\':
                break
            if c < 0x20 or c == 0x7f:
                return -1
            i += 1
        length = i - start
        i += 1                       # the separator, or one past the end
        if length == 0 or (length == 1 and raw[start] == c'.'):
            continue
        if length == 2 and raw[start] == c'.' and raw[start + 1] == c'.':
            return -1                # never resolved: no honest firmware was seen to send one
        if <size_t>written + (written > 0) + length > MAX_NAME:
            return -1
        if written > 0:
            out[written] = c'/'
            written += 1
        memcpy(out + written, raw + start, length)
        written += <int>length
    return written


cdef inline bint starts(const char* name, size_t n, const char* prefix, size_t m) noexcept nogil:
    return n >= m and memcmp(name, prefix, m) == 0


cdef inline bint equals(const char* name, size_t n, const char* other, size_t m) noexcept nogil:
    return n == m and memcmp(name, other, m) == 0


cdef int name_kind(const char* name, size_t n) noexcept nogil:
    cdef size_t dir_len = n          # directory part with its slash: name[:dir_len]
    cdef const char* base
    cdef size_t base_len
    while dir_len > 0 and name[dir_len - 1] != c'/':
        dir_len -= 1
    base = name + dir_len
    base_len = n - dir_len
    # The first segment alone is ours too: normalisation took the slash off "/MAAS/".
    if (starts(name, n, b"MAAS/", 5) or equals(name, n, b"MAAS", 4) or starts(name, n, b"api/", 4)
            or equals(name, n, b"api", 3) or starts(name, n, b"metrics/", 8) or equals(name, n, b"metrics", 7)):
        return NAME_CONTROL
    # GRUB's folder is what it was built with: grub, debian-installer/arm64/grub in Debian's installer images, none.
    if equals(base, base_len, b"grub.cfg", 8) and (
            dir_len == 0 or equals(name, dir_len, b"grub/", 5) or (dir_len > 5 and memcmp(base - 6, b"/grub/", 6) == 0)):
        return NAME_DYNAMIC
    if starts(base, base_len, b"grub.cfg-", 9) and (
            dir_len == 0 or starts(name, n, b"grub/", 5)
            or (dir_len > 5 and memcmp(base - 6, b"/grub/", 6) == 0)):
        return NAME_DYNAMIC
    # PXELINUX glues the directory it was loaded from before the name: bios/pxelinux.cfg/default.
    if dir_len >= 13 and memcmp(base - 13, b"pxelinux.cfg/", 13) == 0 and (dir_len == 13 or name[dir_len - 14] == c'/'):
        return NAME_DYNAMIC
    if dir_len == 0 and (equals(name, n, b"ipxe.cfg", 8) or starts(name, n, b"ipxe.cfg-", 9)):
        return NAME_DYNAMIC
    if base_len >= 4 and memcmp(base + base_len - 4, b".lst", 4) == 0:
        return NAME_EMPTY
    return NAME_FILE


# ---- the snapshot

cdef inline uint64_t name_hash(const char* name, size_t n) noexcept nogil:
    # Eight bytes a step. No secret: the names in a table are ours, and a name from the wire is never inserted.
    cdef uint64_t h = 0x9e3779b97f4a7c15ULL ^ n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, name, 8)
        h = (h ^ word) * 0xff51afd7ed558ccdULL
        h ^= h >> 32
        name += 8
        n -= 8
    if n:
        word = 0
        memcpy(&word, name, n)
        h = (h ^ word) * 0xff51afd7ed558ccdULL
        h ^= h >> 32
    h *= 0xc4ceb9fe1a85ec53ULL
    return h ^ (h >> 29)


cdef entry_t* table_slot(table_t* table, const char* name, size_t n) noexcept nogil:
    # The slot of this name, or the free slot where it would go; there always is one.
    cdef uint64_t h = name_hash(name, n)
    cdef uint32_t i = <uint32_t>h & table.mask
    cdef entry_t* entry
    while True:
        entry = &table.slots[i]
        if entry.name_len == 0:
            return entry
        if entry.hash == h and entry.name_len == n and memcmp(table.names + entry.name_at, name, n) == 0:
            return entry
        i = (i + 1) & table.mask


cdef blob_t* table_find(table_t* table, const char* name, size_t n) noexcept nogil:
    return table_slot(table, name, n).blob


cdef bint table_is_gone(table_t* table, const char* name, size_t n) noexcept nogil:
    cdef entry_t* entry = table_slot(table, name, n)
    return entry.name_len != 0 and entry.blob == NULL


cdef void table_retain(table_t* table) noexcept nogil:
    bp_add_int(&table.refs, 1)


cdef void table_release(table_t* table) noexcept nogil:
    cdef uint32_t i
    if bp_add_int(&table.refs, -1) != 0:
        return
    if table.slots != NULL:
        for i in range(table.mask + 1):
            if table.slots[i].blob != NULL:
                blob_release(table.slots[i].blob)
    free(table.slots)
    free(table.names)
    free(table)


# ---- Python

cdef bytes canonical(object name):
    # The canonical bytes of a name, or None. UTF-8; what is not UTF-8 on the wire arrives as surrogates.
    cdef char out[MAX_NAME]
    cdef bytes raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    cdef int n = name_normalise(PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw), out)
    return None if n < 0 else PyBytes_FromStringAndSize(out, n)


def normalise(name) -> str | None:
    """The canonical form of a wire name (str or bytes); None for "..", control bytes, or more than MAX_NAME bytes."""
    cdef bytes out = canonical(name)
    return None if out is None else out.decode("utf-8", "surrogateescape")


def kind(name: str) -> int:
    """name_kind_t of a canonical name: 0 file, 1 dynamic, 2 empty when missing, 3 control."""
    cdef bytes raw = name.encode("utf-8", "surrogateescape")
    return name_kind(PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw))


cdef class Table:
    """An immutable snapshot of *names*, and of names whose file was removed (*gone*). Names are normalised; ValueError for
    one that has no canonical form, and for two that have the same and do not mean the same."""

    def __cinit__(self, names, uint64_t version, gone=()):
        cdef dict wanted = {}
        cdef bytes raw
        cdef size_t total = 0
        cdef uint32_t slots = 8
        for name, value in names.items():
            raw = self.checked(name, version)
            if not isinstance(value, Blob):
                raise TypeError(f"table {version}: name {name!r}: expected a Blob, got {type(value).__name__}")
            if wanted.setdefault(raw, value) != value:
                raise ValueError(f"table {version}: name {name!r}: expected one blob, "
                                 f"got {wanted[raw].sha256} and {value.sha256}")
        for name in gone:
            raw = self.checked(name, version)
            if wanted.setdefault(raw, None) is not None:
                raise ValueError(f"table {version}: name {name!r}: expected it removed or there, got both")
        for raw in wanted:
            total += <size_t>PyBytes_GET_SIZE(raw)
        if total > 0xffffffffULL or len(wanted) > 1 << 30:
            raise ValueError(f"table {version}: expected less than 4 GiB of names, got {total} bytes")
        while slots < 2 * <uint64_t>len(wanted):
            slots *= 2
        self.t = <table_t*>calloc(1, sizeof(table_t))
        if self.t == NULL:
            check(ST_NOMEM, f"table {version}")
        self.t.refs = 1
        self.t.version = version
        self.t.mask = slots - 1
        self.t.slots = <entry_t*>calloc(slots, sizeof(entry_t))
        self.t.names = <char*>malloc(total + 1)
        if self.t.slots == NULL or self.t.names == NULL:
            check(ST_NOMEM, f"table {version}: {len(wanted)} names")
        self.fill(wanted)

    cdef bytes checked(self, object name, uint64_t version):
        cdef bytes raw = canonical(name)
        if not raw:
            raise ValueError(f"table {version}: expected a name of 1 to {MAX_NAME} bytes without '..' and control "
                             f"bytes, got {name!r}")
        return raw

    cdef object fill(self, dict wanted):
        cdef bytes raw
        cdef size_t at = 0
        cdef entry_t* entry
        for raw, value in wanted.items():
            entry = table_slot(self.t, PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw))
            entry.hash = name_hash(PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw))
            entry.name_at = <uint32_t>at
            entry.name_len = <uint16_t>PyBytes_GET_SIZE(raw)
            memcpy(self.t.names + at, PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw))
            at += <size_t>PyBytes_GET_SIZE(raw)
            if value is not None:
                entry.blob = (<Blob>value).b
                blob_retain(entry.blob)
                self.t.count += 1

    def __dealloc__(self):
        if self.t != NULL:
            table_release(self.t)
            self.t = NULL

    def __len__(self) -> int:
        """How many names there are; those of removed files do not count."""
        return self.t.count

    @property
    def version(self) -> int:
        return self.t.version

    @property
    def references(self) -> int:
        """References on the snapshot: this object's and one per reactor that reads it."""
        return bp_load_int(&self.t.refs)

    def find(self, name) -> str | None:
        """The SHA-256 of the blob that a wire name means, after normalisation; None when nobody has that name."""
        cdef bytes raw = canonical(name)
        cdef blob_t* blob
        if not raw:
            return None
        blob = table_find(self.t, PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw))
        return None if blob == NULL else blob.digest[:32].hex()

    def is_gone(self, name) -> bool:
        """Whether a wire name is that of a file that was removed."""
        cdef bytes raw = canonical(name)
        return bool(raw) and table_is_gone(self.t, PyBytes_AS_STRING(raw), <size_t>PyBytes_GET_SIZE(raw))
