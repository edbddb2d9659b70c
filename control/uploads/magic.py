"""Whether the first bytes of a file are what its ftype says. Pure; both ends ask, before the bytes are sent and before
they become an image.

The idea is to catch the wrong file and the wrong --type, not to validate an archive: what the container is must be
right; what is inside is unpacked as far as the first bytes go and refused only when it plainly is something else.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib

from bootplane.control.domain.images import INITRD, KERNEL, SQUASHFS
from bootplane.control.errors import Refused
from bootplane.control.uploads.rules import MANIFEST, TYPE_OF

HEAD_BYTES = 64 << 10  # of a file, or all of it: holds every mark below and the first block of what is inside
BLOCK = 512  # of tar, and of the partition tables' marks

_GZIP, _BZIP2, _XZ = "gzip", "bzip2", "xz"
_CONTAINERS = {
    "root-tgz": _GZIP,
    "root-tbz": _BZIP2,
    "root-txz": _XZ,
    "root-dd": _GZIP,
    "root-dd.gz": _GZIP,
    "root-dd.tar.bz2": _BZIP2,
    "root-dd.bz2": _BZIP2,
    "root-dd.tar.xz": _XZ,
    "root-dd.xz": _XZ,
    "root-dd.tar": "tar",
    "root-dd.raw": "disk",
    SQUASHFS: "squashfs",
}
_INSIDE = {
    **dict.fromkeys(("root-tgz", "root-tbz", "root-txz", "root-dd", "root-dd.tar.bz2", "root-dd.tar.xz"), "tar"),
    **dict.fromkeys(("root-dd.gz", "root-dd.bz2", "root-dd.xz"), "disk"),
}
_TOLD = {
    _GZIP: "a gzip file",
    _BZIP2: "a bzip2 file",
    _XZ: "an xz file",
    "tar": "a tar archive",
    "disk": "a disk image with a partition table",
    "squashfs": "a squashfs file system",
    "zstd": "a zstd file",
    "zip": "a zip archive",
    "qcow2": "a qcow2 disk image (convert it: qemu-img convert -O raw)",
    "iso": "an ISO 9660 image",
    "cpio": "a cpio archive",
    "elf": "an ELF file",
    "html": "an HTML page",
    "lz4": "an lz4 file",
    "kernel": "a kernel",
}
_MARKS: tuple[tuple[str, int, bytes], ...] = (
    (_GZIP, 0, b"\x1f\x8b"),
    (_BZIP2, 0, b"BZh"),
    (_XZ, 0, b"\xfd7zXZ\0"),
    ("squashfs", 0, b"hsqs"),
    ("zstd", 0, b"\x28\xb5\x2f\xfd"),
    ("lz4", 0, b"\x02\x21\x4c\x18"),
    ("lz4", 0, b"\x04\x22\x4d\x18"),
    ("zip", 0, b"PK\x03\x04"),
    ("qcow2", 0, b"QFI\xfb"),
    ("cpio", 0, b"07070"),
    ("kernel", 0x202, b"HdrS"),  # x86: Documentation/arch/x86/boot.rst
    ("kernel", 0x38, b"ARM\x64"),  # arm64: Documentation/arch/arm64/booting.rst
    ("kernel", 0x24, b"\x18\x28\x6f\x01"),  # arm: zImage
    ("kernel", 0x30, b"RISCV\0\0\0"),
    ("elf", 0, b"\x7fELF"),
    ("iso", 0x8001, b"CD001"),
)
_KERNELS = frozenset({"kernel", "elf", _GZIP})  # ppc64el is ELF, arm64 may be Image.gz
_INITRDS = frozenset({_GZIP, _BZIP2, _XZ, "zstd", "lz4", "cpio"})


def check(ftype: str, arch: str, head: bytes, name: str) -> None:
    """Raises Refused unless *head*, the first HEAD_BYTES of a file or all of it, can be of *ftype*. *name* is for the
    sentence."""
    found = kind_of(head)
    if ftype == MANIFEST:
        if b"\0" in head or found in ("html", "disk"):
            raise Refused(f"{name}: expected a list of packages and versions in text, got {_told(found, head)}")
        return
    if ftype == KERNEL:
        if arch != "s390x" and found not in _KERNELS and head[:2] != b"MZ":
            raise Refused(f"{name}: expected a kernel for {arch}, got {_told(found, head)}")
        return
    if ftype == INITRD:
        if found not in _INITRDS and head[:3] != b"\x5d\0\0":  # lzma has no mark of its own
            raise Refused(f"{name}: expected an initrd (a cpio archive, mostly compressed), got {_told(found, head)}")
        return
    wanted = _CONTAINERS[ftype]
    if found != wanted:
        suggestion = _suggestion(found, head)
        raise Refused(
            f"{name}: expected {_TOLD[wanted]}{_as_type(ftype)}, got {_told(found, head)}"
            + (f": did you mean --type {suggestion}?" if suggestion else "")
        )
    inside = _INSIDE.get(ftype)
    got = kind_of(_unpacked(wanted, head)) if inside else ""
    if inside and got in ("tar", "disk") and got != inside:
        other = next(kind for ftype_, kind in _INSIDE_TYPES if (_CONTAINERS[ftype_], _INSIDE[ftype_]) == (wanted, got))
        raise Refused(
            f"{name}: expected {_TOLD[inside]} in {_TOLD[wanted]}{_as_type(ftype)}, got {_TOLD[got]} in it: "
            f"did you mean --type {other}?"
        )


def kind_of(head: bytes) -> str:
    """What *head* begins like, in one word; empty for what is not known."""
    if _is_tar(head):  # before the marks: its first bytes are any file's name
        return "tar"
    for kind, offset, mark in _MARKS:
        if head[offset : offset + len(mark)] == mark:
            return kind
    if head[510:512] == b"\x55\xaa" or head[512:520] == b"EFI PART" or head[4096:4104] == b"EFI PART":
        return "disk"
    if re.match(rb"\s*<(!doctype|html)", head[:256], re.IGNORECASE):
        return "html"
    return ""


_INSIDE_TYPES = tuple((ftype, TYPE_OF[ftype]) for ftype in _INSIDE)


def _is_tar(head: bytes) -> bool:
    """By its header's checksum, which archives of before POSIX have as well."""
    block = head[:BLOCK]
    if len(block) < BLOCK or not block[0]:
        return False
    try:
        said = int(block[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return said == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _unpacked(container: str, head: bytes) -> bytes:
    """The beginning of what is inside; empty when *head* is too short to tell, or broken."""
    try:
        if container == _GZIP:
            return zlib.decompressobj(wbits=31).decompress(head, 16 * BLOCK)
        if container == _BZIP2:
            return bz2.BZ2Decompressor().decompress(head, 16 * BLOCK)
        return lzma.LZMADecompressor(memlimit=256 << 20).decompress(head, 16 * BLOCK)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
        return b""


def _suggestion(found: str, head: bytes) -> str:
    if found in (_GZIP, _BZIP2, _XZ):
        inside = kind_of(_unpacked(found, head))
        return next((k for f, k in _INSIDE_TYPES if (_CONTAINERS[f], _INSIDE[f]) == (found, inside)), "")
    return {"tar": "ddtar", "disk": "ddraw"}.get(found, "")


def _as_type(ftype: str) -> str:
    return f", as --type {TYPE_OF[ftype]} says" if ftype in TYPE_OF else ""


def _told(found: str, head: bytes) -> str:
    if found:
        return _TOLD[found]
    return "a file that begins with " + (head[:8].hex(" ") or "nothing")
