"""Files for the benchmarks: random bytes, made once per run in large writes, and removed after it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

LIMIT_BYTES = 6 << 30
SPARE_BYTES = 2 << 30


@contextlib.contextmanager
def folder(sizes: Mapping[str, int], room: int = 0) -> Iterator[Path]:
    """A temporary folder that holds a file of random bytes for each of *sizes* (relative path -> bytes).
    *room*: bytes that whoever uses it will write besides."""
    wanted = sum(sizes.values()) + room
    if wanted > LIMIT_BYTES:
        raise SystemExit(f"bench: expected at most {LIMIT_BYTES} bytes of test data, got {wanted}")
    base = Path(tempfile.gettempdir())
    free = shutil.disk_usage(base).free
    if free < wanted + SPARE_BYTES:
        raise SystemExit(f"bench: {base}: expected {wanted + SPARE_BYTES} free bytes, got {free}")
    with tempfile.TemporaryDirectory(prefix="bootplane-bench-", dir=base) as name:
        root = Path(name)
        root.chmod(0o755)  # tftpd and nginx may serve as somebody else
        for file, size in sizes.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            with (root / file).open("wb", buffering=0) as out:
                left = size
                while left:
                    left -= out.write(os.urandom(min(left, 8 << 20)))
            (root / file).chmod(0o644)
        yield root
