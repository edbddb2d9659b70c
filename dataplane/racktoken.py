"""The rack token: one line that lets a rack speak to its region and pins the key it must hear.

    bpr1.<rack id>.<secret, hex>.<Ed25519 public key, hex>

Invariant: the secret is in no repr and no message. Left to others: making secrets, revoking racks (control).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_FORM = re.compile(r"bpr1\.(?P<rack>[A-Za-z0-9_-]{1,64})\.(?P<secret>[0-9a-f]{32,128})\.(?P<key>[0-9a-f]{64})\Z")


class TokenError(ValueError):
    """A rack token is missing or malformed."""


@dataclass(frozen=True, slots=True)
class RackToken:
    rack_id: str
    secret: str = field(repr=False)
    region_key: str

    def line(self) -> str:
        """The token as it is written to a file. A secret: never log it."""
        return f"bpr1.{self.rack_id}.{self.secret}.{self.region_key}"


def parse(line: str, where: str = "rack token") -> RackToken:
    found = _FORM.match(line.strip())
    if found is None:
        raise TokenError(f"{where}: expected one line bpr1.<rack id>.<secret>.<region key>, got something else")
    return RackToken(found["rack"], found["secret"], found["key"])


def read(path: Path) -> RackToken:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not plain text"
        raise TokenError(f"rack token file {path}: expected a readable file, got {reason}") from error
    return parse(text, f"rack token file {path}")
