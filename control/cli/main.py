"""The command ``bootplane``: gathers the nouns and words every failure.

Invariant: importing this module and running any command but the process ones (up, region, rack, demo) imports neither
the server nor its libraries; ``tests/control/cli/test_main.py`` reads ``sys.modules``. What a command does stands in
the file of its noun.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import bootplane
from bootplane.control.cli import (
    backup,
    demo,
    doctor,
    events,
    export,
    image,
    machine,
    migrate,
    processes,
    rack,
    selection,
    source,
    status,
    sync,
    tokens,
    web,
)
from bootplane.control.cli.failure import CliError


class Commands(TyperGroup):
    """The root group: the one place where a CliError becomes a sentence on stderr and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CliError as error:
            typer.echo(f"bootplane: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with locals would show tokens
    rich_markup_mode=None,  # plain help: quick, and readable in a pipe
    help="bootplane: verified boot images, from a signed boot source to bare machines.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bootplane {bootplane.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("up")(processes.up)
app.command("region")(processes.region)
app.add_typer(rack.app, name="rack")
app.add_typer(tokens.app, name="rack-token")
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("status")(status.status)
app.command("events")(events.events)
app.command("web")(web.web)
app.add_typer(source.app, name="source")
app.add_typer(selection.app, name="select")
app.add_typer(sync.app, name="sync")
app.add_typer(image.app, name="image")
app.command("export-tree")(export.export_tree)
app.command("migrate-maas")(migrate.migrate_maas)
app.command("migrate-database")(migrate.migrate_database)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.add_typer(machine.app, name="machine")


def main() -> None:
    app(prog_name="bootplane")


if __name__ == "__main__":
    main()
