"""``bootplane backup`` and ``bootplane restore``: a region's database and keys in one file, and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootplane.control.cli import figures, output
from bootplane.control.cli.beside import one_sentence
from bootplane.control.cli.meter import Meter
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import data_directory
from bootplane.control.cli.publish import Database

if TYPE_CHECKING:
    from bootplane.control.backup import Backup

File = Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The backup.")]


def backup(file: File, data: Data = None, database: Database = None, json: Json = False) -> None:
    """Write the region's database and keys to a new file; the region may run. Images are not in it."""
    from bootplane.control.backup import back_up

    done = _carried_out(lambda meter: back_up(file, data_directory(data), database, meter), json)
    if not json:
        typer.echo(
            output.clean(
                f"Backed up region {done.region}: {figures.count(done.rows, 'row')}, {', '.join(done.members)}; "
                f"{figures.size(done.bytes)} in {done.file}."
            )
        )
        output.say("It holds the region's keys: whoever reads it can speak for the region.")


def restore(file: File, data: Data = None, database: Database = None, json: Json = False) -> None:
    """Make a data directory of a backup. There may be nothing in it but image-storage."""
    from bootplane.control.backup import restore as bring_back

    done = _carried_out(lambda meter: bring_back(file, data_directory(data), database, meter), json)
    if not json:
        typer.echo(
            output.clean(
                f"Restored region {done.region} as of {done.created}: {figures.count(done.rows, 'row')}, "
                f"{', '.join(done.members)}."
            )
        )
        if database is not None:
            output.say("Start the region with the same --database.")
        output.say("Images that are in the store are taken up at the region's start; a sync fetches the others.")


def _carried_out(work: Callable[[Callable[[str, int, str], Meter]], Backup], json: bool) -> Backup:

    with ExitStack() as stack:

        def meter(what: str, total: int, unit: str) -> Meter:
            return stack.enter_context(Meter(what, total, unit, quiet=json))

        with one_sentence():
            done = work(meter)
    if json:
        output.print_json(asdict(done))
    return done
