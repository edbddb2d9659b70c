"""The demo from end to end: boot source, region and rack, sync, machines, sums. Exit status 0 only if all of it held.

The sums come from the processes that did the work: the source counts what it sent, region and rack have /metrics, each
machine writes its own row. Nothing here is on the path of a byte.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bootplane.control.demo import content, mirror
from bootplane.control.demo.machines import BOOTED, FAILED, Board, Machine
from bootplane.control.demo.processes import Child, DemoFailed, children, python
from bootplane.control.demo.show import Summary, Watch, boot_times, human, print_summary
from bootplane.control.demo.source_server import COUNTERS

READY_S = 90.0  # a cold start of region and rack on a loaded machine
BOOT_LIMIT_S = 600.0
FREE_BYTES = 600_000_000  # mirror, region's store and rack's cache of the demo's images
REFUSED = re.compile(r"refused chunk \d+ of blob .*")


@dataclass(frozen=True)
class Running:
    """The processes of the demo and where they listen."""

    source: str
    region: str
    bulk: str
    http: str
    tftp: str
    data: Path
    log: Path


def run(
    *, machines: int = 64, keep: bool = False, corrupt: bool = False, data: Path | None = None, json: bool = False
) -> int:
    """Runs the demo; returns the exit status. With *json* stdout carries the summary alone."""
    console = Console(stderr=json, highlight=False)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with _directory(data, keep) as folder, children() as started:
            return _run(console, folder, started, machines, keep, corrupt, json)
    except DemoFailed as failure:
        console.print(f"demo: {failure}", style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("demo: stopped")
        return 130


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _directory(data: Path | None, keep: bool) -> Iterator[Path]:
    """The demo's own directory: *data*, which stays, or a temporary one, which goes."""
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        yield data.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="bootplane-demo-") as folder:
        yield Path(folder)


def _run(
    console: Console, folder: Path, started: list[Child], machines: int, keep: bool, corrupt: bool, json: bool
) -> int:
    def say(text: str) -> None:
        console.print(f"  {text}", markup=False, soft_wrap=True)

    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise DemoFailed(f"{folder}: expected {human(FREE_BYTES)} of free space, got {human(free)}")
    console.print("[bold]1. A boot source[/]")
    files = content.prepare(content.cache_dir(), say)
    source = mirror.make(folder / "mirror", files)
    kind = "real" if files.real else "generated"
    say(f"{kind} boot files, signed by {source.fingerprint[-16:]}: {human(source.item_bytes)}")

    console.print("[bold]2. A region and a rack[/]")
    where = _start(folder, started, source.root)
    say(f"source http://{where.source}/  region http://{where.region}  rack http {where.http}, tftp {where.tftp}")
    _mirror(console, where, source, json)

    console.print(f"[bold]3. {machines} machines[/]")
    if corrupt:
        say(_damage(where.data, source))
    rows = _boot(console, folder, started, where, source, machines)

    console.print("[bold]4. What it took[/]")
    summary = _sum_up(where, source, rows, files.real)
    print_summary(console, summary, rows)
    if json:
        print(jsonlib.dumps(summary.as_dict()))
    status = _verdict_corrupt(console, where, summary) if corrupt else _verdict(console, summary)
    if keep:
        console.print(f"serving until Ctrl-C: {_login_link(where)}", markup=False, soft_wrap=True)
        while True:
            signal.pause()
    return status


def _start(folder: Path, started: list[Child], root: Path) -> Running:
    server = Child("source", python("bootplane.control.demo.source_server", str(root)), folder / "source.log",
                   stdin=subprocess.PIPE)  # fmt: skip
    started.append(server)
    source = server.ready(READY_S)[""]
    data, log = folder / "data", folder / "up.log"
    any_port = "127.0.0.1:0"
    up = Child(
        "bootplane up",
        python("bootplane", "up", "--data", str(data), "--no-share", "--listen", any_port, "--bulk", any_port,
               "--http", any_port, "--tftp", any_port),
        log,
    )  # fmt: skip
    started.append(up)
    ready = up.ready(READY_S)
    return Running(source, ready["region"], ready["bulk"], ready["http"], ready["tftp"], data, log)


def _mirror(console: Console, where: Running, source: mirror.Mirror, json: bool) -> None:
    """The operator's commands, as an operator types them."""
    for words in (
        ["source", "add", f"http://{where.source}/", "--keyring", str(source.keyring), "--name", "demo"],
        ["select", "add", source.os, source.release, "--arch", "amd64"],
        ["sync", "--wait"],
    ):
        console.print(f"  $ bootplane {' '.join(words)}", style="dim", markup=False, soft_wrap=True)
        command = python("bootplane", *words, "--data", str(where.data))
        result = subprocess.run(command, stdout=sys.stderr if json else None, check=False)
        if result.returncode:
            raise DemoFailed(f"bootplane {words[0]} ended with {result.returncode}")
    deadline = time.monotonic() + 30
    while not _serves(where):
        if time.monotonic() > deadline:
            raise DemoFailed("the rack has no boot loader 30 s after the sync: see its log")
        time.sleep(0.05)


