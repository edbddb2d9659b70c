"""A command whose children end with it: a runner of tests, a soak, a build.

It leads a session of its own, and what is left of that is killed when the command has ended, was waited for long enough
or is no longer wanted. What it writes goes to files: a child left behind would hold a pipe open for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO


def run(
    command: Sequence[str],
    *,
    timeout_s: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    preexec_fn: Callable[[], None] | None = None,
    is_shown: bool = False,
) -> subprocess.CompletedProcess[str]:
    """What *command* printed and its status; *is_shown*: its output goes where ours does instead. Raises
    TimeoutExpired, which holds what was printed until then."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, preexec_fn=preexec_fn, start_new_session=True,
            stdout=None if is_shown else out, stderr=errors,
        )  # fmt: skip
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as late:
            late.output, late.stderr = _text(out), _text(errors)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return subprocess.CompletedProcess(command, process.returncode, _text(out), _text(errors))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
