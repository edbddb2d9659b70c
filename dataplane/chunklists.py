"""Chunk lists on the rack's disk: fetched once for each blob, verified against the catalogue's root whenever read.

    DIR/chunks/<64 hex>    32 bytes for each MiB of the blob

Invariant: a list that is returned hashes to the root the signed catalogue gives; a rotten file is as good as none.

Left to others: the catalogue (catalogue), the network (region_client, given as a function).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container
from pathlib import Path

from bootplane.dataplane.catalogue import CHUNK_BYTES, BlobEntry, CatalogueError, check_chunks

log = logging.getLogger("bootplane.chunks")


class ChunkLists:
    """*fetch(sha256)* returns the bytes a region sends, or None when no region has that blob. One thread."""

    def __init__(self, directory: Path, fetch: Callable[[str], bytes | None]) -> None:
        self._directory = directory
        self._fetch = fetch
        directory.mkdir(parents=True, exist_ok=True)

    def kept(self, sha256: str, entry: BlobEntry) -> bytes | None:
        """The list, when it can be had without asking anybody."""
        if entry.size <= CHUNK_BYTES:  # one chunk: the file's own digest is its list
            own = bytes.fromhex(sha256) if entry.size else b""
            if hashlib.sha256(own).hexdigest() == entry.root:
                return own
        path = self._directory / sha256
        try:
            return check_chunks(sha256, entry, path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:  # of the disk: one list must not keep the rack from its catalogue
            log.warning("%s: cannot be read: %s; it is fetched again", path, error.strerror)
            return None
        except CatalogueError as error:
            log.warning("%s: %s; it is fetched again", path, error)
            return None

    def get(self, sha256: str, entry: BlobEntry) -> bytes | None:
        """The list, fetched when it is not here; None when no region has it.

        Raises CatalogueError when a region sent another one, RegionError when none could be asked.
        """
        kept = self.kept(sha256, entry)
        if kept is not None:
            return kept
        sent = self._fetch(sha256)
        if sent is None:
            return None
        check_chunks(sha256, entry, sent)
        self._keep(sha256, sent)
        return sent

    def _keep(self, sha256: str, chunks: bytes) -> None:
        """A full disk costs a question to the region after the next start, and stops nothing now."""
        aside = self._directory / f".{sha256}.new"
        try:
            aside.write_bytes(chunks)  # not fsynced: it is verified when it is read
            aside.rename(self._directory / sha256)
        except OSError as error:
            log.warning("%s: the chunk list could not be kept: %s", aside, error.strerror)

    def prune(self, wanted: Container[str]) -> None:
        """Removes the lists of blobs that are in no catalogue any more. What cannot be removed stays."""
        try:
            for path in self._directory.iterdir():
                if len(path.name) == 64 and path.name not in wanted:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: old chunk lists could not be removed: %s", self._directory, error.strerror)
