"""``bootplane doctor``: what would keep bootplane from working here, and what to do about it.

Runs the checks of ``checks`` and, when a region answers, adds its banners. Exit 1 when any check fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bootplane.control.cli import checks, client, output
from bootplane.control.cli.checks import Finding
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json


def doctor(
    data: Data = None,
    listen: Annotated[str, typer.Option(metavar="H:P", help="Where the region's API will listen.")] = "127.0.0.1:5240",
    bulk: Annotated[str, typer.Option(metavar="H:P", help="Where the region's bulk files will be.")] = "127.0.0.1:5241",
    http: Annotated[str, typer.Option(metavar="H:P", help="Where the rack's HTTP will listen.")] = "127.0.0.1:5248",
    tftp: Annotated[str, typer.Option(metavar="H:P", help="Where the rack's TFTP will listen.")] = "127.0.0.1:69",
    json: Json = False,
) -> None:
    """Check what would keep bootplane from working here.

    Python, gpgv, keyring, limits, disk, ports; with a region on DIR, its banners too. Exit 1 when a check fails.
    """
    directory = data or Path(os.environ.get("BOOTPLANE_DATA") or Path.cwd())
    addresses = {
        name: address(name, text) for name, text in {"listen": listen, "bulk": bulk, "http": http, "tftp": tftp}.items()
    }
    findings = list(examine(directory, addresses))
    if json:
        output.print_json({"items": [finding._asdict() for finding in findings], "next": None})
    else:
        output.print_table(
            ("CHECK", "STATE", "FOUND", "REMEDY"),
            ((f.check, output.state(f.state), f.found, f.remedy) for f in findings),
        )
    failed = [finding.check for finding in findings if finding.state == "fail"]
    if failed:
        raise CliError(f"doctor: {len(failed)} of {len(findings)} checks failed: {', '.join(failed)}.")


def examine(directory: Path, addresses: dict[str, tuple[str, int]]) -> Iterator[Finding]:
    yield checks.check_python()
    yield checks.check_gpgv()
    yield checks.check_keyring()
    yield checks.check_demo_tools()
    yield checks.check_open_files()
    yield from checks.check_data(directory)
    own = _own_addresses(directory)
    for name in ("listen", "bulk", "http"):
        yield checks.check_port(name, addresses[name], own)
    yield checks.check_tftp(addresses["tftp"], own)
    if own:
        yield from _region(directory)


def _own_addresses(directory: Path) -> set[str]:
    """The addresses a bootplane on *directory* last wrote down; empty when it never ran."""
    try:
        return {value for value in client.read_run(directory).values() if isinstance(value, str)}
    except CliError:
        return set()


def _region(directory: Path) -> Iterator[Finding]:
    """What a region that should run on *directory* says of itself."""
    try:
        status = client.connect(directory).get("/status")
    except CliError as error:
        yield Finding("region", "warn", str(error))
        return
    yield Finding("region", "ok", f"{status['region']['id']} answers at {status['region']['listen']}")
    for banner in status["banners"]:
        yield Finding("region", "warn", str(banner["text"]), str(banner.get("remedy") or ""))


def address(name: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CliError(f"--{name}: expected HOST:PORT, got {text!r}.")
    return host.removeprefix("[").removesuffix("]"), int(port)
