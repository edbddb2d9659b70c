"""Lines that need no anchor, because they are counted: system calls of the thread that serves, DATA sent under loss,
the last of 500 clients against the median one. docs/reference/bench.md says what each is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bench import calls
from bench.racks import File
from bench.ratio import Comparison, Goal, figure
from bench.wire import KERNEL, LARGE, LOADER, SMALL, Load, Site, Target, driven, http, ranges, tftp
from bootplane.core.client import LoadResult

CLIENTS = 500
NETWORKS: tuple[tuple[dict[str, float], str], ...] = (
    ({"lose": 0.01}, "1 % loss"),
    ({"lose": 0.01, "repeat": 0.01, "swap": 0.01}, "1 % loss, 1 % twice, 1 % overtaken"),
)
BLKSIZE = 1428
DATA_SENT = "bootplane_tftp_data_total"


def ways() -> list[tuple[str, bool]]:
    """How calls are counted: (name, whether by strace). Goals are of the first, by which they were set: the thread that
    serves is slow then, and never waits. How many there are when nobody slows it down is shown beside that."""
    return [("traced", True), ("undisturbed", False)] if calls.can_perf() else [("traced", True)]


def http_calls(what: str, file: str, load: Load, goal: Goal, on: Site, samples: int) -> Iterator[Comparison]:
    """System calls of ours for each request, and of nginx for the same."""
    for name in ("bootplane", "nginx"):
        if name not in on.targets:
            continue
        target, is_ours = on.targets[name], name == "bootplane"
        thread, requests = _server_thread(what, load, target, on.files[file])
        for way, traced in ways():
            found = [_calls(thread, what, load, target, on.files[file], traced=traced) for _ in range(samples)]
            text = f"{what}: system calls each, {way}" + ("" if is_ours else f", of {name}")
            yield figure(text, [n / requests for n in found], "calls", goal=goal if is_ours and traced else None)


def small_calls(on: Site, samples: int) -> Iterator[Comparison]:
    return http_calls("HTTP 4 KiB x 64", SMALL, http(64, 30_000), Goal(2.1), on, samples)


def range_calls(on: Site, samples: int) -> Iterator[Comparison]:
    return http_calls("HTTP ranges of 1 MiB x 16", LARGE, ranges(16, 4000), Goal(3.2), on, samples)


def tftp_calls(on: Site, samples: int) -> Iterator[Comparison]:
    """For each DATA sent, of all clients together."""
    target, file = on.targets["bootplane"], on.files[KERNEL]
    for windowsize, goal in ((1, Goal(0.25, 0.2)), (16, None)):
        what, load = f"TFTP {BLKSIZE} w{windowsize} x 64", tftp(BLKSIZE, windowsize, 64, 64)
        thread, _ = _server_thread(what, load, target, file)
        for way, traced in ways():
            found = []
            for _ in range(samples):
                made: list[int] = []
                work = partial(_calls, thread, what, load, target, file, traced=traced)
                sent = _sent(on, lambda: made.append(work()))  # noqa: B023
                found.append(made[0] / sent)
            text = f"{what}: system calls for each DATA, {way}"
            yield figure(text, found, "calls", goal=goal if traced else None)


def _server_thread(what: str, load: Load, target: Target, file: File) -> tuple[int, int]:
    """(the thread that serves, the requests of one drive): found by the warm-up."""
    got: list[LoadResult] = []
    thread = calls.busiest_thread(target.server, lambda: got.append(driven(what, load, target, file)))
    return thread, got[0].requests


def _calls(thread: int, what: str, load: Load, target: Target, file: File, *, traced: bool = False) -> int:
    return calls.count(thread, lambda: driven(what, load, target, file), traced=traced)


def _sent(on: Site, work: Callable[[], object]) -> int:
    """DATA packets that the rack has sent during *work*."""
    before = on.rack.numbers()[DATA_SENT]
    work()
    return int(on.rack.numbers()[DATA_SENT] - before)


def blocks_of(size: int, blksize: int) -> int:
    """DATA packets of one transfer without loss; RFC 1350: the last one is shorter, and may be empty."""
    return size // blksize + 1


def many_clients(on: Site, samples: int) -> Iterator[Comparison]:
    """500 at once, without loss: errors, and how far the last ones are behind."""
    errors, tails = [], []
    for _ in range(samples + 1):
        got = tftp(BLKSIZE, 1, CLIENTS, CLIENTS)(on.targets["bootplane"], on.files[LOADER])
        errors.append(got.errors)
        tails.append(got.p99_s / got.p50_s)
    yield figure(f"TFTP {BLKSIZE} w1, {CLIENTS} clients at once: errors", errors[1:], "errors", goal=0)
    yield figure(f"TFTP {BLKSIZE} w1, {CLIENTS} clients at once: p99/p50", tails[1:], "x", goal=1.2)


def loss(on: Site, samples: int) -> Iterator[Comparison]:
    """500 at once over a bad network: what is sent for it. Every file is hashed."""
    file = on.files[LOADER]
    blocks = blocks_of(file.size, BLKSIZE)
    for network, says in NETWORKS:
        for windowsize in (16, 1):
            what = f"TFTP {BLKSIZE} w{windowsize}, {CLIENTS} clients, {says}"
            load = tftp(BLKSIZE, windowsize, CLIENTS, CLIENTS, 1, **network)
            errors, wrong, sent, over = [], [], [], []
            for _ in range(samples):
                got: list[LoadResult] = []
                data = _sent(on, lambda: got.append(load(on.targets["bootplane"], file)))  # noqa: B023
                errors.append(got[0].errors)
                wrong.append(CLIENTS - got[0].verified)
                sent.append(data / CLIENTS / blocks)
                over.append((data - got[0].lost) / CLIENTS - blocks)
            yield figure(f"{what}: errors", errors, "errors", goal=0)
            yield figure(f"{what}: files without the right digest", wrong, "files", goal=0)
            if windowsize == 1:
                yield figure(f"{what}: DATA sent beyond blocks and lost", over, "a client", goal=2)
            else:
                yield figure(f"{what}: DATA sent", sent, "x blocks", goal=1.3)
