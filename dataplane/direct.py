"""Opening a file so that reading it goes around the page cache: it is the disk that is looked at, and nobody's pages
are pushed out. Buffers must be aligned to blocks (an anonymous mmap is), and so must offsets."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def open_direct(path: Path) -> int:
    """A descriptor for reading; an ordinary one where the file system has no O_DIRECT. Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags)
