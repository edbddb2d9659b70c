"""A sync on screen: progress bars on a terminal, a line now and then elsewhere, nothing under ``--json``.

A view only shows; when to ask and when to end is ``sync.follow``'s.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import typer

from bootplane.control.cli import figures, output
from bootplane.control.cli.status import describe_sync

if TYPE_CHECKING:
    from rich.progress import TaskID

BARS = 8  # files shown at once; the rest is in the total
FIGURES_WIDTH = 20 + 5 + 21 + 11 + 8 + 5  # columns of a bar, its figures and the spaces between them
LINE_STEP = 10  # percent of the total between two plain lines


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, sync: dict[str, Any]) -> None: ...
    def note(self, sentence: str) -> None: ...


def view_for(quiet: bool) -> View:
    if quiet:
        return Quiet()
    return Bars() if sys.stdout.isatty() else Lines()


class Quiet:
    """Shows nothing but notes, which go to stderr."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, sync: dict[str, Any]) -> None:
        pass

    def note(self, sentence: str) -> None:
        output.say(sentence)


class Lines(Quiet):
    """A line at each new state and at each tenth of the bytes: what a log or a CI page can bear."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def show(self, sync: dict[str, Any]) -> None:
        total = sync["bytes_total"]
        tenth = 100 * sync["bytes_done"] // total // LINE_STEP if total else 0
        if sync["state"] == "complete":  # the command says this one itself, at the end
            return
        if (sync["state"], tenth) != self._last:
            self._last = (sync["state"], tenth)
            typer.echo(output.clean(describe_sync(sync)))


class Bars:
    """A bar for the whole and one for each file on its way. Rates and times left are the region's own figures."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        screen = output.console()
        self._name_width = min(40, max(14, screen.width - FIGURES_WIDTH))
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[amount]:>21}", markup=False),
            TextColumn("{task.fields[rate]:>11}", markup=False),
            TextColumn("{task.fields[left]:>8}", markup=False),
            console=screen,
        )
        self._whole = self._progress.add_task("sync", total=None, amount="", rate="", left="")
        self._files: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sha256 in list(self._files):
            self._progress.remove_task(self._files.pop(sha256))
        self._progress.stop()

    def note(self, sentence: str) -> None:
        self._progress.console.print(output.clean(sentence), style="yellow")

    def show(self, sync: dict[str, Any]) -> None:
        eta_s = sync["eta_s"]
        self._progress.update(
            self._whole,
            description=f"{sync['state']:<{self._name_width}}",
            total=sync["bytes_total"] or None,
            completed=sync["bytes_done"],
            amount=_amount(sync["bytes_done"], sync["bytes_total"]),
            rate=figures.rate(sync["rate"]) if sync["state"] == "downloading" else "",
            left=figures.duration(eta_s) if eta_s is not None and sync["state"] == "downloading" else "",
        )
        busy = {f["sha256"]: f for f in sync["files"] if f["state"] == "downloading"}
        for sha256 in [known for known in self._files if known not in busy]:
            self._progress.remove_task(self._files.pop(sha256))
        for sha256, file in busy.items():
            if sha256 not in self._files:
                if len(self._files) >= BARS:
                    continue
                self._files[sha256] = self._progress.add_task("", amount="", rate="", left="")
            left_s = (file["size"] - file["done"]) / file["rate"] if file["rate"] else None
            self._progress.update(
                self._files[sha256],
                description=f"  {_short(file['path'], self._name_width - 2)}",
                total=file["size"],
                completed=file["done"],
                amount=_amount(file["done"], file["size"]),
                rate=figures.rate(file["rate"]),
                left=figures.duration(left_s) if left_s is not None else "",
            )


def _amount(done: int, total: int) -> str:
    return f"{figures.size(done)} / {figures.size(total)}" if total else figures.size(done)


def _short(path: str, limit: int) -> str:
    """The tail of *path*, where the file's name stands."""
    text = output.clean(path)
    return text if len(text) <= limit else "…" + text[1 - limit :]
