"""``make bench-smoke``: the main figures as ratios, in a few minutes.

Verifier and fills against hashlib and cache against OrderedDict run under pytest-benchmark; HTTP against nginx and TFTP
against tftpd-hpa and dnsmasq by bench/wire.py. A goal that is missed is shown; the exit status is 1 only when one is
missed by a factor of two, because these machines are shared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.content import folder
from bench.ratio import Comparison, table, write
from bench.wire import LOAD_CPU, Case, cases, measure, targets

FILES = {"squashfs": 404_000_000, "kernel": 11_000_000, "small": 4096, "probe": 1500}
ROUNDS = 3
SHORT_HERD = ("--size", "60000000", "--rounds", "2", "--mbit", "250")
#: (case, figure) -> goal for each anchor; design.md section 9
GOALS = {
    ("HTTP 404 MB x 64, warm", "cpu", "nginx"): 0.95,
    ("HTTP 404 MB x 64, warm", "rate", "nginx"): 1.0,
    ("HTTP 4 KiB x 64, keep-alive", "cpu", "nginx"): 0.55,
    ("HTTP 4 KiB x 64, keep-alive", "rate", "nginx"): 1.4,
    ("TFTP 1428 w1 x 64", "cpu", "tftpd-hpa"): 0.25,
    ("TFTP 1428 w1 x 64", "cpu", "dnsmasq"): 0.65,
    ("TFTP 1428 w16 x 64", "cpu", "tftpd-hpa"): 0.1,
    ("TFTP 1428 w16 x 64", "cpu", "dnsmasq"): 0.25,
    ("TFTP 1428 w16 x 64", "rate", "tftpd-hpa"): 5.0,
    ("TFTP 1428 w16 x 64", "rate", "dnsmasq"): 3.5,
}


def wire(rounds: int) -> tuple[list[Comparison], list[str]]:
    """(the comparisons, a line for each anchor that could not be had). Pins this process to the load's CPU."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("bench: expected 2 CPUs, one for the server and one for the load")
    found_lines: list[Comparison] = []
    before = os.sched_getaffinity(0)
    with (
        folder(FILES) as root,
        tempfile.TemporaryDirectory(prefix="bootplane-bench-") as work,
        targets(root, Path(work), sys.executable) as (found, missing),
    ):
        os.sched_setaffinity(0, {LOAD_CPU})
        try:
            for case in cases("squashfs", 64, "small", 60_000, "kernel", 64):
                for line in measure(case, found, rounds, goals(case)):
                    found_lines.append(line)
                    print(f"  {line}", flush=True)
        finally:
            os.sched_setaffinity(0, before)
        if not all(target.server.group.exact for target in found.values()):
            missing.append("CPU time of tftpd-hpa, which forks: no control group can be made here")
    return found_lines, missing


def goals(case: Case) -> dict[tuple[str, str], float]:
    """(figure, anchor) -> goal of one case."""
    return {(figure, anchor): goal for (name, figure, anchor), goal in GOALS.items() if name == case.name}


def main() -> int:
    print("verifier and fills against hashlib, cache against OrderedDict", flush=True)
    python = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--benchmark-disable-gc"]
    units = subprocess.run(
        [*python, "bench/test_digest.py", "bench/test_lru.py", "bench/test_fill.py"], check=False
    ).returncode
    print("a cold herd over a slow link, beside nginx and varnish: short, for the figures make bench-herd", flush=True)
    herd = subprocess.run([sys.executable, "-m", "bench.herd", *SHORT_HERD], check=False).returncode
    print("HTTP against nginx, TFTP against tftpd-hpa and dnsmasq", flush=True)
    lines, missing = wire(ROUNDS)
    print()
    print(table(lines))
    for reason in missing:
        print(f"left out: {reason}")
    print(f"written to {write('smoke', lines, notes=missing)}")
    far = [line for line in lines if not line.within(2.0)]
    for line in far:
        print(f"bench: missed by more than a factor of two: {line}", file=sys.stderr)
    return 1 if far or units or herd else 0


if __name__ == "__main__":
    sys.exit(main())
