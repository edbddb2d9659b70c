"""System calls of one thread while it works: counted in the kernel by perf, which slows nothing down, or by strace
where there is no perf. A server that is traced is slower and finds more datagrams waiting each time it looks: for TFTP
strace's figure is the smaller one, for HTTP both say the same.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.meter import Server
from bench.perf import WAIT_S, NoPerf, perf

PERF_EVENT = "raw_syscalls:sys_enter"


class CannotCount(Exception):
    """Neither perf nor strace can be used here; one sentence."""


def busiest_thread(server: Server, work: Callable[[], object]) -> int:
    """The thread of *server* that spends most CPU time while *work* runs: the one that serves."""
    before = _spent_ns(server)
    work()
    after = _spent_ns(server)
    return max(after, key=lambda thread: after[thread] - before.get(thread, 0))


def _spent_ns(server: Server) -> dict[int, int]:
    spent: dict[int, int] = {}
    for pid in server.group.members():
        with contextlib.suppress(OSError):  # it may have ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                spent[int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return spent


def count(thread: int, work: Callable[[], object], *, traced: bool = False) -> int:
    """System calls that *thread* makes while *work* runs; *traced*: by strace in any case. Raises CannotCount."""
    return _by_strace(thread, work) if traced or not can_perf() else _by_perf(thread, work)


def can_perf() -> bool:
    if not shutil.which("perf"):
        return False
    argv = ["perf", "stat", "-e", PERF_EVENT, "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode == 0 and "not " not in done.stderr  # "<not counted>", "<not supported>"


def _by_perf(thread: int, work: Callable[[], object]) -> int:
    try:
        with perf("stat", "-x", ",", "-e", PERF_EVENT, "-t", str(thread)) as counter:
            counter.tell("enable")
            work()
            counter.tell("disable")
            text = counter.end()
    except NoPerf as error:
        raise CannotCount(str(error)) from None
    for line in text.splitlines():
        number, _, rest = line.partition(",")
        if PERF_EVENT in rest and number.isdigit():
            return int(number)
    raise CannotCount(f"perf: expected a number of system calls, got {text.strip()!r}")


def _by_strace(thread: int, work: Callable[[], object]) -> int:
    if not shutil.which("strace"):
        raise CannotCount("system calls: expected perf or strace, found neither")
    argv = ["strace", "-c", "-p", str(thread)]
    strace = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert strace.stderr is not None
        first = strace.stderr.readline() if select.select([strace.stderr], [], [], WAIT_S)[0] else ""
        if "attached" not in first:
            raise CannotCount(f"strace: {first.strip() or 'it does not attach'}")
        work()
        strace.send_signal(signal.SIGINT)
        text = strace.communicate(timeout=WAIT_S)[1]
    finally:
        if strace.poll() is None:
            strace.kill()
            strace.communicate()
    rows = [line.split() for line in text.splitlines()]  # % time, seconds, usecs/call, calls, [errors,] syscall
    calls = [int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"]
    if not calls:
        raise CannotCount(f"strace: expected a table of system calls, got {text.strip()[-200:]!r}")
    return sum(calls)
