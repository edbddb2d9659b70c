"""``bootplane status``: one page about a region."""

from __future__ import annotations

from typing import Any

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.options import Data, Json
from bootplane.dataplane import units


def status(data: Data = None, json: Json = False) -> None:
    """What the region holds, what it is doing, and what is wrong."""
    document = client.connect(data).get("/status")
    if json:
        output.print_json(document)
        return
    for banner in document["banners"]:
        _print_banner(banner)
    output.print_table(("", ""), _facts(document))
    if document["racks"]:
        from bootplane.control.cli.rack import print_racks

        print()
        print_racks(document["racks"])


def _print_banner(banner: dict[str, Any]) -> None:
    from rich.text import Text

    text = f"{banner['text']} [{banner['id']}]" if banner.get("id") else banner["text"]
    remedy = f" {banner['remedy']}" if banner.get("remedy") else ""
    since = f" (since {banner['since']})" if banner.get("since") else ""
    output.console().print(Text(output.clean(f"! {text}{since}{remedy}"), style="yellow"), soft_wrap=True)


def _facts(document: dict[str, Any]) -> list[tuple[str, Any]]:
    region, store, sync = document["region"], document["store"], document["sync"]
    return [
        ("region", f"{region['id']} at {region['listen']}, bulk {region['bulk']}, version {document['version']}"),
        ("started", region["started"]),
        (
            "store",
            f"{store['path']}: {figures.count(store['blobs'], 'file')}, {figures.size(store['bytes'])}, "
            f"{figures.size(store['free_bytes'])} free",
        ),
        ("hashed", describe_audit(store["audit"])),
        *_leftovers(store),
        ("catalogue", f"version {document['catalogue']['version']}, {document['catalogue']['names']} names"),
        ("sources", document["sources"]),
        ("selections", document["selections"]),
        ("images", document["images"]),
        ("sync", describe_sync(sync)),
    ]


def describe_audit(audit: dict[str, Any]) -> str:
    """One line about the re-hash of the store, shared with ``doctor``."""
    parts = [f"all since {audit['oldest']}" if audit["oldest"] else "not every file yet"]
    if audit["due"]:
        parts.append(f"{audit['due']} due")
    if audit["found"]:
        parts.append(f"{figures.count(audit['found'], 'found file')}, {figures.size(audit['found_bytes'])}, first")
    if audit["rotten"]:
        parts.append(f"{audit['rotten']} damaged since the start")
    return ", ".join(parts)


def describe_aside(aside: dict[str, Any]) -> str:
    """One line about what was put aside; "" when nothing was. Shared with ``doctor``."""
    if not aside["files"]:
        return ""
    until = f", the first until {aside['until']}" if aside["until"] else ", until you remove them"
    return f"{figures.count(aside['files'], 'file')}, {figures.size(aside['bytes'])} in {aside['path']}{until}"


def _leftovers(store: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    if store["marked_bytes"]:
        rows.append(("to go", f"{figures.size(store['marked_bytes'])} that nothing names any more"))
    if aside := describe_aside(store["aside"]):
        rows.append(("set aside", aside))
    return rows


def describe_limits(sync: dict[str, Any]) -> str:
    """One line about how fast and when syncs fetch."""
    limit = units.rate(sync["limit_bytes_s"] or 0)
    if not sync["window"]:
        return f"Limit of syncs: {limit}. They run at any time."
    now = "open now" if sync["window_open"] else "closed now; `bootplane sync` runs at once all the same"
    return f"Limit of syncs: {limit}. They run by themselves from {sync['window'].replace('-', ' to ')}, {now}."


def describe_sync(sync: dict[str, Any]) -> str:
    """One line about a sync, shared with ``sync status`` and the plain progress lines."""
    state = str(sync["state"])
    if state == "downloading":
        done, total = sync["bytes_done"], sync["bytes_total"]
        share = f" ({100 * done // total} %)" if total else ""
        return (
            f"downloading: {figures.size(done)} of {figures.size(total)}{share} at {figures.rate(sync['rate'])}, "
            f"{figures.duration(sync['eta_s'])} left"
        )
    if state == "paused":
        done, total = figures.size(sync["bytes_done"]), figures.size(sync["bytes_total"])
        return f"paused: {done} of {total} are here, the rest waits for the window {sync['window']}"
    if state in ("complete", "finishing"):
        when = f" at {sync['finished']}" if sync.get("finished") else ""
        if not sync["files"]:
            return f"{state}{when}: nothing new"
        return f"{state}{when}: {figures.size(sync['bytes_total'])} in {figures.count(len(sync['files']), 'file')}"
    if sync.get("error"):
        return f"{state}: {sync['error']}"
    return state
