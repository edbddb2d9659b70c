"""What must be on stable storage before something else happens."""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Makes renames in *path*, and files made or removed there, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """*data* under *path*: all of it, or what was there before, whatever happens. Raises OSError."""
    aside = path.with_name(f".{path.name.lstrip('.')}.new")
    with aside.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    aside.rename(path)
    sync_directory(path.parent)
