"""``bootplane rack``: without a command it becomes a rack process; ``rack list`` and ``rack show`` show the racks a
region knows, ``rack set`` bounds one, ``rack cache`` says what it has and how far that carries.

The rack's program is ``dataplane.rack``; here its options are only handed on, so that ``bootplane rack`` and
``python -m bootplane.dataplane.rack`` are one thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bootplane.control.cli import cache_view, client, figures, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import CacheSize, Https, TlsCert, TlsKey, data_directory
from bootplane.dataplane import units

DEFAULT = "default"
Rack = Annotated[str | None, typer.Argument(metavar="ID", help="Its id or its name.", show_default="the only one")]

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
        str | None,
        typer.Option("--tftp", metavar="H:P", help='TFTP for machines; "" for none. [default: every address, port 69]'),
    ] = None,
    tftp_max_blksize: Annotated[
        int | None, typer.Option("--tftp-max-blksize", metavar="N", help="Most bytes of a TFTP block. [default: 8192]")
    ] = None,
    tftp_single_port: Annotated[
        bool,
        typer.Option("--tftp-single-port", help="Every TFTP packet leaves from the port of --tftp, for firewalls."),
    ] = False,
    https: Https = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    cache_size: CacheSize = None,
    upstream_limit: Annotated[
        str | None,
        typer.Option(
            "--upstream-limit", metavar="RATE", help="What it fetches from regions, 250Mbit/s. [default: none]"
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option("--shares", metavar="TEXT", help="Who may have how much, by subnet: docs/howto/shares.md"),
    ] = None,
    reactors: Annotated[
        int | None, typer.Option("--reactors", metavar="N", help="Threads that serve. [default: 1]")
    ] = None,
    drain_limit: Annotated[
        float | None,
        typer.Option(
            "--drain-limit",
            metavar="S",
            help="How long it finishes what runs once it is told to end; a second SIGTERM ends it now. [default: 30]",
        ),
    ] = None,
) -> None:
    ctx.obj = data
    if ctx.invoked_subcommand is not None:
        return
    if region is None or token_file is None:
        raise typer.BadParameter(
            "a rack needs --region URL and --token-file FILE (or say `rack list`, `show`, `set` or `cache`)"
        )
    from bootplane.dataplane.rack import main as run_rack

    options = {
        "--data": str(data_directory(data)),
        "--region": region,
        "--token-file": str(token_file),
        "--http": http,
        "--tftp": tftp,
        "--tftp-max-blksize": tftp_max_blksize,
        "--https": https,
        "--tls-cert": tls_cert,
        "--tls-key": tls_key,
        "--cache-size": cache_size,
        "--upstream-limit": upstream_limit,
        "--shares": shares,
        "--reactors": reactors,
        "--drain-limit": drain_limit,
    }
    arguments = [part for option, value in options.items() if value is not None for part in (option, str(value))]
    if tftp_single_port:
        arguments.append("--tftp-single-port")
    raise typer.Exit(run_rack(arguments))


@app.command("list")
def list_racks(ctx: typer.Context, data: Data = None, json: Json = False) -> None:
    """The racks, and how full their caches are."""
    document = client.connect(data or ctx.obj).items("/racks")
    if json:
        output.print_json(document)
        return
    print_racks(document["items"])


@app.command("show")
def show_rack(ctx: typer.Context, rack: Rack = None, data: Data = None, json: Json = False) -> None:
    """One rack, and the limits it keeps. ID may be left out when there is one rack."""
    region = client.connect(data or ctx.obj)
    document = region.get(f"/racks/{client.quoted(rack or _only_rack(region))}")
    if json:
        output.print_json(document)
        return
    for sentence in rack_sentences(document):
        typer.echo(output.clean(sentence))
    _warn(document)


@app.command("set")
def set_rack(
    ctx: typer.Context,
    rack: Rack = None,
    cache_size: Annotated[
        str | None,
        typer.Option(
            "--cache-size", metavar="SIZE", help="Limit of its cache; `default`: as its own command line says."
        ),
    ] = None,
    upstream_limit: Annotated[
        str | None,
        typer.Option(
            "--upstream-limit", metavar="RATE", help="What it fetches from regions, 250Mbit/s; `none`; `default`."
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option("--shares", metavar="TEXT", help="Who may have how much of it; `none`; `default`."),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Set the limits of a rack that runs; it takes them within 5 seconds. ID may be left out when there is one rack."""
    changes: dict[str, int | str | None] = {}
    remark = ""
    try:
        if cache_size is not None:
            changes["cache_bytes"] = None if cache_size == DEFAULT else units.parse_size(cache_size, "--cache-size")
        if upstream_limit is not None:
            is_default = upstream_limit == DEFAULT
            changes["upstream_bytes_s"] = None if is_default else units.parse_rate(upstream_limit, "--upstream-limit")
        if shares is not None:
            if shares != DEFAULT:
                from bootplane.dataplane import shares as words  # with core behind it: no other command needs that

                remark = words.remark(words.parse(shares, "--shares"))
            changes["shares"] = None if shares == DEFAULT else shares
    except ValueError as error:
        raise CliError(f"{error}.") from None
    if not changes:
        raise typer.BadParameter("expected --cache-size SIZE, --upstream-limit RATE or --shares TEXT, got none of them")
    region = client.connect(data or ctx.obj)
    document = region.patch(f"/racks/{client.quoted(rack or _only_rack(region))}", changes)
    output.done(document, json, " ".join(limit_sentences(document)))
    _warn(document)
    if remark:
        output.say(f"Warning: {remark}.")


