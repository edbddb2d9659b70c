"""``make bench-herd``: 64 HTTP clients on one file that nobody here has, over one slow link. bootplane's rack, nginx
(proxy_cache_lock) and varnish do it in turns, each from an empty cache, and so does one lone client over the bare link.

    64 clients, CPU 1 ──loopback──▶ rack | nginx | varnish, CPU 0 ──link of 250 Mbit/s──▶ origin, CPU 1

The origin is one of our reactors, the same for all; it counts the body bytes it sends. The link is a network namespace
(bench/link.py), so the rate is that of all connections together. The rack hears of the file by a signed catalogue and
verifies each chunk; the peers verify nothing. One client in 64 hashes what it gets.

    upstream      body bytes the origin sent / size of the file
    last          time of the last client / time of one client over the bare link, in the same round
    first byte    of the clients' bodies: median, and the last of them
    anonymous     growth of the server's anonymous memory: at its most, and at the end

nginx: one worker, slices of 4 MiB: without the slice module nobody but the first would get a byte before the whole file
has come; with slices of 1 MiB its first byte is no earlier (a waiting request looks twice a second) and its last later,
with 16 MiB its first byte is later. varnish: malloc storage with room for it, streaming, as it is shipped.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import anchors, racks
from bench.content import folder
from bench.link import HERE, THERE, Link, NoLink, link
from bench.meter import LOAD_CPU, SERVER_CPU, Server
from bench.ratio import Comparison, compare, figure, table, write
from bench.wire import free_port
from bootplane.core import http_fetch, http_load
from bootplane.core.client import LoadResult
from tests.fakes.region import FakeRegion

SIZE = 404_000_000
CLIENTS = 64
HASHING = 64  # each so manyth client: a hash costs the load more than ten bodies that it only counts
ROUNDS = 5
RATES_MBIT = (250, 1000)
READY_S = 60.0
SAMPLE_S = 0.05
MIB = 1 << 20
NAME = "images/bench/squashfs"
RUNNERS = ("bootplane", "nginx", "varnish")
#: figure -> goal; design.md, section 9
LAST_GOAL, FIRST_BYTE_GOAL_S, MEMORY_GOAL, VARNISH_GOAL = 1.2, 0.060, 16 * MIB, 0.9


@dataclass(frozen=True)
class Origin:
    """The far end: where it answers, and what it has sent."""

    server: Server
    port: int
    sha256: str
    size: int

    def body_bytes(self) -> int:
        os.kill(self._pid(), signal.SIGUSR1)
        out = self.server.process.stdout
        if out is None or not select.select([out], [], [], READY_S)[0]:
            raise SystemExit("bench: the origin does not answer")
        return int(json.loads(out.readline())["http_body_bytes"])

    def _pid(self) -> int:
        return self.server.process.pid  # `ip netns exec` becomes what it starts


@dataclass(frozen=True)
class Sample:
    """One herd on one server. Seconds and bytes; *copies* in files."""

    copies: float
    last_s: float
    first_s: float  # median of the clients
    first_most_s: float
    grown: int
    grown_most: int
    cpu_s: float
    load_cpu_s: float  # of the thread that plays the clients: near to last_s, it is what was measured


def herd(port: int, path: str, origin: Origin, clients: int) -> LoadResult:
    """All clients at once, on one thread. Raises SystemExit when one of them did not get the file."""
    got = http_load.load(
        "127.0.0.1", port, path, connections=clients, requests=clients, verify_every=HASHING, sha256=origin.sha256,
        timeout_s=600,
    )  # fmt: skip
    if got.errors or (got.requests, got.bytes) != (clients, clients * origin.size):
        raise SystemExit(
            f"bench: expected {clients} files and {clients * origin.size} bytes, got {got.requests} and {got.bytes}"
            f"; {got.errors} errors, first: {got.first_error}"
        )
    return got


class Memory:
    """Anonymous memory of a server, sampled until the context is left."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.before = self.most = self.after = server.anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.most = max(self.most, self._server.anonymous_bytes())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.after = self._server.anonymous_bytes()
        self.most = max(self.most, self.after)


@contextmanager
def rack(origin: Origin, region: FakeRegion, work: Path) -> Iterator[tuple[Server, int, str]]:
    with racks.rack(region, work) as running:
        yield running.server, running.http, f"/{NAME}"


@contextmanager
def nginx(origin: Origin, region: FakeRegion, work: Path) -> Iterator[tuple[Server, int, str]]:
    anchor, port = anchors.find("nginx"), free_port()
    config = anchors.nginx_cache_config(f"{THERE}:{origin.port}", port, work)
    argv = [anchor.path, "-c", str(config), "-p", str(work), "-e", str(work / "error.log")]
    with Server("nginx", argv, cpu=SERVER_CPU, env=anchor.env) as server:
        _await(port, server)
        yield server, port, f"/blob/{origin.sha256}"


