"""``bootplane export-tree``: the region's files under the names machines fetch, for other TFTP and HTTP servers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bootplane.control.cli import figures, output
from bootplane.control.cli.beside import one_sentence
from bootplane.control.cli.meter import Meter
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import data_directory
from bootplane.control.cli.publish import Database, chosen_way


def export_tree(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="boot-resources/current is laid out in it.", show_default=False)
    ],
    how: Annotated[
        str,
        typer.Option("--how", metavar="WAY", help="link (the store's file system), symlink, reflink or copy."),
    ] = "link",
    check: Annotated[
        bool, typer.Option("--check", help="Read what lies there already, too, and replace what is damaged.")
    ] = False,
    data: Data = None,
    database: Database = None,
    json: Json = False,
) -> None:
    """Lay every file machines fetch out as boot-resources/current, for TFTP and HTTP servers of others."""
    from bootplane.control.export_tree import export_tree as export
    from bootplane.control.holdings import holdings
    from bootplane.control.placing import How

    directory = data_directory(data)
    way = How(chosen_way(how, [each.value for each in How]) or How.LINK)
    with ExitStack() as stack:

        def meter(what: str, total: int) -> Meter:
            return stack.enter_context(Meter(what, total, quiet=json))

        with one_sentence():
            done = export(stack.enter_context(holdings(directory, database)), folder, way, meter, check=check)
    if json:
        output.print_json(asdict(done))
        return
    verb = "Laid out" if done.is_new else "Nothing new in"
    output.done(
        None,
        False,
        f"{verb} {done.current} -> {done.snapshot}: {figures.count(done.names, 'name')} for "
        f"{figures.count(done.files, 'file')}, {figures.size(done.bytes)}, by {done.how}.",
    )
    for sentence in done.left_out:
        output.say(sentence)
