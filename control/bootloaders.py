"""Boot loader archives, unpacked safely: ``archive.tar.xz`` in, file names and bytes out.

The archive is proved by a signed digest; that says who packed it, not that it is harmless. So it is taken apart in
memory, within bounds, and only what a boot loader archive is made of is accepted: regular files in one flat folder.
Anything else (links, devices, folders, sparse files, ``..``, absolute names, a name twice) refuses the whole archive,
because half a boot loader boots nothing.

Invariant: nothing is written to a file system here, and no more than UNPACKED_BYTES + xz's dictionary is ever held.
Left to others: storing the files (sync), their names on the wire (dataplane.namespace).
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from pathlib import Path

from bootplane.control.errors import Refused

ARCHIVE_BYTES = 32 << 20  # packed; Ubuntu's have 0.25 to 1.2 MB
UNPACKED_BYTES = 64 << 20
FILES = 512  # syslinux has some 70
XZ_MEMORY_BYTES = 128 << 20  # `xz -9` needs 65 MiB to unpack

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}\Z")
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class ArchiveRefused(Refused):
    """An archive that is not what a boot loader archive must be."""


def unpack(archive: Path | bytes, name: str = "") -> dict[str, bytes]:
    """File name -> content of every file in *archive*, in its order.

    Raises ArchiveRefused in one sentence that begins with *name* (the path when there is none).
    """
    where = name or (str(archive) if isinstance(archive, Path) else "archive")
    if isinstance(archive, Path):
        with archive.open("rb") as file:
            archive = file.read(ARCHIVE_BYTES + 1)
    if len(archive) > ARCHIVE_BYTES:
        raise ArchiveRefused(f"{where}: expected at most {ARCHIVE_BYTES} bytes, got more")
    return _files(_decompress(archive, where), where)


def _decompress(packed: bytes, where: str) -> bytes:
    """The content of one or more .xz streams with padding between them (The .xz File Format, 2)."""
    out = io.BytesIO()
    try:
        while packed:
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
            out.write(unpacker.decompress(packed, UNPACKED_BYTES + 1 - out.tell()))
            if out.tell() > UNPACKED_BYTES:
                raise ArchiveRefused(f"{where}: expected at most {UNPACKED_BYTES} bytes once unpacked, got more")
            if not unpacker.eof:
                raise ArchiveRefused(f"{where}: expected a whole .xz file, got one that is cut off")
            packed = unpacker.unused_data.lstrip(b"\0")
    except lzma.LZMAError as error:
        raise ArchiveRefused(f"{where}: expected a .tar.xz archive, got something else ({error})") from None
    if not out.tell():
        raise ArchiveRefused(f"{where}: expected a .tar.xz archive, got an empty one")
    return out.getvalue()


def _files(tar_bytes: bytes, where: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    end = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(tar_bytes), mode="r:") as tar:
            for member in tar:
                end = tar.offset
                if member.isdir() and member.name in (".", "./"):
                    continue  # what `tar -C DIR .` begins with
                name = _plain_name(member, where)
                if name in files:
                    raise ArchiveRefused(f"{where}: expected each name once, got {name!r} twice")
                if len(files) >= FILES:
                    raise ArchiveRefused(f"{where}: expected at most {FILES} files, got more")
                content = tar.extractfile(member)
                data = content.read() if content else b""
                if len(data) != member.size:
                    raise ArchiveRefused(f"{where}: expected {member.size} bytes as {name!r}, got {len(data)}")
                files[name] = data
    except tarfile.TarError as error:
        raise ArchiveRefused(f"{where}: expected a tar archive inside, got something else ({error})") from None
    except (ValueError, OverflowError, EOFError) as error:  # what tarfile lets through of a mangled header
        raise ArchiveRefused(f"{where}: expected a tar archive inside, got a mangled one ({error})") from None
    if tar_bytes[end:].strip(b"\0"):  # tarfile takes a damaged header for the end
        raise ArchiveRefused(f"{where}: expected nothing but zeros after the last file, got a damaged header")
    if not files:
        raise ArchiveRefused(f"{where}: expected boot loader files, got none")
    return files


def _plain_name(member: tarfile.TarInfo, where: str) -> str:
    shown = ascii(member.name[:80])
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        kind = _KINDS.get(member.type, f"type {member.type!r}")
        kind = "a sparse file" if member.issparse() else kind
        raise ArchiveRefused(f"{where}: member {shown}: expected a regular file, got {kind}")
    name = member.name.removeprefix("./")
    if not _PLAIN.match(name):
        raise ArchiveRefused(f"{where}: member {shown}: expected a plain file name without folders, got another")
    return name
