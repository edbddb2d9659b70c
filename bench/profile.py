"""Where a server's CPU time goes while it is driven: the functions, its own and the kernel's, by perf's clock. For
figures that miss their goal: ``make bench BENCH_ARGS="--only '4 KiB x' --profile"``.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.meter import Server

WAIT_S = 30.0
FREQUENCY = 1999  # samples a second: no divisor of the kernel's tick
TOP = 25


class NoProfile(Exception):
    """perf cannot be used here; one sentence."""


def profile(server: Server, work: Callable[[], object], top: int = TOP) -> list[str]:
    """The *top* functions of *server* during *work*, each with its share. Raises NoProfile."""
    pids = ",".join(str(pid) for pid in server.group.members())
    with tempfile.TemporaryDirectory(prefix="bootplane-bench-") as folder:
        data = Path(folder) / "perf.data"
        command, ours = os.pipe()
        answer, theirs = os.pipe()
        argv = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", str(data), "-p", pids]
        argv += ["--delay=-1", "--control", f"fd:{command},{theirs}"]
        try:
            perf = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, pass_fds=(command, theirs))
        except FileNotFoundError as error:
            raise NoProfile("perf: not on PATH") from error
        try:
            os.write(ours, b"enable\n")
            if not select.select([answer], [], [], WAIT_S)[0]:
                raise NoProfile("perf: it does not begin")
            work()
            perf.send_signal(signal.SIGINT)
            said = perf.communicate(timeout=WAIT_S)[1]
        finally:
            if perf.poll() is None:
                perf.kill()
                perf.communicate()
            for fd in (command, ours, answer, theirs):
                os.close(fd)
        report = ["perf", "report", "-i", str(data), "--stdio", "-q", "--no-children", "--sort", "dso,symbol"]
        done = subprocess.run(report, capture_output=True, text=True, timeout=WAIT_S, check=False)
    lines = [" ".join(line.rstrip(" -").split()) for line in done.stdout.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise NoProfile(f"perf: {(done.stderr or said).strip() or 'no samples'}")
    return lines[:top]
