"""``bootplane sync``: starts, watches and stops the mirroring. What it looks like while it runs is ``sync_view``'s.

Watching is polling: a poll outlives a region that is killed and started again in mid-sync, and a stream does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.status import describe_limits, describe_sync
from bootplane.control.cli.sync_view import View, view_for
from bootplane.dataplane import units

POLL_S = 0.5
PATIENCE_S = 60.0  # how long a region may stay away (a restart) before watching gives up
HANDOVER_POLLS = 10  # how long the region may take from one sync to the next that was asked for meanwhile
ENDED = ("complete", "stopped", "failed", "idle")

app = typer.Typer(help="Make the store like its sources. Without a command: start a sync.", invoke_without_command=True)


@app.callback(invoke_without_command=True)
def sync(
    ctx: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until it ends; exit 1 unless it is complete.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    ctx.obj = data
    if ctx.invoked_subcommand is not None:
        return
    region = client.connect(data)
    before = region.get("/sync") if wait else {}
    document = region.post("/sync")
    if document.get("window") and not document["window_open"]:
        output.say(
            f"It is outside the sync window {document['window']}: this sync runs at once, because you ask for it."
        )
    if not wait:
        output.done(document, json, "The sync runs; watch it with `bootplane sync status --wait`.")
        return
    _watch(region, document, json, superseded=before["started"] if before["state"] not in ENDED else None)


@app.command("status")
def status(
    ctx: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until it ends; exit 1 unless it is complete.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """How far the sync is."""
    region = client.connect(data or ctx.obj)
    document = region.get("/sync")
    if wait and document["state"] != "idle":
        _watch(region, document, json)
        return
    if json:
        output.print_json(document)
        return
    typer.echo(output.clean(describe_sync(document)))
    if document.get("limit_bytes_s") or document.get("window"):
        typer.echo(output.clean(describe_limits(document)))
    output.print_table(
        ("FILE", "SIZE", "DONE", "RATE", "STATE"),
        (
            (
                f["path"],
                figures.size(f["size"]),
                figures.size(f["done"]),
                figures.rate(f["rate"]),
                output.state(f["state"]),
            )
            for f in document["files"]
        ),
        right=("SIZE", "DONE", "RATE"),
    )
    for file in document["files"]:
        if file["error"]:
            output.say(file["error"])


@app.command("set")
def set_limits(
    ctx: typer.Context,
    limit: Annotated[
        str | None,
        typer.Option("--limit", metavar="RATE", help="Of all downloads together, `250Mbit/s`; `none`."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window", metavar="HH:MM-HH:MM", help="When syncs run by themselves, in the region's local time; `none`."
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Set how fast and when syncs fetch; a running one follows at once."""
    changes: dict[str, Any] = {}
    if limit is not None:
        try:
            changes["limit_bytes_s"] = units.parse_rate(limit, "--limit") or None
        except ValueError as error:
            raise CliError(f"{error}.") from None
    if window is not None:
        changes["window"] = None if window == "none" else window
    if not changes:
        raise typer.BadParameter("expected --limit RATE or --window HH:MM-HH:MM, got none of them")
    document = client.connect(data or ctx.obj).patch("/sync", changes)
    output.done(document, json, describe_limits(document))


@app.command("stop")
def stop(ctx: typer.Context, data: Data = None, json: Json = False) -> None:
    """Stop the sync. What has arrived is kept; the next sync goes on from there."""
    document = client.connect(data or ctx.obj).post("/sync/stop")
    output.done(document, json, "The sync is told to stop; what has arrived is kept.")


def _watch(region: client.Client, document: dict[str, Any], json: bool, superseded: str | None = None) -> None:
    """Shows the sync until it ends. Raises CliError unless it ended complete, Exit(130) on Ctrl-C."""
    try:
        with view_for(quiet=json) as view:
            document = follow(region, document, view, time.sleep, time.monotonic, superseded)
    except KeyboardInterrupt:
        output.say(
            "No longer watching; the sync goes on. `bootplane sync status --wait` watches it again, "
            "`bootplane sync stop` ends it."
        )
        raise typer.Exit(130) from None
    if json:
        output.print_json(document)
    if document["state"] not in ("complete", "idle"):
        raise CliError(output.clean(f"The sync {describe_end(document)}"))
    if not json:
        typer.echo(output.clean(f"Sync {describe_sync(document)}."))


def describe_end(document: dict[str, Any]) -> str:
    reason = document.get("error")
    if document["state"] == "stopped":
        return f"was stopped: {reason}" if reason else "was stopped; `bootplane sync` goes on from what has arrived."
    return f"failed: {reason}" if reason else f"ended in state {document['state']}, expected complete."


def follow(
    region: client.Client,
    document: dict[str, Any],
    view: View,
    pause: Callable[[float], None],
    clock: Callable[[], float],
    superseded: str | None = None,
) -> dict[str, Any]:
    """Polls and shows until the sync has ended; returns its last state. Raises Unreachable after PATIENCE_S silent.

    *superseded* is the start time of a sync that ran already when another was asked for: it may have read its sources
    before that, the region begins another after it, and that one is the one to wait for.
    """
    silent_since: float | None = None
    handovers = HANDOVER_POLLS
    while True:
        if document["state"] in ENDED:
            handovers -= 1
            is_it = superseded is None or document["started"] != superseded
            if is_it or document["state"] == "stopped" or handovers < 0:
                break
        view.show(document)
        pause(POLL_S)
        try:
            document = region.get("/sync")
        except client.Unreachable as error:
            if silent_since is None:
                silent_since = clock()
                view.note(f"{error} Still watching.")
            elif clock() - silent_since > PATIENCE_S:
                raise
        else:
            if silent_since is not None:
                view.note("The region answers again.")
            silent_since = None
    view.show(document)
    return document
