"""``bootplane source publish``: a region's content as a boot source of its own.

It works on the data directory itself, beside a region that runs or not: the bytes are on this host, and go into the
folder without passing through a process. Libraries of the server are imported inside the command.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bootplane.control.cli import figures, output
from bootplane.control.cli.beside import one_sentence
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.meter import Meter
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import data_directory

Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="As the region's own. [default: SQLite in DIR]", show_default=False),
]


def publish(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the mirror is laid out.", show_default=False)],
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="NAME", help="Only these images, by name or pattern; repeatable."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="Secret OpenPGP key that signs. [default: one made for this region]"
        ),
    ] = None,
    how: Annotated[
        str | None,
        typer.Option("--how", metavar="WAY", help="reflink, link, symlink or copy. [default: the cheapest possible]"),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="S", min=0.0, help="Seconds for which files no more named stay.")
    ] = 3600.0,
    check: Annotated[
        bool, typer.Option("--check", help="Read what lies there already, too, and replace what is damaged.")
    ] = False,
    data: Data = None,
    database: Database = None,
    json: Json = False,
) -> None:
    """Lay the region's complete images out as a signed mirror, for other regions, MAAS and sstream-mirror."""
    from bootplane.control.holdings import holdings
    from bootplane.control.placing import How
    from bootplane.control.source_publish import publish_region, signer_for

    directory = data_directory(data)
    way = chosen_way(how, [each.value for each in How])
    with ExitStack() as stack:

        def meter(what: str, total: int) -> Meter:
            return stack.enter_context(Meter(what, total, quiet=json))

        with one_sentence():
            held = stack.enter_context(holdings(directory, database))
            signer = stack.enter_context(signer_for(directory, key))
            done = publish_region(
                held,
                folder,
                signer,
                patterns=image or (),
                how=How(way) if way else None,
                check=check,
                grace_s=grace,
                meter=meter,
            )
    if json:
        output.print_json(asdict(done))
        return
    output.done(
        None,
        False,
        f"Published {figures.count(done.sets, 'image')} ({figures.count(done.files, 'file')}, "
        f"{figures.size(done.bytes)}, by {done.how}) in {folder}, signed by {done.fingerprint}.",
    )
    output.say(f"Readers need {done.keyring}; tell them the fingerprint by another way than the mirror itself.")
    for sentence in done.left_out:
        output.say(sentence)
    if done.removed:
        output.say(f"{figures.count(done.removed, 'file')} that nothing names any more removed.")
    if done.stale:
        output.say(
            f"{figures.count(done.stale, 'file')} of earlier publications stay for readers that are at it; a "
            f"publication more than {figures.duration(grace)} after the one that dropped them removes them."
        )


def chosen_way(how: str | None, ways: list[str]) -> str | None:
    """*how*, when it is one of *ways*. Raises CliError."""
    if how is not None and how not in ways:
        raise CliError(f"--how {how}: expected one of {', '.join(ways)}.")
    return how
