"""``bootplane rack``: without a command it becomes a rack process; ``rack list`` shows the racks a region knows.

The rack's program is ``dataplane.rack``; here its options are only handed on, so that ``bootplane rack`` and
``python -m bootplane.dataplane.rack`` are one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import CacheSize, data_directory

app = typer.Typer(help="Run a rack, or list the racks a region knows.", invoke_without_command=True)


@app.callback(invoke_without_command=True)
def rack(
    ctx: typer.Context,
    data: Data = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="URL[,URL]", help="The region, or several that stand in.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="File with the rack's token (rack-token new).")
    ] = None,
    http: Annotated[
        str | None, typer.Option("--http", metavar="H:P", help="HTTP for machines. [default: every address, port 5248]")
    ] = None,
    tftp: Annotated[
        str | None, typer.Option("--tftp", metavar="H:P", help="TFTP for machines. [default: every address, port 69]")
    ] = None,
    cache_size: CacheSize = None,
) -> None:
    ctx.obj = data
    if ctx.invoked_subcommand is not None:
        return
    if region is None or token_file is None:
        raise typer.BadParameter("a rack needs --region URL and --token-file FILE (or say `rack list`)")
    from bootplane.dataplane.rack import main as run_rack

    options = {
        "--data": str(data_directory(data)),
        "--region": region,
        "--token-file": str(token_file),
        "--http": http,
        "--tftp": tftp,
        "--cache-size": cache_size,
    }
    arguments = [part for option, value in options.items() if value is not None for part in (option, value)]
    raise typer.Exit(run_rack(arguments))


@app.command("list")
def list_racks(ctx: typer.Context, data: Data = None, json: Json = False) -> None:
    """The racks, and how full their caches are."""
    document = client.connect(data or ctx.obj).items("/racks")
    if json:
        output.print_json(document)
        return
    print_racks(document["items"])


def print_racks(racks: Sequence[dict[str, Any]]) -> None:
    output.print_table(
        ("RACK", "HTTP", "TFTP", "CATALOGUE", "CACHE", "FETCHED", "REFUSED", "LAST SEEN"),
        (
            (
                rack["name"] or rack["id"],
                rack["http"] or "-",
                rack["tftp"] or "-",
                rack["catalogue"] or "-",
                *_cache(rack["cache"] or {}),
                rack["last_seen"] or "never",
            )
            for rack in racks
        ),
        right=("CATALOGUE", "CACHE", "FETCHED", "REFUSED"),
        empty="No rack yet: `bootplane up` brings one; others join with a token of `bootplane rack-token new`.",
    )


def _cache(cache: dict[str, Any]) -> tuple[str, str, str]:
    """How full, how much came from the region, how many chunks were refused for their digest."""
    if "limit_bytes" not in cache:
        return "-", "-", "-"
    full = f"{figures.size(cache.get('charged_bytes', 0))} of {figures.size(cache['limit_bytes'])}"
    return full, figures.size(cache.get("filled_bytes")), str(cache.get("refused_chunks", "-"))
