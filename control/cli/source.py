"""``bootplane source``: the boot sources a region mirrors."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output, publish
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json

DEFAULT_URL = "http://images.maas.io/ephemeral-v3/stable/"
DEFAULT_KEYRING = Path("/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg")
CA_LIMIT_BYTES = 1 << 20
SHOWN = 3
KEYRING_LIMIT_BYTES = 4 << 20  # Canonical's has 4 KiB; a disk image given by mistake is not sent

app = typer.Typer(help="Boot sources: signed simplestreams mirrors.", no_args_is_help=True)
app.command("publish")(publish.publish)

Which = Annotated[str, typer.Argument(metavar="ID|NAME", help="The source, by id or name.", show_default=False)]


@app.command("add")
def add(
    url: Annotated[
        str, typer.Argument(help="Where streams/v1/index.sjson stands under: http, https or file.")
    ] = DEFAULT_URL,
    keyring: Annotated[
        Path | None,
        typer.Option(
            "--keyring",
            metavar="FILE",
            show_default=False,
            help=f"OpenPGP keyring, binary or armored; read here and sent. Without it: {DEFAULT_KEYRING}, for the "
            "default source only.",
        ),
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Accept a source without signatures. Nothing then proves its bytes.")
    ] = False,
    priority: Annotated[
        int | None, typer.Option(help="The higher one wins where two offer a product.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name to call it by.", show_default=False)] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            show_default=False,
            help="Certificates in PEM that vouch for its host, beside those the region's system trusts.",
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Add a boot source. The region fetches and verifies its index before it stores anything."""
    if unsigned and keyring is not None:
        raise CliError("--unsigned and --keyring contradict each other: give one of them.")
    body: dict[str, Any] = {"url": url, "keyring": None, "unsigned": unsigned}
    if not unsigned:
        body["keyring"] = base64.b64encode(read_keyring(url, keyring)).decode("ascii")
    if priority is not None:
        body["priority"] = priority
    if name is not None:
        body["name"] = name
    if ca is not None:
        body["ca"] = read_ca(ca)
    document = client.connect(data).post("/sources", body, client.SLOW_TIMEOUT_S)
    if json:
        output.print_json(document)
        return
    keys = ", ".join(document["fingerprints"]) or "none (unsigned)"
    typer.echo(
        output.clean(f"Added source {document['name']} ({document['id']}): {document['url']}, signed by {keys}.")
    )


@app.command("list")
def list_sources(data: Data = None, json: Json = False) -> None:
    """The sources, the highest priority first."""
    document = client.connect(data).items("/sources")
    if json:
        output.print_json(document)
        return
    output.print_table(
        ("ID", "NAME", "PRIORITY", "STATE", "UPDATED", "CHECKED", "URL"),
        (
            (s["id"], s["name"], s["priority"], _state(s), s["last_updated"] or "-", s["last_checked"] or "-", s["url"])
            for s in document["items"]
        ),
        right=("PRIORITY",),
        empty="No boot source yet: add one with `bootplane source add URL --keyring FILE`.",
    )
    for item in document["items"]:
        if item["error"]:
            output.say(f"{item['name']}: {item['error']}")
        for warning in item.get("warnings", ()):
            output.say(f"{item['name']}: {warning}")
        _say_passed_over(item)


def _say_passed_over(source: dict[str, Any]) -> None:
    """What it offers and another source has first, a few of it by name."""
    passed = source.get("passed_over", ())
    if not passed:
        return
    more = f"; and {len(passed) - SHOWN} more (--json lists them)" if len(passed) > SHOWN else ""
    output.say(
        f"{source['name']}: {figures.count(len(passed), 'image')} not taken from it, because a source of higher "
        f"priority has {'it' if len(passed) == 1 else 'them'}: {'; '.join(passed[:SHOWN])}{more}"
    )


