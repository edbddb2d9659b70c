"""Options that many commands share, declared once so that they read the same everywhere.

``BOOTPLANE_DATA`` is not typer's ``envvar``: the client has to know whether DIR was typed (then it wins over
``BOOTPLANE_URL``) or came from the environment (then it does not).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Data directory of the region. [env: BOOTPLANE_DATA]", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON and nothing else.", show_default=False)]
