"""HTTP and TFTP against the anchors: the same bytes, in the same run, in turns.

Server on CPU 0, load on CPU 1. A sample is (CPU seconds per GB or per request of the server's own control group, rate).
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import anchors
from bench.meter import Server
from bench.ratio import Comparison, compare
from bootplane.core import http_load, tftp_load
from bootplane.core.client import LoadResult
from bootplane.core.status import CoreError

SERVER_CPU, LOAD_CPU = 0, 1
READY_S = 30.0


@dataclass(frozen=True)
class Target:
    """A running server: where it answers and whose CPU time counts."""

    name: str
    server: Server
    http: int = 0
    tftp: int = 0
    forks: bool = False  # a process per transfer: its CPU time is known to a control group only


@dataclass(frozen=True)
class Case:
    """One line of the table. *load* drives one target once; *per* says what the CPU time is divided by."""

    name: str
    per: str  # "GB" or "request"
    load: Callable[[Target], LoadResult]
    against: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    cpu: float
    rate: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(ready: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + READY_S
    while not ready():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise anchors.Missing(f"{server.name}: it did not come up (exit status {server.process.poll()})")
        time.sleep(0.02)  # other people's programs tell nobody when they are ready


def _tftp_answers(port: int, name: str) -> bool:
    try:
        return tftp_load.fetch("127.0.0.1", port, name, timeout_s=1).size > 0
    except (OSError, CoreError):  # nobody listens yet, or says what it should
        return False


@contextmanager
def targets(root: Path, work: Path, python: str) -> Iterator[tuple[dict[str, Target], list[str]]]:
    """Starts bootplane and every anchor that can be had: name -> target, and a line for each that cannot."""
    missing: list[str] = []
    with ExitStack() as stack:
        found: dict[str, Target] = {}
        server = stack.enter_context(Server("bootplane", [python, "-m", "bench.serve", str(root)], cpu=SERVER_CPU))
        out = server.process.stdout
        if out is None or not select.select([out], [], [], READY_S)[0]:
            raise SystemExit("bench: bootplane did not come up")
        _, http, tftp = out.readline().split()
        found["bootplane"] = Target("bootplane", server, int(http), int(tftp))
        for name, start in (("nginx", _nginx), ("tftpd-hpa", _tftpd), ("dnsmasq", _dnsmasq)):
            try:
                found[name] = start(stack, root, work)
            except anchors.Missing as error:
                missing.append(str(error))
        yield found, missing


def _nginx(stack: ExitStack, root: Path, work: Path) -> Target:
    anchor = anchors.find("nginx")
    port = free_port()
    config = anchors.nginx_config(root, port, work)
    argv = [anchor.path, "-c", str(config), "-p", str(work), "-e", str(work / "error.log")]
    server = stack.enter_context(Server("nginx", argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _answers(port), server)
    return Target("nginx", server, http=port)


def _tftpd(stack: ExitStack, root: Path, work: Path) -> Target:
    if os.geteuid() != 0:
        raise anchors.Missing("tftpd-hpa: it changes its root directory, which needs root")
    anchor = anchors.find("in.tftpd")
    port = free_port()
    argv = [anchor.path, "-L", "-u", "root", "-a", f"127.0.0.1:{port}", "-s", str(root)]
    server = stack.enter_context(Server("tftpd-hpa", argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _tftp_answers(port, "probe"), server)
    return Target("tftpd-hpa", server, tftp=port, forks=True)


def _dnsmasq(stack: ExitStack, root: Path, work: Path) -> Target:
    if os.geteuid() != 0:
        raise anchors.Missing("dnsmasq: its TFTP port is 69, which needs root")
    anchor = anchors.find("dnsmasq")
    argv = [
        anchor.path, "--no-daemon", "--conf-file=/dev/null", "--port=0", "--enable-tftp", f"--tftp-root={root}",
        "--tftp-max=4096", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--no-resolv",
        "--no-hosts", f"--pid-file={work}/dnsmasq.pid", "--log-facility=/dev/null", "--quiet-tftp",
    ]  # fmt: skip
    server = stack.enter_context(Server("dnsmasq", argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _tftp_answers(69, "probe"), server)
    return Target("dnsmasq", server, tftp=69)


def sample(case: Case, target: Target) -> Sample:
    before = target.server.cpu_s()
    result = case.load(target)
    cpu = target.server.cpu_s() - before
    if result.errors:
        raise SystemExit(
            f"bench: {case.name} against {target.name}: {result.errors} errors, first: {result.first_error}"
        )
    amount = result.bytes / 1e9 if case.per == "GB" else result.requests
    return Sample(cpu / amount, amount / result.seconds)


def cases(large: str, requests: int, small: str, small_requests: int, kernel: str, transfers: int) -> list[Case]:
    """The smoke table: names of files under the root, and how often each is asked for in one sample."""

    def http(path: str, connections: int, count: int) -> Callable[[Target], LoadResult]:
        return lambda t: http_load.load("127.0.0.1", t.http, f"/{path}", connections=connections, requests=count)

    def tftp(windowsize: int, blksize: int) -> Callable[[Target], LoadResult]:
        return lambda t: tftp_load.load(
            "127.0.0.1", t.tftp, kernel, clients=64, transfers=transfers, blksize=blksize, windowsize=windowsize
        )

    return [
        Case("HTTP 404 MB x 64, warm", "GB", http(large, 64, requests), ("nginx",)),
        Case("HTTP 4 KiB x 64, keep-alive", "request", http(small, 64, small_requests), ("nginx",)),
        Case("TFTP 1428 w1 x 64", "GB", tftp(1, 1428), ("tftpd-hpa", "dnsmasq")),
        Case("TFTP 1428 w16 x 64", "GB", tftp(16, 1428), ("tftpd-hpa", "dnsmasq")),
    ]


def measure(
    case: Case, found: dict[str, Target], rounds: int, goals: Mapping[tuple[str, str], float]
) -> Iterator[Comparison]:
    """CPU and rate of bootplane over each anchor of the case that runs; rounds interleaved, one warm-up.

    *goals*: (``cpu`` or ``rate``, anchor) -> the ratio to reach.
    """
    ours = found["bootplane"]
    for name in case.against:
        if name not in found:
            continue
        pairs = []
        for turn in range(rounds + 1):
            order = (ours, found[name]) if turn % 2 else (found[name], ours)
            got = {target.name: sample(case, target) for target in order}
            if turn:  # the first is the warm-up
                pairs.append((got["bootplane"], got[name]))
        cpu, rate = [(a.cpu, b.cpu) for a, b in pairs], [(a.rate, b.rate) for a, b in pairs]
        if found[name].server.group.exact or not found[name].forks:
            yield compare(f"{case.name}: CPU/{case.per}", name, cpu, goal=goals.get(("cpu", name)))
        yield compare(f"{case.name}: rate", name, rate, goal=goals.get(("rate", name)), more_is_better=True)
