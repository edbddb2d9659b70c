"""What the demo prints: a live table of machines by stage, then the sums. Plain lines where there is no terminal."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bootplane.control.demo.machines import BOOTED, FAILED, STAGES, Board, Machine

_GB = 1e9


def human(size: float) -> str:
    """Bytes in decimal units: 85.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


class Watch:
    """Renders the board while the machines boot."""

    def __init__(self, console: Console, board: Board) -> None:
        self.console, self.board = console, board
        self.started = self.said = time.monotonic()
        self.live = Live(self._table(), console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Watch:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self.live.update(self._table(), refresh=True)
            self.live.__exit__(None, None, None)
        else:
            self.console.print(self._line(), soft_wrap=True)

    def update(self) -> None:
        if self.live:
            self.live.update(self._table())
        elif time.monotonic() - self.said >= 2:
            self.said = time.monotonic()
            self.console.print(self._line(), soft_wrap=True)

    def _sums(self) -> tuple[Counter[int], int, int, float]:
        rows = list(self.board.rows())
        stages = Counter(row.stage for row in rows)
        tftp, http = sum(row.tftp_bytes for row in rows), sum(row.http_bytes for row in rows)
        return stages, tftp, http, max(time.monotonic() - self.started, 1e-3)

    def _line(self) -> str:
        stages, tftp, http, seconds = self._sums()
        at = ", ".join(f"{stages[i]} {name}" for i, name in enumerate(STAGES) if stages[i])
        rate = human((tftp + http) / seconds)
        return f"  {seconds:4.1f} s: {at}; {human(tftp)} by TFTP, {human(http)} by HTTP ({rate}/s)"

    def _table(self) -> Table:
        stages, tftp, http, seconds = self._sums()
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("time", *STAGES, "TFTP", "HTTP", "rate"):
            table.add_column(name, justify="right", no_wrap=True)
        counts = [str(stages[i] or "·") for i in range(len(STAGES))]
        rate = f"{human((tftp + http) / seconds)}/s"
        table.add_row(f"{seconds:.1f} s", *counts, human(tftp), human(http), rate)
        return table


@dataclass(frozen=True)
class Summary:
    """The demo's last word; ``--json`` prints these fields. Copies: bytes sent over distinct bytes asked for."""

    machines: int
    booted: int
    failed: int
    wrong: int
    files: int
    bytes_served: int
    copies_from_region: float
    copies_from_source: float
    verification_failures: int
    boot_p50_s: float
    boot_p99_s: float
    real_files: bool
    web: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that *share* of all are not above; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def boot_times(rows: Sequence[Machine]) -> tuple[float, float]:
    """(p50, p99) over the machines that booted, seconds."""
    times = [row.seconds for row in rows if row.stage == BOOTED]
    return (statistics.median(times) if times else 0.0, percentile(times, 0.99))


def print_summary(console: Console, summary: Summary, rows: Sequence[Machine]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for label, value in (
        ("machines booted", f"{summary.booted} of {summary.machines}"),
        ("bytes served", f"{human(summary.bytes_served)} in {summary.files} files, every one hashed by its machine"),
        ("copies from the region", f"{summary.copies_from_region:.2f}"),
        ("copies from the source", f"{summary.copies_from_source:.2f}"),
        ("verification failures", str(summary.verification_failures)),
        ("wrong bytes received", str(summary.wrong)),
        ("boot time", f"p50 {summary.boot_p50_s:.1f} s, p99 {summary.boot_p99_s:.1f} s"),
        ("web", summary.web),
    ):
        table.add_row(label, value)
    console.print(table)
    reasons = Counter(row.message for row in rows if row.stage == FAILED)
    for reason, count in reasons.most_common(3):
        console.print(f"  {count} × {reason}", markup=False, highlight=False, soft_wrap=True)
