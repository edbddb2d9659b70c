"""The demo's processes: started in groups of their own, heard until they say ``ready``, ended however the demo ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class DemoFailed(Exception):
    """The demo cannot go on; the message is one sentence."""


class Child:
    """One process of the demo. ``stop`` ends its whole group; what it wrote to stderr stands in ``log``."""

    def __init__(self, name: str, argv: list[str], log: Path, stdin: int | None = subprocess.DEVNULL) -> None:
        self.name, self.log = name, log
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                argv, stdin=stdin, stdout=subprocess.PIPE, stderr=err, start_new_session=True
            )

    def ready(self, timeout_s: float) -> dict[str, str]:
        """Waits for the line ``ready key=value ...`` and returns its values; a bare value stands under ``""``."""
        deadline = time.monotonic() + timeout_s
        out: IO[bytes] = self.process.stdout  # type: ignore[assignment]
        seen = b""
        while b"\n" not in seen or not _ready_line(seen):
            left = deadline - time.monotonic()
            if left <= 0:
                raise DemoFailed(
                    f"{self.name}: expected a ready line within {timeout_s:.0f} s, got none; {self.tail()}"
                )
            if not select.select([out], [], [], left)[0]:
                continue
            block = os.read(out.fileno(), 4096)
            if not block:
                self.process.wait()
                raise DemoFailed(f"{self.name} ended with {self.process.returncode} before it was ready: {self.tail()}")
            seen += block
        words = _ready_line(seen).split()[1:]
        return dict(word.partition("=")[::2] if "=" in word else ("", word) for word in words)

    def tail(self) -> str:
        """The last line it wrote to stderr."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self, grace_s: float = 20.0) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(grace_s)
        if self.process.stdout is not None:
            self.process.stdout.close()


def _ready_line(seen: bytes) -> str:
    for line in seen.decode(errors="replace").splitlines():
        if line.startswith("ready "):
            return line
    return ""


@contextlib.contextmanager
def children() -> Iterator[list[Child]]:
    """A list of children that are stopped, last first, whatever happens inside."""
    started: list[Child] = []
    try:
        yield started
    finally:
        for child in reversed(started):
            child.stop()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]
