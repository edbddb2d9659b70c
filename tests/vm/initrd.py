"""cpio archives as the kernel unpacks them (newc), gzipped: written from scratch, and read to take files out of one.

Numbers and names are those of Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
Left to others: what stands in an initrd.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_MAGIC = b"070701"
_HEADER_BYTES = 110
_END = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One member: *mode* with its type bits; *data* is a file's content or a link's target."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(data: bytes, permissions: int = 0o755) -> Entry:
    return Entry(stat.S_IFREG | permissions, data)


def link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def folder() -> Entry:
    return Entry(stat.S_IFDIR | 0o755)


def console() -> Entry:
    """/dev/console: without it /init has no output before devtmpfs is mounted."""
    return Entry(stat.S_IFCHR | 0o600, device=(5, 1))


def pack(entries: Mapping[str, Entry]) -> bytes:
    """A gzipped archive; folders that lead to a member are added."""
    members: dict[str, Entry] = {}
    for name, entry in entries.items():
        parts = name.split("/")
        for end in range(1, len(parts)):
            members.setdefault("/".join(parts[:end]), folder())
        members[name] = entry
    out = bytearray()
    for number, (name, entry) in enumerate([*members.items(), (_END, Entry(0))], start=1):
        path = name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(path), 0)
        out += _MAGIC + b"".join(b"%08X" % field for field in fields) + path
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return gzip.compress(bytes(out), compresslevel=6, mtime=0)


def read(packed: bytes) -> Iterator[tuple[str, Entry]]:
    """(name, entry) of every member of a gzipped archive."""
    data = gzip.decompress(packed)
    at = 0
    while data[at : at + 6] == _MAGIC:
        field = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, major, minor, name_bytes = field[1], field[6], field[9], field[10], field[11]
        name = data[at + _HEADER_BYTES : at + _HEADER_BYTES + name_bytes - 1].decode()
        if name == _END:
            return
        body = (at + _HEADER_BYTES + name_bytes + 3) & ~3
        yield name.removeprefix("./"), Entry(mode, data[body : body + size], (major, minor))
        at = (body + size + 3) & ~3
    raise ValueError(f"cpio: expected {_MAGIC!r} at byte {at}, got {data[at : at + 6]!r}")
