"""``bootplane image``: what the region holds and under which names machines fetch it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json

app = typer.Typer(help="Images: what has been mirrored and can be booted.", no_args_is_help=True)


@app.command("list")
def list_images(data: Data = None, json: Json = False) -> None:
    """Every image, one a line."""
    document = client.connect(data).items("/images")
    if json:
        output.print_json(document)
        return
    output.print_table(
        ("NAME", "TITLE", "LABEL", "VERSION", "SIZE", "STATE"),
        (
            (i["name"], i["title"], _label(i), i["version"], figures.size(i["size"]), _state(i))
            for i in document["items"]
        ),
        right=("SIZE",),
        empty="No image yet: `bootplane select add OS RELEASE --arch A`, then `bootplane sync --wait`.",
    )


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `image list` prints it.", show_default=False)],
    packages: Annotated[bool, typer.Option("--packages", help="The packages in its root file system.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """An image's files: name, size, digest, and the names machines fetch them by."""
    region = client.connect(data)
    document = region.get(f"/images/{client.quoted(name, safe='/')}" + ("?packages=true" if packages else ""))
    if json:
        output.print_json(document)
        return
    if packages:
        _print_packages(document)
        return
    _print_image(document, region.items("/racks")["items"])


def _print_image(image: dict[str, Any], racks: list[dict[str, Any]]) -> None:
    output.print_table(
        ("", ""),
        (
            ("name", image["name"]),
            ("title", image["title"] or "-"),
            ("label", _label(image)),
            ("version", f"{image['version']} ({'complete' if image['complete'] else 'incomplete'})"),
            ("size", figures.size(image["size"])),
        ),
    )
    for file in image["files"]:
        typer.echo()
        typer.echo(output.clean(f"{file['name']} ({file['ftype']}), {file['size']} bytes, sha256 {file['sha256']}"))
        for wire in file["names"]:
            typer.echo(output.clean(f"  {wire}"))
    bases = [f"http://{rack['http']}/" for rack in racks if rack["http"]]
    bases += [f"tftp://{rack['tftp']}/" for rack in racks if rack["tftp"]]
    if bases:
        typer.echo()
        typer.echo(f"served under {', '.join(bases)}")


def _print_packages(image: dict[str, Any]) -> None:
    packages = image.get("packages")
    if not packages:
        raise CliError(output.clean(f"Image {image['name']} came without a package manifest."))
    output.print_table(("PACKAGE", "VERSION"), ((p["name"], p["version"]) for p in packages))


def _label(image: dict[str, Any]) -> str:
    """Candidates are said to be untested wherever they are shown: nobody upstream has booted them yet."""
    return "candidate (not tested)" if image["label"] == "candidate" else str(image["label"])


def _state(image: dict[str, Any]) -> Any:
    return output.state("complete" if image["complete"] else "incomplete")
