"""Names on the wire: their canonical form, and what kind it is. Input: the name."""

from __future__ import annotations

import os

from bootplane.core.table import kind, normalise
from tests.fuzz import reference

MAX_LEN = 600
WORDS = [
    b"/", b"\\", b"..", b".", b"grub/", b"grub.cfg", b"grub.cfg-", b"pxelinux.cfg/", b"ipxe.cfg", b".lst", b"MAAS",
    b"api", b"metrics", b"/grub/", b"01-52-54-00-12-34-56",
]  # fmt: skip


def check(data: bytes) -> None:
    got, expected = normalise(data), reference.name(data)
    canonical = None if got is None else os.fsencode(got)
    assert canonical == expected, f"expected {expected!r}, got {canonical!r}"
    if got is None or expected is None:
        return
    assert normalise(got) == got
    assert kind(got) == reference.kind(expected), f"{expected!r}: {kind(got)}"
