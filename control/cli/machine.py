"""``bootplane machine``: which machines racks have seen, and what each of them did."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from bootplane.control.cli import boot_view, client, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json

PAGE = 500
COLUMNS = ("TIME", "+S", "VIA", "BY", "FILE", "WHAT", "OUTCOME")
STYLES = {"complete": "green", "boots": "green", "next": "green", "probe": "dim"}
BAD = ("refused", "aborted", "timeout", "cut", "nothing")

app = typer.Typer(help="Machines: what racks have seen of them.", no_args_is_help=True)


@app.command("list")
def list_machines(data: Data = None, json: Json = False) -> None:
    """Machines that racks have seen, the last one first."""
    document = client.connect(data).items("/machines")
    if json:
        output.print_json(document)
        return
    output.print_table(
        ("MACHINE", "ADDRESS", "RACK", "SEEN", "LAST"),
        (
            (m["id"], m["address"], m["rack"], m["seen"], ", ".join(filter(None, (m["kind"], m["name"], m["outcome"]))))
            for m in document["items"]
        ),
        empty="No machine yet: none has asked a rack of this region for anything.",
    )


@app.command("timeline")
def timeline(
    machine: Annotated[
        str, typer.Argument(metavar="ID", help="Its MAC in any notation, or its IP address.", show_default=False)
    ],
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="T", help="From here on: 90s, 10m, 2h, 1d, or a time.", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what happens, until Ctrl-C.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """What a machine did, in order: every file it fetched and what came of it. Without --since: the last 500 events.

    With --follow --json: one event a line.
    """
    region = client.connect(data)
    if follow:
        _follow(region, machine, since, json)
        return
    document = _read(region, machine, since)
    if json:
        output.print_json(document)
        return
    _print(document)
    if document["next"] is not None:
        output.say(f"These are the last {PAGE} events; --since 1d shows all of a day.")


def _read(region: client.Client, machine: str, since: str | None) -> dict[str, Any]:
    """The last page, or with *since* all of them."""
    path = f"/machines/{client.quoted(machine)}/timeline?limit={PAGE}"
    if since is not None:
        path += f"&since={client.quoted(since)}"
    document: dict[str, Any] = region.get(path)
    while since is not None and document["next"] is not None:
        older = region.get(f"{path}&after={client.quoted(document['next'])}")
        document["events"] = older["events"] + document["events"]
        document["next"] = older["next"]
    return document


def _print(document: dict[str, Any]) -> None:
    found = boot_view.boots(document["events"])
    for boot in found:
        _print_boot(boot)
    if found:
        typer.echo(output.clean(boot_view.standing(found[-1], boot_view.seconds(document["now"]))))
    else:
        seen = document["machine"]["seen"]
        typer.echo(output.clean(f"Nothing in that time; the last event of {document['machine']['id']} was at {seen}."))


def _print_boot(boot: Sequence[boot_view.Event]) -> None:
    from rich.text import Text

    began = boot_view.seconds(boot[0]["at"])
    output.console().print(Text(output.clean(boot_view.heading(boot)), style="bold"), soft_wrap=True)
    rows = (boot_view.cells(event, began) for event in boot)
    output.print_table(COLUMNS, ((*row[:-1], _outcome(row[-1])) for row in rows), right=("+S",))
    typer.echo()


def _outcome(word: str) -> Any:
    from rich.text import Text

    return Text(output.clean(word), style="red" if word in BAD else STYLES.get(word, ""))


def _follow(region: client.Client, machine: str, since: str | None, json: bool) -> None:
    """The stream says when to look, and what was not shown yet is news: an older event may get its MAC late."""
    names: set[str] | None = None  # what the stream calls it; None until something is known of it
    shown: set[int] = set()
    is_first = True  # the stream opens with an event of its own: from there on nothing is missed
    try:
        for news in region.events():
            if not is_first and not _concerns(news, names):
                continue
            try:
                document = _read(region, machine, since)
            except client.Problem as problem:
                if problem.status != 404:
                    raise
                if is_first:
                    output.say(f"Nothing is known of {machine} yet; waiting for it.")
                is_first = False
                continue
            is_first = False
            names = {value for value in (document["machine"]["mac"], document["machine"]["address"]) if value}
            for boot in boot_view.boots(document["events"]):
                _print_news(boot, shown, json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise CliError(f"{region.endpoint.url} ended the event stream: the region stopped or restarts.")


def _concerns(news: client.Event, names: set[str] | None) -> bool:
    if news.name != "machines":
        return False
    ids = news.data.get("ids") if isinstance(news.data, dict) else None
    return ids is None or names is None or not names.isdisjoint(ids)


def _print_news(boot: Sequence[boot_view.Event], shown: set[int], json: bool) -> None:
    began = boot_view.seconds(boot[0]["at"])
    if not json and shown.isdisjoint(event["id"] for event in boot):
        typer.echo(output.clean(boot_view.heading(boot)))
    for event in boot:
        if event["id"] in shown:
            continue
        shown.add(event["id"])
        if json:
            typer.echo(json_module.dumps(event, ensure_ascii=False))
        else:
            time, after, via, by, name, what, outcome = boot_view.cells(event, began)
            typer.echo(output.clean(f"{time}  {after:>8}  {via:8}  {by:8}  {name}  {what}  {outcome}").rstrip())
