"""Files of the store laid out under other names, for servers and readers that are not ours.

Four ways, by the file system: a reflink (a copy that shares its blocks until one of them is written to), a hard link, a
symbolic link, a copy. A copy is hashed on the way and refused when it is not what its name says; the others are the
store's own bytes, which were verified before they got their name.

Invariant: a target appears under its name by one rename, whole; what is there already and right is left alone.
Left to others: which names (source_publish, export_tree), removing what is stale.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from bootplane.control.errors import BootplaneError

FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
COPY_BYTES = 1 << 20
MARGIN_BYTES = 16 << 20  # left free beside what is copied: documents, folders


class PlaceError(BootplaneError):
    """A folder for others cannot be filled, in one sentence."""

    status = 422
    title = "cannot lay files out"
    kind = "place"


class Vanished(PlaceError):
    """A file of the store went between the reading of the database and now: read again."""


class How(enum.StrEnum):
    REFLINK = "reflink"
    LINK = "link"
    SYMLINK = "symlink"
    COPY = "copy"


def best(source: Path, folder: Path) -> How:
    """The cheapest way to have *source* in *folder* as a file of its own: reflink, link or copy. *folder* exists."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        for how in (How.REFLINK, How.LINK):
            with contextlib.suppress(OSError):
                _make(source, probe, how, "", None)
                return how
            with contextlib.suppress(OSError):
                probe.unlink()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return How.COPY


def place(source: Path, target: Path, how: How, sha256: str, progress: Callable[[int], None] | None = None) -> None:
    """*source*, whose digest is *sha256*, under the name *target*. *progress* hears of copied bytes.

    Raises Vanished when the store has it no more and PlaceError in one sentence for everything else.
    """
    part = target.with_name(f".{target.name[:200]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        _make(source, part, how, sha256, progress)
        if how is How.LINK and _is_same(part, target):
            return  # a rename of one name of a file over another does nothing and would leave both
        part.replace(target)
    except FileNotFoundError:
        if not source.exists():
            raise Vanished(f"{source}: expected a file of the store, got none") from None
        raise
    except OSError as error:
        raise PlaceError(_sentence(source, target, how, error)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _make(source: Path, target: Path, how: How, sha256: str, progress: Callable[[int], None] | None) -> None:
    if how is How.LINK:
        os.link(source, target)
    elif how is How.SYMLINK:
        source.stat()  # a link to nothing would be found out by a machine
        target.symlink_to(source.resolve())
    else:
        with source.open("rb") as file, target.open("xb") as out:
            os.fchmod(out.fileno(), 0o644)  # other servers run as other users
            if how is How.REFLINK:
                fcntl.ioctl(out.fileno(), FICLONE, file.fileno())
                return
            hasher = hashlib.sha256()
            while block := file.read(COPY_BYTES):
                hasher.update(block)
                out.write(block)
                if progress is not None:
                    progress(len(block))
            if hasher.hexdigest() != sha256:
                raise PlaceError(f"{source}: expected the content {sha256}, got {hasher.hexdigest()}: it is damaged")


def _is_same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other) and not other.is_symlink()
    return False


def _sentence(source: Path, target: Path, how: How, error: OSError) -> str:
    if error.errno == errno.EXDEV:
        return f"{target}: expected the file system of {source.parent} for a hard link, got another: copy instead"
    return f"{source} as {target}: cannot be laid out by {how}: {error.strerror}"


def require_room(folder: Path, nbytes: int) -> None:
    """Raises PlaceError when *folder*'s file system has not *nbytes* and a margin free."""
    info = os.statvfs(folder)
    free = info.f_bavail * info.f_frsize
    if nbytes and nbytes + MARGIN_BYTES > free:
        raise PlaceError(f"{folder}: expected {nbytes + MARGIN_BYTES} bytes free for copies, got {free}")
