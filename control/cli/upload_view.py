"""An upload on screen: a bar with rate and time left on a terminal, a line now and then elsewhere, nothing under
``--json``. A view only shows; what is sent and when is ``upload``'s."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, Self

import typer

from bootplane.control.cli import figures, output

LINE_STEP = 10  # percent between two plain lines
RATE_WINDOW_S = 5.0
REDRAW_S = 0.1


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def hashed(self, name: str, done: int, total: int) -> None: ...
    def show(self, upload: dict[str, Any]) -> None: ...
    def sent(self, upload: dict[str, Any], file: str, done: int) -> None: ...
    def note(self, sentence: str) -> None: ...


def view_for(name: str, *, quiet: bool) -> View:
    if quiet:
        return Quiet()
    return Bar(name) if sys.stdout.isatty() else Lines(name)


class Quiet:
    """Shows nothing but notes, which go to stderr."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def hashed(self, name: str, done: int, total: int) -> None:
        pass

    def show(self, upload: dict[str, Any]) -> None:
        pass

    def sent(self, upload: dict[str, Any], file: str, done: int) -> None:
        pass

    def note(self, sentence: str) -> None:
        output.say(sentence)


class Speed:
    """Bytes per second over the last seconds, of a growing count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque()

    def at(self, done: int) -> float:
        now = self._clock()
        if self._marks and done < self._marks[-1][1]:
            self._marks.clear()
        self._marks.append((now, done))
        while now - self._marks[0][0] > RATE_WINDOW_S and len(self._marks) > 2:
            self._marks.popleft()
        passed_s = now - self._marks[0][0]
        return (done - self._marks[0][1]) / passed_s if passed_s > 0 else 0.0


class Lines(Quiet):
    """A line at each new step and at each tenth of the bytes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: tuple[str, int] | None = None
        self._speed = Speed()

    def hashed(self, name: str, done: int, total: int) -> None:
        self._line(f"hashing {name}", done, total)

    def show(self, upload: dict[str, Any]) -> None:
        if upload["done"]:
            self._line("sending", upload["done"], upload["size"])

    def sent(self, upload: dict[str, Any], file: str, done: int) -> None:
        self._line("sending", done, upload["size"])

    def _line(self, what: str, done: int, total: int) -> None:
        speed = self._speed.at(done)
        tenth = 100 * done // total // LINE_STEP if total else 0
        if (what, tenth) == self._last:
            return
        self._last = (what, tenth)
        typer.echo(output.clean(f"{self._name}: {what}, {_amount(done, total)}{_time(speed, done, total)}"))


class Bar(Lines):
    """One bar: hashing, then sending."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(name)
        self._drawn = 0.0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TextColumn("{task.fields[amount]}", markup=False),
            console=output.console(),
        )
        self._task = self._progress.add_task(output.clean(name), total=None, amount="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, sentence: str) -> None:
        self._progress.console.print(output.clean(sentence), style="yellow")

    def _line(self, what: str, done: int, total: int) -> None:
        speed = self._speed.at(done)
        now = time.monotonic()
        if done < total and now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        self._progress.update(
            self._task,
            description=output.clean(what),
            total=total,
            completed=done,
            amount=_amount(done, total) + _time(speed, done, total),
        )


def _amount(done: int, total: int) -> str:
    return f"{figures.size(done)} / {figures.size(total)}"


def _time(speed: float, done: int, total: int) -> str:
    if speed <= 0 or done >= total:
        return ""
    return f", {figures.rate(speed)}, {figures.duration((total - done) / speed)} left"
