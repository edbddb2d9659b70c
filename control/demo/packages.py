"""Files out of Debian's packages, without installing them: apt fetches (and checks signatures), dpkg-deb unpacks.

Neither needs root. Where the machine's own package lists are empty, lists of our own are fetched into the cache.
Invariant: nothing outside the given folders is written. Left to others: which packages, and what of them is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path


class ContentUnavailable(Exception):
    """Real files cannot be had here; the message says why."""


def run(argv: list[str], cwd: Path | None = None) -> str:
    """Runs a tool to its end and returns what it wrote. Raises ContentUnavailable with its last line."""
    # SOURCE_DATE_EPOCH and mksquashfs's own time options exclude one another.
    env = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    try:
        result = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=600, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContentUnavailable(f"{argv[0]}: {error}") from error
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise ContentUnavailable(f"{' '.join(argv[:2])} ended with {result.returncode}: {last}")
    return result.stdout


def check_space(cache: Path, needed_bytes: int) -> None:
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ContentUnavailable(f"{tool} is not on this machine")
    free = shutil.disk_usage(cache).free
    if free < needed_bytes:
        raise ContentUnavailable(f"{cache}: expected {needed_bytes} free bytes, got {free}")


def apt_options(cache: Path, package: str, say: Callable[[str], None]) -> list[str]:
    """Options with which apt knows *package*: the machine's own lists or, when those are empty, ours."""
    if _knows(package, []):
        return []
    state = cache / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = [
        "-o", f"Dir::State={state}",
        "-o", f"Dir::State::lists={state}/lists",
        "-o", "Dir::State::status=/var/lib/dpkg/status",
        "-o", f"Dir::Cache={state}/cache",
        "-o", "APT::Sandbox::User=",
    ]  # fmt: skip
    say("fetching the package lists")
    run(["apt-get", *options, "update"])
    if not _knows(package, options):
        raise ContentUnavailable(f"apt knows no package {package}")
    return options


def _knows(package: str, options: list[str]) -> bool:
    try:
        return "Filename:" in run(["apt-cache", *options, "show", "--no-all-versions", package])
    except ContentUnavailable:
        return False


def kernel_package(meta: str, options: list[str]) -> str:
    """The kernel that *meta* (linux-image-amd64) depends on: its name changes with every update."""
    for line in run(["apt-cache", *options, "depends", meta]).splitlines():
        relation, _, name = line.strip().partition(" ")
        if relation == "Depends:" and name.startswith("linux-image-"):
            return name.strip()
    raise ContentUnavailable(f"{meta} depends on no linux-image package")


def download(folder: Path, packages: Iterable[str], options: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    run(["apt-get", *options, "-o", "APT::Sandbox::User=", "download", *packages], cwd=folder)
    return sorted(folder.glob("*.deb"))


def unpack(deb: Path, tree: Path) -> None:
    tree.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "-x", str(deb), str(tree)])
