"""Packages of a root file system, as its manifest lists them, and what differs between two such lists. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any


def parse(text: str) -> list[dict[str, str]]:
    """One package a line: its name and its version; a snap's channel and revision are its version."""
    words = [line.split() for line in text.splitlines() if line.strip()]
    return [{"name": line[0], "version": " ".join(line[1:])} for line in words]


def difference(old: Iterable[dict[str, str]], new: Iterable[dict[str, str]]) -> dict[str, Any]:
    """``{"added", "removed", "changed", "same"}``: packages by name; a name with several versions at a time (kernels of
    a snap's revisions) is compared as the set of them. *same* is a count."""
    before, after = _versions(old), _versions(new)
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return {
        "added": [{"name": name, "version": after[name]} for name in sorted(after.keys() - before.keys())],
        "removed": [{"name": name, "version": before[name]} for name in sorted(before.keys() - after.keys())],
        "changed": [{"name": name, "old": before[name], "new": after[name]} for name in changed],
        "same": len(before.keys() & after.keys()) - len(changed),
    }


def _versions(packages: Iterable[dict[str, str]]) -> dict[str, str]:
    found: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        found[package["name"]].add(package["version"])
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}
