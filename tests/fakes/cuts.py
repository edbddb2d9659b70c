"""A process that is killed at a moment of choice: just before it changes a name on the disk, and nothing after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EVERY = int(os.environ.get("BOOTPLANE_CUTS_EVERY", "9"))  # of the moments at which tests kill; 1: each
CALLS: tuple[tuple[Any, str], ...] = (
    (Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "rmdir"), (shutil, "rmtree"),
)  # fmt: skip


class Cut(BaseException):
    """As SIGKILL: no handler of the code takes it for an error, and what it would clear away stays."""


@contextmanager
def cut_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The *number*-th change of a name in the block, and each after it, raises Cut instead."""
    done = 0

    def cutting(call: Any) -> Any:
        def counted(*words: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done >= number:
                raise Cut
            return call(*words, **options)

        return counted

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, cutting(getattr(owner, name)))
        yield
