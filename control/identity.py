"""Who a region is: the key it signs catalogues with, and the name people meet it by."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from bootplane.control import datadir
from bootplane.control.errors import StartError
from bootplane.dataplane.catalogue import SigningKey


def signing_key(directory: Path) -> SigningKey:
    """The key below the data directory, made when there is none. Raises StartError when it is no key."""
    path = directory / datadir.REGION_KEY
    text = datadir.secret(path, lambda: SigningKey.generate().secret_bytes().hex())
    try:
        return SigningKey(bytes.fromhex(text))
    except ValueError:
        raise StartError(f"{path}: expected 64 hex digits, the region's Ed25519 key; got something else") from None


def new_region_id() -> str:
    """Names the host, for people at a machine's console, and is unique."""
    host = re.sub(r"[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower())[:24].strip("-") or "region"
    return f"{host}-{os.urandom(3).hex()}"
