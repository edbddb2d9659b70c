"""10,000 connections at once: idle ones, and slow readers of a file of 404 MB. What they cost a rack and nginx in
memory, and how a request for 4 KiB fares among them. bench/crowd.py is the crowd.

    user memory     growth of the server's anonymous memory, for each connection. (Of its proportional set, libraries
                    are a part that other processes change.) Before and after, the rack has told its region of every
                    transfer: that queue has its own bounds (dataplane/reports.py)
    kernel memory   what the kernel's TCP holds for the server's ends, received or not yet acknowledged (ss -m)
    p99             of 4 KiB requests on four more connections, while the crowd is there

Slow readers take 20 kB once in a second, as machines on bad links do. The kernel's limit for all TCP memory together
(net.ipv4.tcp_mem) is what bounds nginx here, with 1,000 of them already: the more readers, the less it has for each.
The ratio has its goal with 5,000, where it was set; with 10,000 it is shown.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.crowd import held
from bench.ratio import ROUNDS, Comparison, Goal, compare, figure
from bench.wire import LARGE, SMALL, Site, Target, site
from bootplane.core import http_load

MANY, FEW = 10_000, 5_000
RATE_BYTES_S = 20_000
SETTLE_S = 8.0  # until senders have filled what the kernel lets them
PROBES = 4000
CACHE_BYTES = 640 << 20
LEAST_BYTES = 1.0  # of growth: what did not grow is no ratio


@dataclass(frozen=True)
class Sample:
    """One crowd on one server. Bytes are for each connection."""

    there: int
    lost: int
    user: float
    kernel: float
    p99_s: list[float]


def raise_file_limit() -> None:
    """Servers inherit it: each is to have as many descriptors as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tcp_bytes(port: int) -> int:
    """What the kernel holds for the connections that are accepted on *port*: received, sent and reserved."""
    if not shutil.which("ss"):
        return 0
    argv = ["ss", "-tmnH", "state", "established", f"( sport = :{port} )"]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    total = 0
    for memory in re.findall(r"skmem:\(([^)]*)\)", text):
        fields = dict(re.fullmatch(r"([a-z_]+)(\d+)", word).groups() for word in memory.split(","))
        total += sum(int(fields[what]) for what in ("r", "w", "f"))
    return total


def _settle(on: Site, target: Target) -> None:
    if target.name == "bootplane":
        on.rack.wait_until_reported()


def _probe(target: Target, sha256: str, connections: int = 4, requests: int = PROBES) -> float:
    """p99 of requests for 4 KiB, all of them hashed."""
    got = http_load.load(
        "127.0.0.1", target.http, f"/{SMALL}", connections=connections, requests=requests, verify_every=1,
        sha256=sha256,
    )  # fmt: skip
    if got.errors:
        raise SystemExit(f"bench: {target.name}: {got.errors} of {requests} requests failed, first: {got.first_error}")
    return got.p99_s


def crowd(on: Site, target: Target, connections: int, *, slow: bool) -> Sample:
    """One crowd on *target*, which has not had one before: what it keeps for the next one would not be seen."""
    small = on.files[SMALL].sha256
    _probe(target, small, requests=connections)  # so many records it has had before
    _settle(on, target)
    before = target.server.anonymous_bytes()
    path = f"/{LARGE if slow else SMALL}"
    with held(target.http, path, connections, RATE_BYTES_S if slow else 0) as found:
        if found.there != connections:
            text = f"expected {connections} connections, got {found.there}: {found.first_error}"
            raise SystemExit(f"bench: {target.name}: {text}")
        if slow:
            time.sleep(SETTLE_S)
        _settle(on, target)
        user, kernel = target.server.anonymous_bytes() - before, tcp_bytes(target.http)
        p99_s = [_probe(target, small) for _ in range(ROUNDS)]
    return Sample(found.there, found.errors, user / connections, kernel / connections, p99_s)


def idle() -> Iterator[Comparison]:
    yield from _lines(MANY, slow=False)


def slow_readers() -> Iterator[Comparison]:
    yield from _lines(MANY, slow=True)
    yield from _lines(FEW, slow=True)


def _lines(connections: int, *, slow: bool) -> Iterator[Comparison]:
    """Of one crowd, which meets servers of its own."""
    raise_file_limit()
    what = f"HTTP {connections} {'slow readers' if slow else 'idle connections'}"
    with site(["nginx"], CACHE_BYTES) as on:
        found = {name: crowd(on, target, connections, slow=slow) for name, target in on.targets.items()}
    ours, nginx = found["bootplane"], found.get("nginx")
    if connections == MANY:
        yield figure(f"{what}: lost", [ours.lost], "connections", goal=0)
        yield figure(f"{what}: user memory", [ours.user], "B each", goal=Goal(400, 256))
        yield figure(f"{what}: p99 of 4 KiB among them", [each * 1000 for each in ours.p99_s], "ms", goal=5.0)
        if nginx is not None:
            pair = (max(ours.user, LEAST_BYTES), max(nginx.user, LEAST_BYTES))
            yield compare(f"{what}: user memory", "nginx", [pair], goal=0.1 if slow else None)
            yield compare(f"{what}: p99 of 4 KiB among them", "nginx", list(zip(ours.p99_s, nginx.p99_s, strict=True)))
    if slow and nginx is not None and ours.kernel and nginx.kernel:
        goal = 0.3 if connections == FEW else None
        yield compare(f"{what}: kernel TCP memory", "nginx", [(ours.kernel, nginx.kernel)], goal=goal)
