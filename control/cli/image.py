"""``bootplane image``: what the region holds and under which names machines fetch it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.upload import upload

app = typer.Typer(help="Images: what has been mirrored or uploaded and can be booted.", no_args_is_help=True)
app.command("upload")(upload)


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
            (i["name"], _title(i), _label(i), i["version"], figures.size(i["size"]), _state(i))
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


@app.command("uploads")
def uploads(
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="ID", help="Forget this one, and what came.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Uploads that are not complete: how far they are, and when they expire."""
    region = client.connect(data)
    if cancel is not None:
        gone = region.delete(f"/uploads/{client.quoted(cancel)}")
        output.done(gone, json, f"The upload of {gone['image']} is forgotten, and what had arrived of it.")
        return
    document = region.items("/uploads")
    if json:
        output.print_json(document)
        return
    output.print_table(
        ("ID", "IMAGE", "SIZE", "DONE", "RATE", "LEFT", "EXPIRES", "STATE"),
        (
            (
                each["id"],
                each["image"],
                figures.size(each["size"]),
                figures.size(each["done"]),
                figures.rate(each["rate"]),
                figures.duration(each["eta_s"]),
                each["expires"],
                output.state(_upload_state(each)),
            )
            for each in document["items"]
        ),
        right=("SIZE", "DONE", "RATE", "LEFT"),
        empty="No upload is under way.",
    )
    for each in document["items"]:
        if each["error"]:
            output.say(each["error"])


def _upload_state(upload: dict[str, Any]) -> str:
    is_moving = any(file["state"] == "receiving" for file in upload["files"])
    return "waiting" if upload["state"] == "receiving" and not is_moving else str(upload["state"])


@app.command("delete")
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of an uploaded image.", show_default=False)],
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="A", help="Only the one for this arch.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Delete an uploaded image; its files go after the grace time. A synced one goes with its selection."""
    query = f"?arch={client.quoted(arch)}" if arch else ""
    document = client.connect(data).delete(f"/images/{client.quoted(name, safe='/')}{query}")
    names = ", ".join(each["name"] for each in document["items"])
    output.done(document, json, f"{names} is deleted; machines that fetch it already still get its files for a while.")


@app.command("diff")
def diff(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `image list` prints it.", show_default=False)],
    old: Annotated[str, typer.Argument(metavar="V1|NAME2", help="A version, or another image.", show_default=False)],
    new: Annotated[
        str | None, typer.Argument(metavar="[V2]", help="A version; else the newest.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Packages that differ between two versions of an image (NAME V1 [V2]), or between two images (NAME NAME2)."""
    are_images = "/" in old and new is None
    first = name if are_images else f"{name}@{old}"
    second = old if are_images else name if new is None else f"{name}@{new}"
    query = f"old={client.quoted(first)}&new={client.quoted(second)}"
    document = client.connect(data).get(f"/image-diff?{query}")
    if json:
        output.print_json(document)
        return
    output.print_table(
        ("", "PACKAGE", "OLD", "NEW"),
        sorted(
            [
                *(("added", p["name"], "-", p["version"]) for p in document["added"]),
                *(("removed", p["name"], p["version"], "-") for p in document["removed"]),
                *(("changed", p["name"], p["old"], p["new"]) for p in document["changed"]),
            ],
            key=lambda row: row[1],
        ),
    )
    counts = ", ".join(f"{len(document[word])} {word}" for word in ("added", "removed", "changed"))
    was, now = document["old"], document["new"]
    between = f"{was['name']} {was['version']} -> {now['name'] if now['name'] != was['name'] else ''} {now['version']}"
    output.say(f"{' '.join(between.split())}: {counts}, {document['same']} the same.")


def _print_image(image: dict[str, Any], racks: list[dict[str, Any]]) -> None:
    output.print_table(
        ("", ""),
        (
            ("name", image["name"]),
            ("title", image["title"] or "-"),
            ("label", _label(image)),
            *((("base image", image["base_image"]),) if image.get("base_image") else ()),
            ("version", f"{image['version']} ({'complete' if image['complete'] else 'incomplete'})"),
            ("size", figures.size(image["size"])),
            *((("machines get", image["served"]),) if _stands_in(image) else ()),
            *((("older", ", ".join(older)),) if (older := _older(image)) else ()),
            ("source", "uploaded" if image.get("rtype") == "uploaded" else image.get("source") or "-"),
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


def _title(image: dict[str, Any]) -> str:
    base = image.get("base_image")
    return f"{image['title']} (on {base})" if base else str(image["title"])


def _older(image: dict[str, Any]) -> list[str]:
    """Versions that are still here and can be compared with."""
    return [v["version"] for v in image.get("versions", ()) if v["complete"] and v["version"] != image["version"]]


def _label(image: dict[str, Any]) -> str:
    """Candidates are said to be untested wherever they are shown: nobody upstream has booted them yet."""
    return "candidate (not tested)" if image["label"] == "candidate" else str(image["label"])


def _stands_in(image: dict[str, Any]) -> bool:
    """Whether machines that begin get another version than the one that is shown, because this one lacks a file."""
    return not image["complete"] and image["served"] not in (None, image["version"])


def _state(image: dict[str, Any]) -> Any:
    return output.state("complete" if image["complete"] else "incomplete")
