"""Banners: docs/reference/banners.md has every identifier there is in code, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from bootplane.control.banners import KINDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reference" / "banners.md").read_text(encoding="utf-8")


def documented() -> set[str]:
    return {name.removesuffix("-ID") for name in re.findall(r"^\| `([a-z-]+(?:-ID)?)` \|", TEXT, re.MULTILINE)}


def raised_by_name() -> set[str]:
    """What is raised in code without a Kind: the first argument of BannerRepository.raise_, a text or a constant."""
    found = set()
    for path in (ROOT / "control").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {}
        for node in tree.body:
            if isinstance(node, ast.Assign):
                (target,), value = node.targets, node.value
                pairs = (
                    zip(target.elts, value.elts, strict=True)
                    if isinstance(value, ast.Tuple) and isinstance(target, ast.Tuple)
                    else [(target, value)]
                )
                for name, text in pairs:
                    if isinstance(name, ast.Name) and isinstance(text, ast.Constant):
                        constants[name.id] = text.value
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "raise_":
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
                elif isinstance(first, ast.Name) and first.id in constants:
                    found.add(str(constants[first.id]))
                elif isinstance(first, ast.JoinedStr) and isinstance(first.values[0], ast.Constant):
                    found.add(str(first.values[0].value).rstrip("-"))
                else:
                    assert path.name == "banners.py", f"{path}:{node.lineno}: raise a banner through banners.Board"
    return found


def test_the_manual_lists_exactly_the_banners_there_are() -> None:
    assert documented() == {kind.id for kind in KINDS} | raised_by_name()


def test_no_identifier_is_the_beginning_of_another_with_a_subject() -> None:
    """``sync-3`` would be both a sync's and sync-engine's."""
    with_subject = {name.removesuffix("-ID") for name in re.findall(r"`([a-z-]+-ID)`", TEXT)}
    for kind in KINDS:
        assert not any(kind.id != other and kind.id.startswith(f"{other}-") for other in with_subject)


def test_every_kind_says_what_to_do() -> None:
    assert all(kind.remedy.endswith(".") and len(kind.id) < 48 for kind in KINDS)
