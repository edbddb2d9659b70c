"""``bootplane rack``: without a command it becomes a rack process; ``rack list`` shows the racks a region knows, ``rack
cache`` what one of them has and how far that carries.

The rack's program is ``dataplane.rack``; here its options are only handed on, so that ``bootplane rack`` and
``python -m bootplane.dataplane.rack`` are one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import CacheSize, data_directory

LATE_S = 6.0  # a rack tells each 5 s: what is older is said to be

app = typer.Typer(help="Run a rack, or look at the racks a region knows.", invoke_without_command=True)


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
        raise typer.BadParameter("a rack needs --region URL and --token-file FILE (or say `rack list` or `rack cache`)")
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


@app.command("cache")
def show_cache(
    ctx: typer.Context,
    rack: Annotated[
        str | None, typer.Argument(metavar="ID", help="Its id or its name.", show_default="the only one")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """What a rack has in its cache, and how often it sufficed. ID may be left out when there is one rack."""
    region = client.connect(data or ctx.obj)
    document = region.get(f"/racks/{client.quoted(rack or _only_rack(region))}/cache")
    if json:
        output.print_json(document)
        return
    for sentence in cache_sentences(document):
        typer.echo(output.clean(sentence))
    _print_files(document)
    _print_refusals(document["refusals"])


def _only_rack(region: client.Client) -> str:
    racks = region.items("/racks")["items"]
    if not racks:
        raise CliError(
            "No rack yet: `bootplane up` brings one; others join with a token of `bootplane rack-token new`."
        )
    if len(racks) > 1:
        names = ", ".join(rack["name"] or rack["id"] for rack in racks)
        raise CliError(f"There are {len(racks)} racks: say which one, of {names}.")
    return str(racks[0]["id"])


def cache_sentences(cache: dict[str, Any]) -> list[str]:
    """The state of a cache in sentences. Percentages are rounded down: 100 % means all."""
    size, count = figures.size, figures.count
    told = f"Rack {cache['name']}, up for {figures.duration(cache['up_s'])}"
    if cache["age_s"] > LATE_S:
        told += f"; told {figures.duration(cache['age_s'])} ago ({cache['heard']}), silent since"
    used = f"{size(cache['charged_bytes'])} of {size(cache['limit_bytes'])} used"
    if cache["limit_bytes"]:
        used += f" ({100 * cache['charged_bytes'] // cache['limit_bytes']} %)"
    used += f" in {count(cache['segments'], 'segment')}"
    if cache["condemned_bytes"]:
        used += f"; {size(cache['condemned_bytes'])} evicted, but still being read"
    evicted = "Nothing was evicted."
    if cache["evicted_segments"]:
        evicted = f"Evicted: {count(cache['evicted_segments'], 'segment')}, {size(cache['evicted_bytes'])}."
    refused = "No chunk was refused."
    if cache["refused_chunks"]:
        was = "was" if cache["refused_chunks"] == 1 else "were"
        refused = f"{count(cache['refused_chunks'], 'chunk')} {was} refused for a wrong digest; no machine saw them."
    sentences = [f"{told}.", f"{used}.", _hits(cache), _upstream(cache), f"{evicted} {refused}"]
    if cache["in_place_files"]:
        files = count(cache["in_place_files"], "file")
        sentences.append(f"{files} served from the region's own directory: not in the cache, and not counted as used.")
    return sentences


def _hits(cache: dict[str, Any]) -> str:
    if not cache["transfers"]:
        return "No machine has fetched anything yet."
    percent = 100 * cache["hits"] // cache["transfers"]
    noun = "transfer" if cache["transfers"] == 1 else "transfers"
    return f"{percent} % of {cache['transfers']:,} {noun} found everything here; {cache['misses']:,} had to wait."


def _upstream(cache: dict[str, Any]) -> str:
    """How many bytes went to machines for each that was fetched."""
    gave, served = figures.size(cache["upstream_bytes"]), figures.size(cache["served_bytes"])
    if not cache["upstream_bytes"]:
        return f"Upstream gave nothing for {served} served."
    times = cache["served_bytes"] / cache["upstream_bytes"]
    return f"Upstream gave {gave} for {served} served ({f'{times:.0f}' if times >= 10 else f'{times:.1f}'} x)."


def _print_files(cache: dict[str, Any]) -> None:
    if not cache["files"]:
        return
    typer.echo()
    output.print_table(
        ("FILE", "SIZE", "HERE", "%"),
        (
            (
                file["name"] or f"{file['sha256'][:16]} (withdrawn)",
                figures.size(file["size"]),
                figures.size(file["present_bytes"]),
                str(file["percent"]),
            )
            for file in cache["files"]
        ),
        right=("SIZE", "HERE", "%"),
    )
    if cache["files_total"] > len(cache["files"]):
        output.say(f"The {len(cache['files'])} with most bytes here, of {cache['files_total']}.")
    if cache["files_age_s"] > LATE_S:
        output.say(f"The list of files is {figures.duration(cache['files_age_s'])} older than the rest.")


def _print_refusals(refusals: Sequence[dict[str, Any]]) -> None:
    if not refusals:
        return
    typer.echo()
    output.print_table(
        ("REFUSED AT", "FILE", "CHUNK", "FROM", "EXPECTED", "GOT"),
        ((r["at"], r["blob"][:16], str(r["chunk"]), r["source"], r["expected"][:16], r["got"][:16]) for r in refusals),
        right=("CHUNK",),
    )


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
