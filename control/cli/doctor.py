"""``bootplane doctor``: what would keep bootplane from working here, and what to do about it.

Runs the checks of ``checks`` and, when a region answers, adds its banners. Exit 1 when any check fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootplane.control.cli import checks, client, output
from bootplane.control.cli.checks import Finding
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.processes import Bulk, Http, Https, Listen, Tftp, TlsCert, TlsKey
from bootplane.control.cli.status import describe_aside, describe_audit

if TYPE_CHECKING:
    from bootplane.control.config import Settings  # pydantic: no other command needs it

# option -> its name in run.json, and where it listens when nothing says otherwise; None: nowhere
PLACES: dict[str, tuple[str, str | None]] = {
    "listen": ("region", "127.0.0.1:5240"),
    "bulk": ("bulk", "127.0.0.1:5241"),
    "http": ("http", "127.0.0.1:5248"),
    "tftp": ("tftp", "127.0.0.1:69"),
    "https": ("https", None),
}


def doctor(
    data: Data = None,
    listen: Listen = None,
    bulk: Bulk = None,
    http: Http = None,
    tftp: Tftp = None,
    https: Https = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Json = False,
) -> None:
    """Check what would keep bootplane from working here.

    Python, gpgv, keyring, limits, disk, ports, certificate; with a region on DIR, its banners too. What is not given
    is where `bootplane up` on DIR would have it from. Exit 1 when a check fails.
    """
    directory = data or Path(os.environ.get("BOOTPLANE_DATA") or Path.cwd())
    running = _run(directory)
    given = {"listen": listen, "bulk": bulk, "http": http, "tftp": tftp, "https": https}
    for name, text in given.items():
        if text:
            address(name, text)
    settings, wrong = _settings(directory, given | {"tls_cert": tls_cert, "tls_key": tls_key})
    places = {
        name: _first(given[name], running.get(key), getattr(settings, name, default))
        for name, (key, default) in PLACES.items()
    }
    addresses = {name: address(name, str(text)) for name, text in places.items() if text}
    findings = [*wrong, *examine(directory, addresses, running)]
    if "https" in addresses or tls_cert or tls_key:
        served = addresses.get("https") if "https" in running else None
        certificate, key = (
            given_file or running.get(name) or getattr(settings, name, None)
            for name, given_file in (("tls_cert", tls_cert), ("tls_key", tls_key))
        )
        findings.append(checks.check_certificate(certificate and Path(certificate), key and Path(key), served))
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


def examine(directory: Path, addresses: dict[str, tuple[str, int]], running: dict[str, Any]) -> Iterator[Finding]:
    yield checks.check_python()
    yield checks.check_gpgv()
    yield checks.check_keyring()
    yield checks.check_demo_tools()
    yield checks.check_open_files()
    yield from checks.check_data(directory)
    own = {value for value in running.values() if isinstance(value, str)}
    for name in ("listen", "bulk", "http", "https"):
        if name in addresses:
            yield checks.check_port(name, addresses[name], own)
    if "tftp" in addresses:
        yield checks.check_tftp(addresses["tftp"], own)
    if own:
        yield from _region(directory)


def _first(*texts: str | None) -> str | None:
    """The first that says something; "" says that there is none."""
    return next((text for text in texts if text is not None), None)


def _settings(directory: Path, given: dict[str, Any]) -> tuple[Settings | None, list[Finding]]:
    """What ``bootplane up`` on *directory* would go by: options, environment, bootplane.toml, defaults."""
    from bootplane.control import config
    from bootplane.control.errors import StartError

    try:
        return config.load(directory, **given), []
    except StartError as error:
        return None, [Finding("settings", "fail", str(error), "`bootplane up` would not start with it")]


def _run(directory: Path) -> dict[str, Any]:
    """Where a bootplane on *directory* listens; empty when none runs there."""
    try:
        return client.read_run(directory)
    except CliError:
        return {}


def _region(directory: Path) -> Iterator[Finding]:
    """What a region that should run on *directory* says of itself."""
    try:
        status = client.connect(directory).get("/status")
    except CliError as error:
        yield Finding("region", "warn", str(error))
        return
    yield Finding("region", "ok", f"{status['region']['id']} answers at {status['region']['listen']}")
    store = status["store"]
    yield Finding("store", "warn" if store["audit"]["rotten"] else "ok", f"hashed: {describe_audit(store['audit'])}")
    if aside := describe_aside(store["aside"]):
        yield Finding("store", "warn", f"set aside: {aside}", "look through them; those without a time stay until then")
    for banner in status["banners"]:
        yield Finding("region", "warn", str(banner["text"]), str(banner.get("remedy") or ""))


def address(name: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CliError(f"--{name}: expected HOST:PORT, got {text!r}.")
    return host.removeprefix("[").removesuffix("]"), int(port)
