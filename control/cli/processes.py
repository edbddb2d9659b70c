"""``bootplane up`` and ``bootplane region``: commands that become a server.

They hand the options on as typed, None where nothing was: ``control.config`` lays them over the environment and
bootplane.toml, and owns the defaults. The server is imported inside the command, never by another one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data

Listen = Annotated[
    str | None, typer.Option("--listen", metavar="H:P", help="REST API and web page. [default: 127.0.0.1:5240]")
]
Bulk = Annotated[str | None, typer.Option("--bulk", metavar="H:P", help="Files for racks. [default: 127.0.0.1:5241]")]
Http = Annotated[str | None, typer.Option("--http", metavar="H:P", help="HTTP for machines. [default: 127.0.0.1:5248]")]
Tftp = Annotated[
    str | None,
    typer.Option(
        "--tftp",
        metavar="H:P",
        help='TFTP for machines; 6969 without the right to 69; "" for none. [default: 127.0.0.1:69]',
    ),
]
Https = Annotated[
    str | None,
    typer.Option("--https", metavar="H:P", help="HTTPS for machines: docs/howto/https.md. [default: none]"),
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Its certificate, with the chain, in PEM.")
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="The key, in PEM; SIGHUP reads both again.")
]
CacheSize = Annotated[
    str | None, typer.Option("--cache-size", metavar="SIZE", help="Limit of the rack's cache. [default: 4GiB]")
]


def data_directory(data: Path | None) -> Path:
    """The directory a process works on. Raises CliError when none is named."""
    named = data or (Path(os.environ["BOOTPLANE_DATA"]) if os.environ.get("BOOTPLANE_DATA") else None)
    if named is None:
        raise CliError("No data directory is named: give --data DIR or set BOOTPLANE_DATA; it is created when missing.")
    return named


def up(
    data: Data = None,
    listen: Listen = None,
    bulk: Bulk = None,
    http: Http = None,
    tftp: Tftp = None,
    https: Https = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    cache_size: CacheSize = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share/--no-share", help="The rack reads the region's files in place / fills a cache of its own."
        ),
    ] = True,
) -> None:
    """Run a region and a rack on this host, on one data directory."""
    from bootplane.control.supervisor import UpOptions, run_up

    options = UpOptions(
        data=data_directory(data),
        listen=listen,
        bulk=bulk,
        http=http,
        tftp=tftp,
        https=https,
        tls_cert=tls_cert,
        tls_key=tls_key,
        cache_size=cache_size,
        share=share,
    )
    raise typer.Exit(run_up(options))


def region(
    data: Data = None,
    listen: Listen = None,
    bulk: Bulk = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="postgresql://... for several regions. [default: SQLite in DIR]"
        ),
    ] = None,
) -> None:
    """Run a region alone; its racks run elsewhere."""
    from bootplane.control.region import main as run_region

    raise typer.Exit(run_region(data=data_directory(data), listen=listen, bulk=bulk, database=database))
