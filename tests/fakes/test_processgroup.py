"""A command's children end with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes import processgroup
from tests.fakes.filling import eventually


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_child_that_is_left_behind_is_not_waited_for_and_goes() -> None:
    done = processgroup.run(["sh", "-c", "sleep 1000 & echo $!; echo words >&2; exit 3"])
    assert (done.returncode, done.stderr) == (3, "words\n")
    eventually(lambda: not is_running(int(done.stdout)))


def test_a_command_that_takes_too_long_goes_with_its_children() -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        processgroup.run(["sh", "-c", "sleep 1000 & echo $! $$; wait"], timeout_s=1)
    output: str = caught.value.output
    pids = [int(word) for word in output.split()]
    assert len(pids) == 2 and os.getpid() not in pids
    eventually(lambda: not any(map(is_running, pids)))
