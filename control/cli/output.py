"""How the command line prints: JSON, aligned tables, remarks.

Text from outside (titles, errors of a mirror) passes ``clean`` before it reaches a terminal, so that no name can move
the cursor. Off a terminal nothing is coloured, wrapped or shortened: ``grep`` and ``awk`` see whole values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

WHOLE_LINE = 100_000  # columns of a console that is no terminal: a table is never folded for a pipe


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def done(document: Any, json: bool, sentence: str) -> None:
    """The end of a command that changed something: the API's answer, or one sentence. An empty answer prints null."""
    if json:
        print_json(document)
    else:
        typer.echo(clean(sentence))


def console(stderr: bool = False) -> Console:
    """A console that colours and folds on a terminal only. Markup is off: names may hold brackets."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WHOLE_LINE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def say(sentence: str) -> None:
    """A remark beside the result, on stderr, so that a pipe carries the result alone."""
    typer.echo(clean(sentence), err=True)


def clean(value: Any) -> str:
    """*value* as text without control characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in str(value))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = (), empty: str = ""
) -> None:
    """An aligned table without borders; *right* names the columns of figures. *empty* is said on stderr for no rows."""
    from rich.table import Table
    from rich.text import Text

    headed = any(columns)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=headed)
    for column in columns:
        table.add_column(column, justify="right" if column in right and headed else "left", overflow="fold")
    count = 0
    for row in rows:
        count += 1
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    if not count:
        if empty:
            say(empty)
        return
    screen = console()
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as text:
        screen.print(table)
    for line in text.get().splitlines():
        typer.echo(line.rstrip())  # no padding for a pipe


def state(word: str) -> Any:
    """A state in its colour: green done, yellow under way or doubtful, red wrong."""
    from rich.text import Text

    colours = {
        "green": ("ok", "complete", "done", "verified", "yes", "live", "idle"),
        "red": ("fail", "failed", "error", "no", "gone"),
        "yellow": ("warn", "incomplete", "stopped", "stale", "refreshing", "downloading", "finishing"),
    }
    style = next((colour for colour, words in colours.items() if word in words), "")
    return Text(clean(word), style=style)
