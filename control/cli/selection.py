"""``bootplane select``: which images a region shall hold."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bootplane.control.cli import client, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json

app = typer.Typer(help="Selections: what the region mirrors of its sources.", no_args_is_help=True)


@app.command("add")
def add(
    os: Annotated[str, typer.Argument(metavar="OS", help="ubuntu, centos, ...", show_default=False)],
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="noble, 24.04, 9, ... or *", show_default=False)],
    arch: Annotated[
        list[str], typer.Option("--arch", metavar="A[,A]", help="amd64, arm64, ... or *", show_default=False)
    ],
    subarch: Annotated[
        list[str] | None,
        typer.Option("--subarch", metavar="S[,S]", help="ga-24.04, generic, ... [default: *]", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="L[,L]", help="stable, candidate [default: *]", show_default=False),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Select a release. `bootplane sync` then fetches it."""
    body: dict[str, Any] = {"os": os, "release": release, "arches": split(arch)}
    if not body["arches"]:
        raise CliError("--arch is empty: expected an architecture such as amd64.")
    body["subarches"] = split(subarch or []) or ["*"]
    body["labels"] = split(label or []) or ["*"]
    document = client.connect(data).post("/selections", body)
    output.done(
        document,
        json,
        f"Selected {os}/{release} for {', '.join(body['arches'])}; fetch it with `bootplane sync --wait`.",
    )


@app.command("list")
def list_selections(data: Data = None, json: Json = False) -> None:
    """What is selected."""
    document = client.connect(data).items("/selections")
    if json:
        output.print_json(document)
        return
    output.print_table(
        ("ID", "OS", "RELEASE", "ARCHES", "SUBARCHES", "LABELS"),
        (
            (s["id"], s["os"], s["release"], *(",".join(s[key]) for key in ("arches", "subarches", "labels")))
            for s in document["items"]
        ),
        empty="Nothing is selected yet: `bootplane select add ubuntu noble --arch amd64`.",
    )


@app.command("remove")
def remove(
    which: Annotated[
        str, typer.Argument(metavar="ID", help="The selection's id, of `select list`.", show_default=False)
    ],
    data: Data = None,
    json: Json = False,
) -> None:
    """Select it no more. The next sync drops what nothing else selects."""
    document = client.connect(data).delete(f"/selections/{client.quoted(which)}")
    output.done(document, json, f"Removed selection {which}.")


def split(values: list[str]) -> list[str]:
    """``["a,b", "c"]`` -> ``["a", "b", "c"]``, in order, each once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))
