"""What the cache's tests share: a blob of any bytes, its chunks filled one by one, and where they lie on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import random

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache

MIB = 1 << 20
SEGMENT = 4 * MIB
ABSENT, FILLING, PRESENT, UNCHECKED, CLOSED = range(5)  # chunk_state_t
DATA = random.Random(9).randbytes(SEGMENT + MIB + 77)  # segment 0: chunks 0 to 3; segment 1: chunk 4, and 77 bytes in 5
SHA256 = hashlib.sha256(DATA).hexdigest()
TEXTS = [b"text %d" % i for i in range(100)]  # of one block each


def chunk_list(data: bytes) -> bytes:
    return b"".join(hashlib.sha256(data[i : i + MIB]).digest() for i in range(0, len(data), MIB))


def known(cache: Cache, data: bytes = DATA) -> Blob:
    """The blob of *data* as the cache knows it, with nothing fetched for it."""
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunk_list(data))


def fill(cache: Cache, blob: Blob, data: bytes, *chunks: int) -> None:
    """Begins and stores *chunks*, or every one."""
    for chunk in chunks or range((len(data) + MIB - 1) // MIB):
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])


def filled(cache: Cache, data: bytes = DATA, *chunks: int) -> Blob:
    blob = known(cache, data)
    fill(cache, blob, data, *chunks)
    return blob


def on_disk(directory: pathlib.Path) -> int:
    """Bytes that the files of segments take."""
    return sum(p.stat().st_blocks * 512 for p in directory.rglob("*") if p.is_file() and p.parent != directory)


def state(blob: Blob, chunk: int = 0) -> int:
    return blob.states(chunk, 1)[0]


def path_of(cache: Cache, blob: Blob, index: int = 0) -> pathlib.Path:
    return pathlib.Path(cache.directory, f"{blob.sha256}.d", str(index))


def files(cache: Cache) -> list[str]:
    """What is in its directory, without its lock and its state."""
    root = pathlib.Path(cache.directory)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name not in ("lock", "state"))


def flip(path: pathlib.Path, at: int) -> None:
    """Makes the byte at *at* another one."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def files_open(cache: Cache) -> int:
    """Descriptors of this process on segments, whether they still have a name or not."""
    found = 0
    for fd in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(fd.readlink())
            found += target.startswith(f"{cache.directory}/") and ".d/" in target
    return found


def close_files_of(cache: Cache, *texts: bytes) -> None:
    """Opens other files until none but theirs is open."""
    for text in texts or [b"push %d" % i for i in range(20)]:
        filled(cache, text)
