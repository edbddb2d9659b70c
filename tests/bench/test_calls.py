"""System calls are counted in the kernel: of one thread, for as long as the work takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from bench import calls

CALLS = 1000
SCRIPT = f"""
import os, sys
while sys.stdin.readline():
    for _ in range({CALLS}):
        os.getppid()
    print("done", flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        yield running
        running.stdin.close()  # type: ignore[union-attr]
        running.wait(30)


@pytest.mark.parametrize("counted_by", [calls._by_perf, calls._by_strace], ids=["perf", "strace"])
def test_each_call_of_the_thread_is_counted_once(
    child: subprocess.Popen[str], counted_by: Callable[[int, Callable[[], object]], int]
) -> None:
    if counted_by is calls._by_perf and not calls.can_perf():
        pytest.skip("perf cannot count system calls here")

    def work() -> None:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"

    work()  # it is past its start
    try:
        found = [counted_by(child.pid, work) for _ in range(2)]
    except (calls.CannotCount, FileNotFoundError, PermissionError) as error:
        pytest.skip(str(error))
    for number in found:  # and the few of reading a line and printing one
        assert CALLS <= number <= CALLS + 10
