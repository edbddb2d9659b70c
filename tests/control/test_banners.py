"""Banners: docs/reference/banners.md has every identifier there is in code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from bootplane.control.banners import KINDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reference" / "banners.md").read_text(encoding="utf-8")


def documented() -> set[str]:
    return {name.removesuffix("-ID") for name in re.findall(r"^\| `([a-z-]+(?:-ID)?)` \|", TEXT, re.MULTILINE)}


def test_the_manual_lists_exactly_the_banners_there_are() -> None:
    assert documented() == {kind.id for kind in KINDS}


def test_nobody_raises_a_banner_but_the_board() -> None:
    calls = [path.name for path in (ROOT / "control").rglob("*.py") if ".raise_(" in path.read_text(encoding="utf-8")]
    assert calls == ["banners.py"]


def test_no_identifier_is_the_beginning_of_another_with_a_subject() -> None:
    """``sync-3`` would be both a sync's and sync-engine's."""
    with_subject = {name.removesuffix("-ID") for name in re.findall(r"`([a-z-]+-ID)`", TEXT)}
    for kind in KINDS:
        assert not any(kind.id != other and kind.id.startswith(f"{other}-") for other in with_subject)


def test_every_kind_says_what_to_do() -> None:
    assert all(kind.remedy.endswith(".") and len(kind.id) < 48 for kind in KINDS)
