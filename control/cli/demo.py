"""``bootplane demo``: hands its options to ``control.demo``, which is the whole path on this one machine."""

from __future__ import annotations

from typing import Annotated

import typer

from bootplane.control.cli.options import Data, Json


def demo(
    machines: Annotated[int, typer.Option("--machines", metavar="N", min=1, help="Simulated machines that boot.")] = 64,
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving afterwards, until Ctrl-C.")] = False,
    corrupt: Annotated[
        bool, typer.Option("--corrupt", help="Damage a file in the region and show who refuses it.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """The whole path on this host, with simulated machines.

    A signed boot source, a region, a rack and 64 machines that boot at once: loopback only, without root.
    """
    from bootplane.control.demo.main import run

    raise typer.Exit(run(machines=machines, keep=keep, corrupt=corrupt, data=data, json=json))
