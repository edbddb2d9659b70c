"""``bootplane web``: a way into the web page without copying the admin token."""

from __future__ import annotations

import typer

from bootplane.control.cli import client, output
from bootplane.control.cli.options import Data, Json


def web(data: Data = None, json: Json = False) -> None:
    """Print a link that opens the web page. It works once, within 60 seconds."""
    region = client.connect(data)
    document = region.post("/login-links")
    if json:
        output.print_json(document)
        return
    typer.echo(output.clean(f"{region.endpoint.url}{document['path']}"))
