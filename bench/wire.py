"""HTTP and TFTP against the anchors: the same bytes, in the same run, in turns.

Server on CPU 0, load on CPU 1. A sample is (CPU seconds per GB or per request of the server's own control group, rate).
Ours is a rack as it is shipped, its cache full (bench/racks.py); 1 transfer in 50 is hashed, theirs alike.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import anchors, content
from bench.meter import LOAD_CPU, SERVER_CPU, Server
from bench.racks import File, Rack, digest_of, fillers, full_rack, source
from bench.ratio import Comparison, Goal, compare
from bootplane.core import http_load, tftp_load
from bootplane.core.client import LoadResult
from bootplane.core.status import CoreError

READY_S = 30.0
VERIFY_EVERY = 50
FOLDER = "images/bench"
_NAMES = ("squashfs", "kernel", "loader", "small", "probe")
LARGE, KERNEL, LOADER, SMALL, PROBE = (f"{FOLDER}/{name}" for name in _NAMES)
SIZES = {LARGE: 404_000_000, KERNEL: 11_000_000, LOADER: 1_000_000, SMALL: 4096, PROBE: 1500}
MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """A running server: where it answers and whose CPU time counts."""

    name: str
    server: Server
    http: int = 0
    tftp: int = 0
    forks: bool = False  # a process per transfer: its CPU time is known to a control group only


@dataclass(frozen=True)
class Site:
    """What is measured on: the files, every server that runs, and a line for each that could not be had."""

    files: Mapping[str, File]
    rack: Rack
    targets: Mapping[str, Target]
    missing: list[str]


Load = Callable[[Target, File], LoadResult]


@dataclass(frozen=True)
class Case:
    """One line of the table. *load* has one target serve *file* once; *per* says what its CPU time is divided by.

    *against*: (anchor, ``cpu`` or ``rate``) -> what the ratio is to reach; None: it is shown.
    """

    name: str
    per: str  # "GB" or "request"
    file: str
    load: Load
    against: Mapping[tuple[str, str], Goal | None] = field(default_factory=dict)

    @property
    def anchors(self) -> list[str]:
        return list(dict.fromkeys(anchor for anchor, _ in self.against))


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


def _tftp_answers(port: int) -> bool:
    try:
        return tftp_load.fetch("127.0.0.1", port, PROBE, timeout_s=1).size > 0
    except (OSError, CoreError):  # nobody listens yet, or says what it should
        return False


@contextmanager
def site(names: Sequence[str], cache_bytes: int) -> Iterator[Site]:
    """Files, a rack whose cache of *cache_bytes* is full, and those anchors of *names* that can be had. This process
    and what it starts without a CPU of its own run on the load's CPU meanwhile."""
    before = os.sched_getaffinity(0)
    with (
        content.folder(SIZES, room=cache_bytes + SIZES[LARGE]) as root,
        tempfile.TemporaryDirectory(prefix="bootplane-bench-") as name,
        ExitStack() as stack,
    ):
        work = Path(name)
        work.chmod(0o755)
        stack.callback(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {LOAD_CPU})  # before the region's threads: they are to inherit it
        files = {name: digest_of(root, name) for name in SIZES}
        hole = fillers(root / "holes", cache_bytes - sum(file.charge for file in files.values()))
        _, origin = stack.enter_context(source(root, cpu=LOAD_CPU))
        rack = stack.enter_context(full_rack([*hole, *files.values()], origin, work))
        found = {"bootplane": Target("bootplane", rack.server, rack.http, rack.tftp)}
        missing: list[str] = []
        for name in names:
            place = work / name.replace(" ", "-")
            place.mkdir(mode=0o755)
            try:
                found[name] = STARTS[name](stack, root, place, origin)
            except anchors.Missing as error:
                missing.append(str(error))
        if not all(target.server.group.exact for target in found.values()):
            missing.append("CPU time of tftpd-hpa, which forks: no control group can be made here")
        yield Site(files, rack, found, missing)


def _nginx(stack: ExitStack, root: Path, work: Path, origin: int) -> Target:
    port = free_port()
    return _start_nginx("nginx", stack, work, port, anchors.nginx_config(root, port, work))


def _nginx_cache(stack: ExitStack, root: Path, work: Path, origin: int) -> Target:
    """nginx that has filled its own cache, by one request for each file."""
    port = free_port()
    config = anchors.nginx_cache_config(f"127.0.0.1:{origin}", port, work, slice_size="")
    target = _start_nginx(NGINX_CACHE, stack, work, port, config)
    for name in SIZES:
        got = http_load.load("127.0.0.1", port, f"/{name}", connections=1)
        if got.errors or got.bytes != SIZES[name]:
            raise anchors.Missing(f"{NGINX_CACHE}: filling: {name}: {got.first_error or got.bytes}")
    return target


