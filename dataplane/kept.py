"""The catalogue a rack keeps on its own disk, so that it restarts and serves with its region gone.

    DIR/catalogue    "bpc1 <signature, hex>\\n" and the body as the region sent it

Invariants: what is read back is verified like what comes from the network; the file is replaced whole and durably, so a
crash leaves the old one or the new one. Its version is the floor below which no catalogue is accepted.
"""

from __future__ import annotations

import os
from pathlib import Path

from bootplane.dataplane.catalogue import Catalogue, CatalogueError, PinnedKey, open_signed
from bootplane.dataplane.durable import sync_directory

MAGIC = b"bpc1 "


def load(path: Path, key: PinnedKey) -> Catalogue | None:
    """The kept catalogue, or None when there is none yet. Raises CatalogueError for one that cannot be read or that
    the region has not signed."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CatalogueError(f"{path}: expected a file that can be read, got {error.strerror}") from error
    if not head.startswith(MAGIC):
        raise CatalogueError(f"{path}: expected a kept catalogue, got a file that begins with {head[:16]!r}")
    try:
        return open_signed(body, head.removeprefix(MAGIC).decode("ascii", "replace"), key)
    except CatalogueError as error:
        raise CatalogueError(f"{path}: {error}") from error


def save(path: Path, body: bytes, signature: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as out:
        out.write(MAGIC + signature.encode() + b"\n" + body)
        out.flush()
        os.fsync(out.fileno())
    aside.rename(path)
    sync_directory(path.parent)
