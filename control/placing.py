"""Files of the store laid out under other names, for servers and readers that are not ours.

Four ways, by the file system: a reflink (a copy that shares its blocks until one of them is written to), a hard link, a
symbolic link, a copy. Each is hashed before it gets its name, and refused when it is not what that says: a file of the
store was right when it came, and disks rot.

Invariants: a target appears under its name by one rename, whole and, where it is a copy, on stable storage; a folder
that others may write to leads us nowhere else (``inside``). Left to others: which names (source_publish, export_tree),
removing what is stale.
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
from bootplane.control.simplestreams.errors import HostilePath
from bootplane.control.simplestreams.paths import item_path

FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
FOR_ALL = 0o644  # other servers run as other users
COPY_BYTES = 1 << 20
MARGIN_BYTES = 16 << 20  # left free beside what is copied: documents, folders


class PlaceError(BootplaneError):
    """A folder for others cannot be filled, in one sentence."""

    status = 422
    title = "cannot lay files out"
    kind = "place"


class Vanished(PlaceError):
    """A file of the store went between the reading of the database and now: read again."""


class Damaged(PlaceError):
    """A file is not what its name says."""


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
                _try(source, probe, how)
                return how
            with contextlib.suppress(OSError):
                probe.unlink()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return How.COPY


def _try(source: Path, probe: Path, how: How) -> None:
    """Raises OSError where the file system cannot."""
    if how is How.LINK:
        os.link(source, probe)
        return
    with source.open("rb") as file, probe.open("xb") as out:
        fcntl.ioctl(out.fileno(), FICLONE, file.fileno())


def refuse_store(folder: Path, store: Path) -> None:
    """Raises PlaceError when *folder* is the store or in it: what does not belong there is put aside, and goes."""
    if folder.resolve().is_relative_to(store.resolve()):
        raise PlaceError(f"{folder}: expected a folder outside the store, got one in {store}")


def make_folders(folder: Path) -> None:
    """*folder* and what is missing above it, for other users' servers to read whatever our umask is. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # a file system without modes
            each.chmod(0o755)


def inside(folder: Path, path: str) -> Path:
    """*folder*/*path*, which is plain, and whose folders below *folder* are folders and no links: a disk that has been
    elsewhere, or a web server's user, must not have us write or remove outside. Raises PlaceError."""
    try:
        target = folder / item_path(path, str(folder))
    except HostilePath as error:
        raise PlaceError(str(error)) from None
    for parent in target.parents:
        if parent == folder:
            break
        if parent.is_symlink():
            raise PlaceError(f"{parent}: expected a folder, got a link to {parent.readlink()}")
    return target


def place(
    source: Path, target: Path, how: How, sha256: str, progress: Callable[[int], None] = lambda _bytes: None
) -> None:
    """*source*, whose digest must be *sha256*, under the name *target*. *progress* hears of bytes that were hashed.

    Raises Vanished when the store has it no more, Damaged when its bytes are others, and PlaceError for everything
    else, in one sentence.
    """
    part = target.with_name(f".{target.name[:200]}.part")
    try:
        make_folders(target.parent)
        part.unlink(missing_ok=True)
        got = _make(source, part, how, progress)
        if got != sha256:
            raise Damaged(f"{source}: expected the content {sha256}, got {got}: it is damaged")
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


def name_again(first: Path, target: Path) -> None:
    """*first*, which was placed a moment ago, under a further name of the same file system. Raises PlaceError."""
    try:
        make_folders(target.parent)
        if first.is_symlink():
            target.symlink_to(first.readlink())
        else:
            os.link(first, target)
    except OSError as error:
        raise PlaceError(_sentence(first, target, How.LINK, error)) from None


def is_right(path: Path, sha256: str) -> bool:
    """Whether *path* is a file with that digest. Reads all of it."""
    try:
        return not path.is_symlink() and _digest(path, lambda _bytes: None) == sha256
    except OSError:
        return False


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A small file by one rename, on stable storage before. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with part.open("xb") as file:  # x: never through a link that somebody has put there
        with contextlib.suppress(PermissionError):
            os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _make(source: Path, target: Path, how: How, progress: Callable[[int], None]) -> str:
    """Make *target*; the digest of what it has."""
    if how is How.LINK:
        os.link(source, target)
        return _digest(target, progress)
    if how is How.SYMLINK:
        found = _digest(source, progress)
        target.symlink_to(source.resolve())
        return found
    hasher = hashlib.sha256()
    with source.open("rb") as file, target.open("x+b") as out:
        with contextlib.suppress(PermissionError):  # a file system without modes
            os.fchmod(out.fileno(), FOR_ALL)
        if how is How.REFLINK:
            fcntl.ioctl(out.fileno(), FICLONE, file.fileno())
            while block := out.read(COPY_BYTES):
                hasher.update(block)
                progress(len(block))
        else:
            while block := file.read(COPY_BYTES):
                hasher.update(block)
                out.write(block)
                progress(len(block))
        out.flush()
        os.fsync(out.fileno())
    return hasher.hexdigest()


def _digest(path: Path, progress: Callable[[int], None]) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(COPY_BYTES):
            hasher.update(block)
            progress(len(block))
    return hasher.hexdigest()


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
