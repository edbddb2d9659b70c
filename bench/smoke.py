"""``make bench-smoke``: the main figures as ratios, in a few minutes.

Verifier and fills against hashlib and cache against OrderedDict run under pytest-benchmark; HTTP against nginx and TFTP
against tftpd-hpa, dnsmasq and atftpd by bench/wire.py: a rack as it is shipped, with a full if small cache. A goal that
is missed is shown; the exit status is 1 only when one is missed by a factor of two, because these machines are shared.
"""

from __future__ import annotations

import subprocess
import sys

from bench import history
from bench.cases import SMOKE
from bench.racks import cpus
from bench.ratio import Comparison, table, write
from bench.wire import measure, site

ROUNDS = 3
CACHE_BYTES = 640 << 20
SHORT_HERD = ("--size", "60000000", "--rounds", "2", "--mbit", "250")


def wire(rounds: int) -> tuple[list[Comparison], list[str]]:
    """(the comparisons, a line for each anchor that could not be had)."""
    cpus()
    lines: list[Comparison] = []
    anchors = dict.fromkeys(anchor for case in SMOKE for anchor in case.anchors)
    with site(list(anchors), CACHE_BYTES) as on:
        for case in SMOKE:
            for line in measure(case, on, rounds):
                lines.append(line)
                print(f"  {line}", flush=True)
        return lines, list(on.missing)


def main() -> int:
    print("verifier and fills against hashlib, cache against OrderedDict", flush=True)
    python = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--benchmark-disable-gc"]
    units = subprocess.run(
        [*python, "bench/test_digest.py", "bench/test_lru.py", "bench/test_fill.py"], check=False
    ).returncode
    print("a cold herd over a slow link, beside nginx and varnish: short, for the figures make bench-herd", flush=True)
    herd = subprocess.run([sys.executable, "-m", "bench.herd", *SHORT_HERD], check=False).returncode
    print("HTTP against nginx, TFTP against tftpd-hpa, dnsmasq and atftpd", flush=True)
    lines, missing = wire(ROUNDS)
    print()
    print(table(lines))
    for reason in missing:
        print(f"left out: {reason}")
    _, text = history.told(history.last("smoke", "bench"), lines)
    print("\n".join(text))  # told, and no more: three pairs on a shared machine are few
    print(f"written to {write('smoke', lines, notes=missing)}")
    far = [line for line in lines if not line.within(2.0)]
    for line in far:
        print(f"bench: missed by more than a factor of two: {line}", file=sys.stderr)
    return 1 if far or units or herd else 0


if __name__ == "__main__":
    sys.exit(main())
