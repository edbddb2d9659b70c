"""The files of a soak: bytes are a function of (seed, file, offset): nothing is stored, and any range can be checked.

A file is the AES-CTR key stream of its own key. A reader needs one pass: what it got, run through the same stream, must
be zeros. ``origin`` says of wrong bytes whose they are, which tells a stale descriptor from a rotten one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CHUNK = 1 << 20
PIECE = 256 * 1024
BLOCK = 16  # of AES
PAGE = 4096
ZEROS = bytes(PIECE)


class Stream:
    """The bytes of a file from *offset* on, in order."""

    def __init__(self, key: bytes, offset: int) -> None:
        counter, skip = divmod(offset, BLOCK)
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(BLOCK, "big"))).encryptor()
        self._encryptor.update(ZEROS[:skip])

    def take(self, n: int) -> bytes:
        """The next *n* bytes, at most PIECE."""
        return self._encryptor.update(ZEROS[:n])

    def wrong_at(self, data: bytes | bytearray | memoryview) -> int | None:
        """Where *data* first differs from the next bytes of the file; None when it is right."""
        rest = self._encryptor.update(data)
        if rest == ZEROS[: len(rest)] if len(rest) <= PIECE else not any(rest):
            return None
        return len(rest) - len(rest.lstrip(b"\0"))


@dataclass(frozen=True, slots=True)
class File:
    """One file of the catalogue, in one of its generations: each has bytes of its own."""

    name: str
    key: bytes
    size: int
    sha256: str
    chunks: bytes  # its chunk list

    @property
    def root(self) -> str:
        return hashlib.sha256(self.chunks).hexdigest()

    def stream(self, offset: int = 0) -> Stream:
        return Stream(self.key, offset)


def make(seed: int, number: int, generation: int, size: int) -> File:
    key = hashlib.sha256(f"{seed}/{number}/{generation}".encode()).digest()[:BLOCK]
    stream, whole, chunks = Stream(key, 0), hashlib.sha256(), []
    for at in range(0, size, CHUNK):
        chunk = hashlib.sha256()
        for start in range(at, min(at + CHUNK, size), PIECE):
            piece = stream.take(min(PIECE, min(at + CHUNK, size) - start))
            chunk.update(piece)
            whole.update(piece)
        chunks.append(chunk.digest())
    name = f"images/soak/{number:02d}-{size}"
    return File(name, key, size, whole.hexdigest(), b"".join(chunks))


def origin(got: bytes, files: Sequence[File]) -> str:
    """Whose bytes *got* are, as far as 64 of them tell."""
    sample = bytes(got[:64])
    if not any(sample):
        return "zeros"
    if len(sample) < BLOCK:
        return "something else"
    for file in files:
        stream = file.stream()
        for at in range(0, file.size, PIECE):
            found = stream.take(min(PIECE, file.size - at)).find(sample)
            if found >= 0:
                return f"bytes of {file.name} from {at + found}"
    return "bytes of no file"