@app.command("cache")
def show_cache(
    ctx: typer.Context,
    rack: Rack = None,
    forecast: Annotated[
        str | None,
        typer.Option("--forecast", metavar="IMAGE", help="What a storm of this image would fetch, and push out."),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """What a rack has in its cache, and how often it sufficed. ID may be left out when there is one rack."""
    region = client.connect(data or ctx.obj)
    if forecast is not None:
        path = f"/racks/{client.quoted(rack or _only_rack(region))}/forecast?image={client.quoted(forecast)}"
        document = region.get(path)
        if json:
            output.print_json(document)
        else:
            cache_view.print_forecast(document)
        return
    document = region.get(f"/racks/{client.quoted(rack or _only_rack(region))}/cache")
    if json:
        output.print_json(document)
        return
    cache_view.print_cache(document)


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


def rack_sentences(rack: dict[str, Any]) -> list[str]:
    name = rack["name"] or rack["id"]
    called = f"Rack {name}" + (f" ({rack['id']})" if name != rack["id"] else "")
    if rack["last_seen"] is None:
        return [f"{called}: has never been heard of.", *limit_sentences(rack)]
    words = (("HTTP", "http"), ("TFTP", "tftp"), ("HTTPS", "https"))
    serves = [f"{word} at {rack[key]}" for word, key in words if rack.get(key)]
    served = " and ".join([", ".join(serves[:-1]), serves[-1]] if serves[1:] else serves)
    return [
        f"{called}, last heard of at {rack['last_seen']}.",
        f"Serves {served or 'nothing'}; catalogue {rack['catalogue'] or 'none'}.",
        *limit_sentences(rack),
    ]


def limit_sentences(rack: dict[str, Any]) -> list[str]:
    """What bounds a rack: what is in force as it told last, and what is set for it where that is not the same yet."""
    force = rack["in_force"] or {}
    return [
        _limit("Cache limit", units.size, rack["limits"]["cache_bytes"], force.get("cache_bytes")),
        _limit("Upstream limit", units.rate, rack["limits"]["upstream_bytes_s"], force.get("upstream_bytes_s")),
        *_shares(rack["limits"].get("shares")),
    ]


def _shares(words: str | None) -> list[str]:
    return [] if words is None else [f"Shares: {words}, as set here."]


def _limit(what: str, words: Callable[[int | None], str], limit: int | None, force: int | None) -> str:
    if limit is None:
        told = "" if force is None else f": {words(force)}"
        return f"{what}{told}, by the rack's own command line."
    if force == limit:
        return f"{what}: {words(limit)}, as set here."
    told = "the rack has not told any yet" if force is None else f"in force is {words(force)} until its next beat"
    return f"{what}: set here to {words(limit)}; {told}."


def _warn(rack: dict[str, Any]) -> None:
    if rack["warning"]:
        output.say(f"Warning: {rack['warning']}.")


def print_racks(racks: Sequence[dict[str, Any]]) -> None:
    https = ("HTTPS",) if any(rack.get("https") for rack in racks) else ()
    columns = ("CATALOGUE", "CACHE", "UPSTREAM", "SET HERE", "FETCHED", "REFUSED", "LAST SEEN")
    output.print_table(
        ("RACK", "HTTP", "TFTP", *https, *columns),
        (
            (
                rack["name"] or rack["id"],
                rack["http"] or "-",
                rack["tftp"] or "-",
                *(rack.get("https") or "-" for _ in https),
                rack["catalogue"] or "-",
                *_cache(rack),
                rack["last_seen"] or "never",
            )
            for rack in racks
        ),
        right=("CATALOGUE", "CACHE", "UPSTREAM", "FETCHED", "REFUSED"),
        empty="No rack yet: `bootplane up` brings one; others join with a token of `bootplane rack-token new`.",
    )


def _cache(rack: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """How full, how fast it may fetch, the limits set here, how much came from the region, chunks refused for their
    digest."""
    cache, force, limits = rack["cache"] or {}, rack["in_force"], rack["limits"]
    both = (units.size(limits["cache_bytes"]), units.rate(limits["upstream_bytes_s"]))
    here = ", ".join(words for words in both if words != "-") or "-"
    upstream = units.rate(force["upstream_bytes_s"]) if force else "-"
    if "limit_bytes" not in cache:
        return "-", upstream, here, "-", "-"
    full = f"{figures.size(cache.get('charged_bytes', 0))} of {figures.size(cache['limit_bytes'])}"
    return full, upstream, here, figures.size(cache.get("filled_bytes")), str(cache.get("refused_chunks", "-"))
