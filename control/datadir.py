"""The data directory of a region: made, locked, and the small files in it written so that a crash leaves no half.

    region.lock up.lock     held (flock) by the one process that owns the directory; the pid stands in it
    region.sqlite           the database          sync.sqlite   the sync engine's own
    region-key admin-token  secrets, 0600         rack-token    of the rack that `up` runs
    image-storage/          the store             rack/         that rack's data
    run.json                where it listens, while it runs

Invariant: a secret file has mode 0600 from the moment it has a name. Messages name the file and never its content.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bootplane.control.errors import StartError

SYNC_DATABASE = "sync.sqlite"
REGION_KEY, ADMIN_TOKEN, RACK_TOKEN = "region-key", "admin-token", "rack-token"
RUN_JSON = "run.json"
RESTORING = ".restoring"  # there while a restore puts things in place: control.backup
PROBE_BYTES = 96 << 10  # SQLite maps 32 KiB beside each database: without room for them the process dies by SIGBUS
NEW_BYTES = 16 << 20  # databases and their journals, before any image


class Lock:
    """The right to be the one process of its kind on a data directory. Ends with the process, however that ends."""

    def __init__(self, path: Path, what: str) -> None:
        """Raises StartError that names the pid of the holder."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StartError(f"{path}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(self._fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StartError(
                f"{path.parent}: expected to be the only {what} here, got one already: pid {pid}"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def prepare(directory: Path, *, is_restore: bool = False) -> None:
    """Make *directory* (0700 when it is new) and see that it can be written. Raises StartError.

    A new one must have room for its databases; one in use is started however full it is, to serve what it holds. One
    in which a restore was killed is for another restore only.
    """
    if not is_restore and (directory / RESTORING).exists():
        raise StartError(
            f"data directory {directory}: expected a whole region, got one whose restore has not ended: run `bootplane "
            "restore` again"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = directory / f".probe-{os.getpid()}"
        with probe.open("wb") as file:
            file.write(b"x" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
        free = shutil.disk_usage(directory).free
        if free < NEW_BYTES and not (directory / SYNC_DATABASE).exists():
            raise StartError(f"data directory {directory}: expected {NEW_BYTES} free bytes for a new one, got {free}")
    except OSError as error:
        with contextlib.suppress(OSError):
            (directory / f".probe-{os.getpid()}").unlink()
        raise StartError(
            f"data directory {directory}: expected one that can be written, got: {error.strerror}"
        ) from None


def secret(path: Path, make: Callable[[], str]) -> str:
    """The one line in the secret file *path*, made and written when it is not there. Raises StartError."""
    try:
        text = path.read_text(encoding="ascii").strip()
        if text:
            return text
        raise StartError(f"{path}: expected one line, got an empty file; remove it to have a new one made")
    except FileNotFoundError:
        text = make()
        write_secret(path, text)
        return text
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not plain text"
        raise StartError(f"{path}: expected a readable secret, got: {reason}") from None


def write_secret(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError as error:
        raise StartError(f"{path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def private_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder for its owner alone, below *parent*, gone at the end. Those whose process was killed go now: there are
    keys in them. Raises OSError."""
    for left in parent.glob(f"{prefix}*"):
        _clear(left)
    folder, lock = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new one and the descriptor that holds its lock. Another process may take it for a dead one's before it has."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _clear(left: Path) -> None:
    """Remove a folder of ours that nobody has locked."""
    with contextlib.suppress(OSError):
        descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(descriptor)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        aside.rename(path)
    except OSError as error:
        raise StartError(f"{path}: cannot be written: {error.strerror}") from None
