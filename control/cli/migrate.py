"""``bootplane migrate-maas`` and ``bootplane migrate-database``: an older home of the data left behind, once.

Both work on the data directory of a region that does not run. Libraries of the server are imported inside the command.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bootplane.control.cli import figures, output
from bootplane.control.cli.beside import one_sentence
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.meter import Meter
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import data_directory

if TYPE_CHECKING:
    from bootplane.control.legacy.migrate import Report

VACUUM = "PostgreSQL keeps the room of removed objects until `VACUUM FULL pg_largeobject` has run on that database."
KEPT = (
    "The objects are still in the MAAS database: `--unlink` removes those that have come over, and then "
    "`VACUUM FULL pg_largeobject` returns their room to the disk."
)


def migrate_maas(
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            envvar="BOOTPLANE_MAAS_DATABASE",
            show_default=False,
            help="postgresql://... of MAAS 3.4 or older; a password is best kept in ~/.pgpass.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    leave_damaged: Annotated[
        bool, typer.Option("--leave-damaged", help="Succeed without the files that are damaged in the MAAS database.")
    ] = False,
    unlink: Annotated[
        bool, typer.Option("--unlink", help="At the end remove what has come over from the MAAS database.")
    ] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="End a migration that cannot succeed, with what has come until now.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Take the images over from the database of a MAAS 3.4 or older; a killed one goes on where it stopped."""
    from bootplane.control.legacy import migrate
    from bootplane.control.legacy.maas import MaasDatabase

    directory = data_directory(data)
    if give_up:
        with one_sentence(), migrate.target(directory) as region:
            migrate.give_up(region)
        output.done({}, json, "The migration has been given up; what has come stays, and machines can be deployed.")
        return
    if database is None:
        raise CliError("--database: expected postgresql://... of the MAAS database, got none.")
    with ExitStack() as stack:

        def meter(what: str, total: int) -> Meter:
            return stack.enter_context(Meter(what, total, quiet=json))

        with one_sentence():
            maas = stack.enter_context(MaasDatabase(database))
            if dry_run:
                report = migrate.describe(maas, *migrate.present_in(directory))
            else:
                region = stack.enter_context(migrate.target(directory))
                report = migrate.migrate(maas, region, leave_damaged=leave_damaged, unlink=unlink, meter=meter)
    if json:
        output.print_json(asdict(report))
    else:
        _print(report, dry_run)
    if dry_run:
        _check_room(report)
        return
    if not report.succeeded:
        raise CliError(
            f"The migration has not succeeded: {figures.count(len(report.damaged), 'file')} damaged in the MAAS "
            "database. Machines cannot be commissioned or deployed until it has; `--leave-damaged` does without them."
        )
    if not json:
        typer.echo(VACUUM if unlink else KEPT)


def migrate_database(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="postgresql://... of an empty database.", show_default=False)
    ],
    data: Data = None,
    json: Json = False,
) -> None:
    """Move a stopped region from SQLite to PostgreSQL: every row, counted and compared."""
    from bootplane.control.migrate_database import migrate_database as move

    directory = data_directory(data)
    with ExitStack() as stack:

        def meter(what: str, total: int, unit: str) -> Meter:
            return stack.enter_context(Meter(what, total, unit, quiet=json))

        with one_sentence():
            done = move(directory, to, meter)
    if json:
        output.print_json(asdict(done))
        return
    total = sum(done.rows.values())
    typer.echo(f"Moved {figures.count(total, 'row')} of {figures.count(len(done.rows), 'table')}, compared one by one.")
    output.say(
        f"From now on start the region with --database, or `database = ...` in {directory / 'bootplane.toml'}; the "
        f"SQLite database is kept as {done.kept}."
    )


def _print(report: Report, dry_run: bool) -> None:
    output.print_table(
        ("NAME", "VERSION", "KIND", "FILES", "SIZE", "STATE"),
        ((r.name, r.version, r.kind, r.files, figures.size(r.bytes), r.state) for r in report.rows),
        right=("FILES", "SIZE"),
        empty="No image in the MAAS database can be taken over.",
    )
    for remark in report.remarks:
        typer.echo(output.clean(f"- {remark}"))
    if report.others:
        sessions = figures.count(report.others, "other session")
        output.say(f"{sessions} on this database: stop MAAS before the migration.")
    if dry_run:
        typer.echo(
            f"{figures.count(len(report.rows), 'image')}, {report.bytes_total} bytes; {report.bytes_needed} bytes to "
            f"copy, {report.free_bytes} bytes free."
        )
        typer.echo(f"`{report.space_query}` on the MAAS database: {report.space_query_bytes} bytes.")
        return
    if report.succeeded:
        typer.echo(f"Migrated {figures.count(len(report.rows), 'image')}, {report.bytes_total} bytes.")
    if report.removed_objects:
        typer.echo(
            f"Removed {figures.count(report.removed_objects, 'object')}, {report.removed_bytes} bytes, from the MAAS "
            "database."
        )


def _check_room(report: Report) -> None:
    if report.bytes_needed > report.free_bytes:
        raise CliError(f"Expected {report.bytes_needed} bytes free for the migration, got {report.free_bytes}.")