def _serves(where: Running) -> bool:
    request = urllib.request.Request(f"http://{where.http}/bootx64.efi", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except OSError:
        return False


def _damage(data: Path, source: mirror.Mirror) -> str:
    """Flips one byte in the middle of the region's squashfs, as a bad disk would."""
    blob = data / "image-storage" / source.expected["squashfs"]
    at = blob.stat().st_size // 2
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))
    return f"damaged in the region: byte {at} of the squashfs, {blob.name[:16]}…"


def _boot(
    console: Console, folder: Path, started: list[Child], where: Running, source: mirror.Mirror, machines: int
) -> list[Machine]:
    board_path, expected = folder / "board", folder / "expected.json"
    board = Board(board_path, machines, create=True)
    expected.write_text(jsonlib.dumps(source.expected))
    simulator = Child(
        "machines",
        python("bootplane.control.demo.machines", "--board", str(board_path), "--machines", str(machines),
               "--expected", str(expected), "--http", where.http, "--tftp", where.tftp),
        folder / "machines.log",
    )  # fmt: skip
    started.append(simulator)
    deadline = time.monotonic() + BOOT_LIMIT_S
    with Watch(console, board) as watch:
        while simulator.process.poll() is None:
            if time.monotonic() > deadline:
                raise DemoFailed(f"expected all machines up or failed within {BOOT_LIMIT_S:.0f} s")
            watch.update()
            time.sleep(0.1)
    if simulator.process.returncode:
        raise DemoFailed(f"the machines ended with {simulator.process.returncode}: {simulator.tail()}")
    return list(board.rows())


def _metrics(address: str) -> dict[str, float]:
    """Sums of /metrics by name, labels put together."""
    sums: dict[str, float] = {}
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        for line in reply.read().decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _sum_up(where: Running, source: mirror.Mirror, rows: list[Machine], real: bool) -> Summary:
    region, rack = _metrics(where.region), _metrics(where.http)
    with urllib.request.urlopen(f"http://{where.source}{COUNTERS}", timeout=10) as reply:
        sent = jsonlib.loads(reply.read())
    item_bytes = sum(size for path, (_, size) in sent.items() if not path.startswith("/streams/"))
    asked = source.bytes_of(uefi=any(i % 4 != 3 for i in range(len(rows))), bios=len(rows) > 3)
    p50, p99 = boot_times(rows)
    return Summary(
        machines=len(rows),
        booted=sum(row.stage == BOOTED for row in rows),
        failed=sum(row.stage == FAILED for row in rows),
        wrong=sum(row.wrong for row in rows),
        files=sum(row.files for row in rows),
        bytes_served=sum(row.tftp_bytes + row.http_bytes for row in rows),
        copies_from_region=region["bootplane_http_body_bytes_total"] / asked,
        copies_from_source=item_bytes / source.selected_bytes,
        verification_failures=int(rack["bootplane_fill_refused_chunks_total"]),
        boot_p50_s=p50,
        boot_p99_s=p99,
        real_files=real,
        web=f"http://{where.region}/",
    )


def _verdict(console: Console, summary: Summary) -> int:
    wrong = []
    if summary.booted != summary.machines:
        wrong.append(f"{summary.failed} machines did not boot")
    if summary.wrong:
        wrong.append(f"{summary.wrong} files were wrong")
    for name, copies in (("region", summary.copies_from_region), ("source", summary.copies_from_source)):
        if f"{copies:.2f}" != "1.00":
            wrong.append(f"expected 1.00 copies from the {name}, got {copies:.4f}")
    for sentence in wrong:
        console.print(f"demo: {sentence}", style="bold red", markup=False)
    return 1 if wrong else 0


def _verdict_corrupt(console: Console, where: Running, summary: Summary) -> int:
    found = REFUSED.search(where.log.read_text(errors="replace"))
    if found is None or summary.wrong or summary.verification_failures == 0:
        console.print(
            f"demo: expected a refused chunk and no wrong byte, got "
            f"{'no refusal' if found is None else 'a refusal'} and {summary.wrong} wrong files",
            style="bold red", markup=False,
        )  # fmt: skip
        return 1
    console.print(f"[bold]the rack {found[0]}[/]", soft_wrap=True)
    console.print(f"no machine was given a wrong byte: {summary.failed} said so and stopped")
    return 0


def _login_link(where: Running) -> str:
    result = subprocess.run(
        python("bootplane", "web", "--data", str(where.data)), capture_output=True, text=True, check=False
    )
    return result.stdout.strip().splitlines()[-1] if result.returncode == 0 else f"http://{where.region}/"