@app.command("set")
def change(
    which: Which,
    url: Annotated[str | None, typer.Option(help="Where it stands under from now on.", show_default=False)] = None,
    keyring: Annotated[
        Path | None,
        typer.Option("--keyring", metavar="FILE", show_default=False, help="Who signs it from now on; read here."),
    ] = None,
    ca: Annotated[
        str | None,
        typer.Option("--ca", metavar="FILE", show_default=False, help="Certificates for its host, in PEM; `none`."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="The higher one wins where two offer a product.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name to call it by.", show_default=False)] = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Ask it in syncs or not; what came from it stays.", show_default=False),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Change a source; the next sync goes by it. A new URL, keyring or CA is tried first: a refusal changes nothing."""
    given = {"url": url, "priority": priority, "name": name, "enabled": enabled}
    changes: dict[str, Any] = {word: value for word, value in given.items() if value is not None}
    if keyring is not None:
        changes["keyring"] = base64.b64encode(read_keyring("", keyring)).decode("ascii")
    if ca is not None:
        changes["ca"] = None if ca == "none" else read_ca(Path(ca))
    if not changes:
        raise typer.BadParameter("expected something to change: --url, --keyring, --ca, --priority, --name, --disable")
    document = client.connect(data).patch(f"/sources/{client.quoted(which)}", changes, client.SLOW_TIMEOUT_S)
    said = f"priority {document['priority']}, {'enabled' if document['enabled'] else 'disabled'}"
    output.done(
        document, json, f"Source {document['name']} ({document['id']}): {document['url']}, {said}; see the next sync."
    )


@app.command("remove")
def remove(which: Which, data: Data = None, json: Json = False) -> None:
    """Forget a source. Images that came from it stay until their selections go."""
    document = client.connect(data).delete(f"/sources/{client.quoted(which)}")
    output.done(document, json, f"Removed source {which}.")


@app.command("check")
def check(
    which: Which,
    accept_older: Annotated[
        bool,
        typer.Option(
            "--accept-older", help="Take what it says now though it is older than what was accepted from it before."
        ),
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Fetch and verify the source's index now."""
    path = f"/sources/{client.quoted(which)}/check" + ("?accept_older=true" if accept_older else "")
    document = client.connect(data).post(path, None, client.SLOW_TIMEOUT_S)
    if json:
        output.print_json(document)
    elif not document["error"]:
        updated = f", updated {document['last_updated']}" if document["last_updated"] else ""
        typer.echo(output.clean(f"Source {document['name']} is good: {document['url']}{updated}."))
        for warning in document.get("warnings", ()):
            output.say(warning)
    if document["error"]:
        raise CliError(output.clean(f"Source {document['name']}: {document['error']}"))


def read_ca(path: Path) -> str:
    """Raises CliError when it is no text of a sensible size; what PEM is, the region says."""
    try:
        with path.open("rb") as file:
            content = file.read(CA_LIMIT_BYTES + 1)
    except OSError as error:
        raise CliError(f"CA {path} cannot be read: {error.strerror}.") from None
    if b"-----BEGIN CERTIFICATE-----" not in content or len(content) > CA_LIMIT_BYTES:
        raise CliError(f"CA {path}: expected certificates in PEM, at most {figures.size(CA_LIMIT_BYTES)}.")
    return content.decode("utf-8", "replace")


def _state(source: dict[str, Any]) -> Any:
    if source["error"]:
        return output.state("error")
    if not source["enabled"]:
        return output.state("disabled")
    return output.state("unsigned" if source["unsigned"] else "verified")


def read_keyring(url: str, keyring: Path | None) -> bytes:
    """The keyring's bytes. Raises CliError when it is missing, unreadable, empty or far too large to be one."""
    if keyring is None:
        if url.rstrip("/") != DEFAULT_URL.rstrip("/"):
            raise CliError(
                f"Which key signs {url}? Give its keyring with --keyring FILE, or --unsigned to take it without proof."
            )
        keyring = DEFAULT_KEYRING
        if not keyring.exists():
            raise CliError(
                f"{keyring} does not exist: install the package ubuntu-cloudimage-keyring, or copy that file from an "
                "Ubuntu machine and name it with --keyring FILE."
            )
    try:
        with keyring.open("rb") as file:
            content = file.read(KEYRING_LIMIT_BYTES + 1)
    except OSError as error:
        raise CliError(f"Keyring {keyring} cannot be read: {error.strerror}.") from None
    if not content:
        raise CliError(f"Keyring {keyring} is empty: expected OpenPGP keys, binary or armored.")
    if len(content) > KEYRING_LIMIT_BYTES:
        raise CliError(f"Keyring {keyring} is larger than {figures.size(KEYRING_LIMIT_BYTES)}: that is no keyring.")
    return content
