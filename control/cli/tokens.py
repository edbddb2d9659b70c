"""``bootplane rack-token``: the secret that lets a new rack join."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bootplane.control.cli import client, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json

app = typer.Typer(help="Tokens with which racks join.", no_args_is_help=True)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="A name for the rack.", show_default=False)] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the token there (0600) and not to stdout.", show_default=False
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a rack's token. It is shown once: `bootplane rack --token-file FILE` wants it in a file."""
    region = client.connect(data)
    if out is not None and out.exists():
        raise CliError(f"{out} exists already and is left as it is: name a new file.")
    document = region.post("/rack-tokens", {"name": name})
    if out is not None:
        _write_secret(out, document["token"] + "\n")
        document = {key: value for key, value in document.items() if key != "token"}
        output.done(document, json, f"Wrote the token of rack {document['id']} to {out}.")
        return
    if json:
        output.print_json(document)
        return
    typer.echo(document["token"])
    output.say(f"Token of rack {document['id']}: shown this once. Keep it in a file of mode 0600.")


def _write_secret(path: Path, text: str) -> None:
    """Creates *path* with mode 0600 from the first moment on, so that nobody reads it in between."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise CliError(
            f"{path} cannot be written: {error.strerror}; the token just made is lost, make another."
        ) from None
