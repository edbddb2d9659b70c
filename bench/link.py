"""A link of a given rate between this machine and one more: a network namespace, a pair of virtual interfaces, a token
bucket. What is started "there" sends to us no faster than the rate, over however many connections. Root only.

Invariant: the namespace goes with the context, and those of killed runs go when the next one begins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PREFIX = "bootplane-bench-"
HERE, THERE = "198.18.91.1", "198.18.91.2"  # RFC 2544: for benchmarks
BURST_BYTES = 65536  # a millisecond or two; less would make the timer the limit
QUEUE_MS = 100  # longer than the burst; the sender's own limits keep its queue short


class NoLink(Exception):
    """There can be no link here; one sentence."""


class Link:
    """*run_there* stands before the command of whoever is to be at the far end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run_there = ["ip", "netns", "exec", name]

    def set_rate(self, bits_s: int) -> None:
        rate = ["tbf", "rate", str(bits_s), "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms"]
        _run("ip", "netns", "exec", self.name, "tc", "qdisc", "replace", "dev", "there", "root", *rate)


@contextlib.contextmanager
def link() -> Iterator[Link]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        raise NoLink("a link of a given rate: expected root, ip and tc")
    _remove_old()
    name, near = f"{PREFIX}{os.getpid()}", f"bb{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", "there", "netns", name)
        _run("ip", "address", "add", f"{HERE}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run("ip", "-n", name, "address", "add", f"{THERE}/30", "dev", "there")
        _run("ip", "-n", name, "link", "set", "there", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield Link(name)
    finally:
        _remove(name)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise NoLink(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")


def _remove(name: str) -> None:
    """The namespace, and with it the pair: whoever ran in it has been ended by then."""
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30, check=False)


def _remove_old() -> None:
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX)
        if not Path(f"/proc/{pid}").exists():
            _remove(path.name)