@contextmanager
def varnish(origin: Origin, region: FakeRegion, work: Path) -> Iterator[tuple[Server, int, str]]:
    anchor, port = anchors.find("varnishd"), free_port()
    config = work / "herd.vcl"
    config.write_text(
        f'vcl 4.1;\nbackend origin {{ .host = "{THERE}"; .port = "{origin.port}"; }}\n'
        "sub vcl_backend_response { set beresp.ttl = 1h; }\n"
    )
    argv = [anchor.path, "-F", "-j", "none", "-n", str(work / "varnish"), "-a", f"127.0.0.1:{port}"]
    argv += ["-f", str(config), "-s", f"malloc,{2 * origin.size + 64 * MIB}", "-T", "none"]
    with Server("varnish", argv, cpu=SERVER_CPU, env=anchor.env) as server:
        _await(port, server)
        yield server, port, f"/blob/{origin.sha256}"


STARTS = {"bootplane": rack, "nginx": nginx, "varnish": varnish}


def _await(port: int, server: Server) -> None:
    """Until somebody listens: no request, the cache is to be cold."""
    deadline = time.monotonic() + READY_S
    wanted = f":{port:04X} 00000000:0000 0A"
    while wanted not in Path("/proc/net/tcp").read_text():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise anchors.Missing(f"{server.name}: it did not come up (exit status {server.process.poll()})")
        time.sleep(0.02)


