"""Where a server's CPU time goes while it is driven: the functions, its own and the kernel's, by perf's clock. For
figures that miss their goal: ``make bench BENCH_ARGS="--only '4 KiB x' --profile"``.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.meter import Server
from bench.perf import WAIT_S, NoPerf, perf

FREQUENCY = 1999  # samples a second: no divisor of the kernel's tick
TOP = 25


class NoProfile(Exception):
    """perf cannot be used here; one sentence."""


def profile(server: Server, work: Callable[[], object], top: int = TOP) -> list[str]:
    """The *top* functions of *server* during *work*, each with its share. Raises NoProfile."""
    pids = ",".join(str(pid) for pid in server.group.members())
    with tempfile.TemporaryDirectory(prefix="bootplane-bench-") as folder:
        data = Path(folder) / "perf.data"
        try:
            argv = ("record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", str(data), "-p", pids)
            with perf(*argv) as recorder:
                recorder.tell("enable")
                work()
                said = recorder.end()
        except NoPerf as error:
            raise NoProfile(str(error)) from None
        report = ["perf", "report", "-i", str(data), "--stdio", "-q", "--no-children", "--sort", "dso,symbol"]
        done = subprocess.run(report, capture_output=True, text=True, timeout=WAIT_S, check=False)
    lines = [" ".join(line.rstrip(" -").split()) for line in done.stdout.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise NoProfile(f"perf: {(done.stderr or said).strip() or 'no samples'}")
    return lines[:top]