def _start_nginx(name: str, stack: ExitStack, work: Path, port: int, config: Path) -> Target:
    anchor = anchors.find("nginx")
    argv = [anchor.path, "-c", str(config), "-p", str(work), "-e", str(work / "error.log")]
    server = stack.enter_context(Server(work.name, argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _answers(port), server)
    return Target(name, server, http=port)


def _tftpd(stack: ExitStack, root: Path, work: Path, origin: int) -> Target:
    if os.geteuid() != 0:
        raise anchors.Missing("tftpd-hpa: it changes its root directory, which needs root")
    anchor = anchors.find("in.tftpd")
    port = free_port()
    argv = [anchor.path, "-L", "-u", "root", "-a", f"127.0.0.1:{port}", "-s", str(root)]
    server = stack.enter_context(Server("tftpd-hpa", argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _tftp_answers(port), server)
    return Target("tftpd-hpa", server, tftp=port, forks=True)


def _dnsmasq(stack: ExitStack, root: Path, work: Path, origin: int) -> Target:
    if os.geteuid() != 0:
        raise anchors.Missing("dnsmasq: its TFTP port is 69, which needs root")
    anchor = anchors.find("dnsmasq")
    argv = [
        anchor.path, "--no-daemon", "--conf-file=/dev/null", "--port=0", "--enable-tftp", f"--tftp-root={root}",
        "--tftp-max=4096", "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--no-resolv",
        "--no-hosts", f"--pid-file={work}/dnsmasq.pid", "--log-facility=/dev/null", "--quiet-tftp",
    ]  # fmt: skip
    server = stack.enter_context(Server("dnsmasq", argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _tftp_answers(69), server)
    return Target("dnsmasq", server, tftp=69)


def _atftpd(stack: ExitStack, root: Path, work: Path, origin: int) -> Target:
    anchor = anchors.find("atftpd")
    port = free_port()
    user = ["--user", "root", "--group", "root"] if os.geteuid() == 0 else []
    argv = [
        anchor.path, "--daemon", "--no-fork", "--port", str(port), "--bind-address", "127.0.0.1", "--maxthread", "1000",
        "--verbose=0", "--logfile", str(work / "log"), *user, str(root),
    ]  # fmt: skip
    server = stack.enter_context(Server("atftpd", argv, cpu=SERVER_CPU, env=anchor.env))
    _until(lambda: _tftp_answers(port), server)
    return Target("atftpd", server, tftp=port)


NGINX_CACHE = "nginx's own cache"
STARTS = {
    "nginx": _nginx,
    NGINX_CACHE: _nginx_cache,
    "tftpd-hpa": _tftpd,
    "dnsmasq": _dnsmasq,
    "atftpd": _atftpd,
}


def http(connections: int, requests: int) -> Load:
    """Whole files over keep-alive connections."""
    return lambda target, file: http_load.load(
        "127.0.0.1", target.http, f"/{file.name}", connections=connections, requests=requests,
        verify_every=VERIFY_EVERY, sha256=file.sha256,
    )  # fmt: skip


def ranges(connections: int, requests: int) -> Load:
    """One MiB after another of a file, all connections together."""
    return lambda target, file: http_load.load(
        "127.0.0.1", target.http, f"/{file.name}", connections=connections, requests=requests, range_bytes=MIB,
        range_span=file.size, verify_every=VERIFY_EVERY, sha256=file.chunks.hex(),
    )  # fmt: skip


def tftp(
    blksize: int, windowsize: int, clients: int, transfers: int, verify_every: int = VERIFY_EVERY, **network: float
) -> Load:
    """*network*: parts of all datagrams that tftp_load is to ``lose``, ``repeat`` and ``swap``."""
    return lambda target, file: tftp_load.load(
        "127.0.0.1", target.tftp, file.name, clients=clients, transfers=transfers, blksize=blksize,
        windowsize=windowsize, verify_every=verify_every, sha256=file.sha256, **network,
    )  # fmt: skip


def driven(case_name: str, load: Load, target: Target, file: File) -> LoadResult:
    """What one drive has brought. Raises SystemExit for an error of the server."""
    result = load(target, file)
    if result.errors:
        text = f"{result.errors} errors, first: {result.first_error}"
        raise SystemExit(f"bench: {case_name} against {target.name}: {text}")
    return result


def sample(case: Case, target: Target, file: File) -> Sample:
    before = target.server.cpu_s()
    result = driven(case.name, case.load, target, file)
    cpu = target.server.cpu_s() - before
    amount = result.bytes / 1e9 if case.per == "GB" else result.requests
    return Sample(cpu / amount, amount / result.seconds)


def measure(case: Case, on: Site, rounds: int) -> Iterator[Comparison]:
    """CPU and rate of bootplane over each anchor of the case that runs; rounds interleaved, one warm-up."""
    ours, file = on.targets["bootplane"], on.files[case.file]
    for name in case.anchors:
        if name not in on.targets:
            continue
        theirs = on.targets[name]
        pairs = []
        for turn in range(rounds + 1):
            order = (ours, theirs) if turn % 2 else (theirs, ours)
            got = {target.name: sample(case, target, file) for target in order}
            if turn:  # the first is the warm-up
                pairs.append((got["bootplane"], got[name]))
        cpu, rate = [(a.cpu, b.cpu) for a, b in pairs], [(a.rate, b.rate) for a, b in pairs]
        if theirs.server.group.exact or not theirs.forks:
            yield compare(f"{case.name}: CPU/{case.per}", name, cpu, goal=case.against.get((name, "cpu")))
        yield compare(f"{case.name}: rate", name, rate, goal=case.against.get((name, "rate")), more_is_better=True)