def sample(name: str, origin: Origin, region: FakeRegion, work: Path, clients: int) -> Sample:
    """One herd on a server of its own, from an empty cache, which is removed."""
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
    place.chmod(0o755)
    try:
        with STARTS[name](origin, region, place) as (server, port, path):
            sent, cpu = origin.body_bytes(), server.cpu_s()
            with Memory(server) as memory:
                got = herd(port, path, origin, clients)
            return Sample(
                copies=(origin.body_bytes() - sent) / origin.size,
                last_s=got.seconds,
                first_s=got.first_p50_s,
                first_most_s=got.first_most_s,
                grown=memory.after - memory.before,
                grown_most=memory.most - memory.before,
                cpu_s=server.cpu_s() - cpu,
                load_cpu_s=got.cpu_s,
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def lone_s(origin: Origin) -> float:
    """Seconds of one client over the bare link."""
    fetch = http_fetch.fetch(THERE, origin.port, f"/blob/{origin.sha256}", timeout_s=600, source=HERE, verify=False)
    return fetch.seconds


def absolutes(rate: int, lone: list[float], samples: Mapping[str, list[Sample]]) -> str:
    """The medians as aligned text, one line a server."""
    rows = [
        (
            "",
            "upstream",
            "last",
            "last/lone",
            "first byte",
            "last of them",
            "anonymous",
            "at its most",
            "CPU",
            "clients' CPU",
        )
    ]
    for name, found in samples.items():

        def median(pick: Callable[[Sample], float], found: list[Sample] = found) -> float:
            return statistics.median(pick(each) for each in found)

        ratio = statistics.median(each.last_s / alone for each, alone in zip(found, lone, strict=True))
        copies = {f"{each.copies:.6f}".rstrip("0").rstrip(".") for each in found}
        rows.append(
            (
                name,
                "/".join(sorted(copies)),
                f"{median(lambda s: s.last_s):.2f} s",
                f"{ratio:.3f}",
                f"{median(lambda s: s.first_s) * 1000:.0f} ms",
                f"{median(lambda s: s.first_most_s) * 1000:.0f} ms",
                f"{median(lambda s: s.grown) / MIB:+.1f} MiB",
                f"{median(lambda s: s.grown_most) / MIB:+.1f} MiB",
                f"{median(lambda s: s.cpu_s):.2f} s",
                f"{median(lambda s: s.load_cpu_s):.2f} s",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return f"{rate} Mbit/s; one client over the bare link: {statistics.median(lone):.2f} s\n" + "\n".join(lines)


def comparisons(rate: int, lone: list[float], samples: Mapping[str, list[Sample]]) -> Iterator[Comparison]:
    """Ours over the lone client's and over each peer's. Only what is always above 0 can be a ratio."""
    ours, what = samples["bootplane"], f"cold herd at {rate} Mbit/s"
    last = [(each.last_s, alone) for each, alone in zip(ours, lone, strict=True)]
    yield compare(f"{what}: last client", "one lone client", last, goal=LAST_GOAL if rate == 250 else None)
    for peer, theirs in samples.items():
        if peer == "bootplane":
            continue
        both = list(zip(ours, theirs, strict=True))
        goal = VARNISH_GOAL if (peer, rate) == ("varnish", 1000) else None
        yield compare(f"{what}: last client", peer, [(a.last_s, b.last_s) for a, b in both], goal=goal)
        yield compare(f"{what}: first byte, median", peer, [(a.first_s, b.first_s) for a, b in both])
        yield compare(f"{what}: first byte, last", peer, [(a.first_most_s, b.first_most_s) for a, b in both])
        yield compare(f"{what}: CPU", peer, [(a.cpu_s, b.cpu_s) for a, b in both])
        grown = [(max(a.grown_most, 4096), max(b.grown_most, 4096)) for a, b in both]
        yield compare(f"{what}: anonymous memory", peer, [(float(a), float(b)) for a, b in grown])


def figures(rate: int, ours: list[Sample]) -> Iterator[Comparison]:
    """The goals that are no ratios."""
    what = f"cold herd at {rate} Mbit/s"
    yield figure(f"{what}: upstream copies", [each.copies for each in ours], "copies", goal=1.0)
    grown = [each.grown_most / MIB for each in ours]
    yield figure(f"{what}: anonymous memory", grown, "MiB", goal=MEMORY_GOAL / MIB)
    first = [each.first_most_s * 1000 for each in ours]
    goal = FIRST_BYTE_GOAL_S * 1000 if rate == 250 else None
    yield figure(f"{what}: first byte of the last client", first, "ms", goal=goal)


@contextmanager
def origin_at(far: Link, root: Path, sha256: str, size: int) -> Iterator[Origin]:
    with racks.source(root, cpu=LOAD_CPU, run=far.run_there, host=THERE) as (server, port):
        yield Origin(server, port, sha256, size)


def measure(rates: list[int], size: int, rounds: int, clients: int, runners: list[str]) -> int:
    """Prints tables and verdicts, writes the results. 1 when a figure is wrong by a factor of two, or not one copy."""
    results: list[Comparison] = []
    notes: list[str] = []
    copies: set[float] = set()
    with ExitStack() as stack:
        far = stack.enter_context(link())
        root = stack.enter_context(folder({NAME: size}))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bootplane-bench-")))
        work.chmod(0o755)
        file = racks.digest_of(root, NAME)
        origin = stack.enter_context(origin_at(far, root, file.sha256, size))
        region = stack.enter_context(racks.Region())
        region.sign([file])
        region.bulk_at = f"{THERE}:{origin.port}"
        os.sched_setaffinity(0, {LOAD_CPU})
        for rate in rates:
            far.set_rate(rate * 1_000_000)
            lone: list[float] = []
            samples: dict[str, list[Sample]] = {name: [] for name in runners}
            for turn in range(rounds):
                order = list(samples)[:: 1 if turn % 2 else -1]
                lone.append(lone_s(origin))
                for name in order:
                    try:
                        found = sample(name, origin, region, work, clients)
                    except anchors.Missing as error:
                        notes.append(f"left out: {error}")
                        runners.remove(name)
                        del samples[name]
                        continue
                    samples[name].append(found)
                    print(f"  {rate} Mbit/s, round {turn + 1}, {name}: {found}", flush=True)
            text = absolutes(rate, lone, samples)
            print(f"\n{text}\n", flush=True)
            results += [*comparisons(rate, lone, samples), *figures(rate, samples["bootplane"])]
            copies.update(each.copies for each in samples["bootplane"])
            notes += text.splitlines()
    print(table(results))
    for note in notes:
        if note.startswith("left out"):
            print(note)
    print(f"written to {write('herd' if size == SIZE else 'herd-short', results, notes=notes)}")
    far_off = [str(line) for line in results if not line.within(2.0)]
    if copies != {1.0}:
        far_off.append(f"expected one upstream copy exactly, got {sorted(copies)}")
    for text in far_off:
        print(f"bench: far off: {text}", file=sys.stderr)
    return 1 if far_off else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.herd", description="A cold herd over a slow link, beside its peers.")
    parser.add_argument("--size", type=int, default=SIZE, metavar="BYTES", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="default: %(default)s")
    parser.add_argument("--mbit", type=int, nargs="+", default=list(RATES_MBIT), help="rates; default: 250 1000")
    parser.add_argument("--only", nargs="+", choices=RUNNERS, default=list(RUNNERS), help="bootplane is always there")
    options = parser.parse_args()
    racks.cpus()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is started ends with its context
    runners = [name for name in RUNNERS if name == "bootplane" or name in options.only]
    try:
        return measure(options.mbit, options.size, options.rounds, options.clients, runners)
    except NoLink as error:
        print(f"bench: left out: {error}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    sys.exit(main())
