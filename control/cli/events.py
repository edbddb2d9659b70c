"""``bootplane events``: what happens, as it happens."""

from __future__ import annotations

import json as json_module
from typing import Any

import typer

from bootplane.control.cli import client, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.status import describe_sync


def events(data: Data = None, json: Json = False) -> None:
    """Follow the region's events until Ctrl-C. With --json: one object {"event", "data"} a line."""
    region = client.connect(data)
    try:
        for event in region.events():
            if json:
                line = json_module.dumps({"event": event.name, "data": event.data}, ensure_ascii=False)
            else:
                line = output.clean(f"{event.name:8} {_describe(event)}")
            typer.echo(line)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise CliError(f"{region.endpoint.url} ended the event stream: the region stopped or restarts.")


def _describe(event: client.Event) -> str:
    data: Any = event.data
    if event.name == "sync" and isinstance(data, dict) and "bytes_done" in data:
        return describe_sync(data)
    if event.name == "banner" and isinstance(data, dict) and data.get("id"):
        return f"{data['id']}: {data['text']} {data['remedy']}" if data["stands"] else f"{data['id']}: ended"
    return json_module.dumps(data, ensure_ascii=False) if isinstance(data, (dict, list)) else str(data)
