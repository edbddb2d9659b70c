"""What a store puts aside: files that are not, or no longer, what it holds, kept for a while where they do no harm.

    .aside/until-20261123T133500Z/<name>    removed after that time
    .aside/keep-20261122T133500Z/<name>     put there at that time; only a person removes it

Invariants: putting aside is a rename within one file system, so that it costs no room and nothing is half moved; a file
keeps its name, and two of one name get a number; how long it is kept stands in the folder's name and nowhere else, so
that it holds whatever becomes of the database. Folders of other names are nobody's and are left alone.
"""

from __future__ import annotations

import calendar
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bootplane.dataplane.durable import sync_directory

_FOLDER = re.compile(r"(until|keep)-(\d{8}T\d{6}Z)\Z")
_STAMP = "%Y%m%dT%H%M%SZ"

log = logging.getLogger("bootplane.store")


class Kept(NamedTuple):
    """One file that was put aside. *until*: Unix seconds; None: until a person removes it."""

    path: Path
    bytes: int
    until: float | None

    @property
    def term(self) -> str:
        """How long it is kept, as a line of the log says it."""
        if self.until is None:
            return "until you remove it"
        return f"until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(self.until))}"


class Aside:
    """The folder *directory*, which is made when the first file comes. Any thread; one process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, path: Path, keep_s: float | None) -> Kept:
        """Takes the file at *path* here for *keep_s* seconds; None: until a person removes it. Raises OSError, with the
        file where it was."""
        now = time.time()
        until = None if keep_s is None else float(int(now + keep_s))
        word = "keep" if until is None else "until"
        folder = self.directory / f"{word}-{time.strftime(_STAMP, time.gmtime(now if until is None else until))}"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / path.name
        number = 1
        while target.exists():
            number += 1
            target = folder / f"{path.name[:240]}.{number}"
        path.rename(target)
        for each in (folder, self.directory, path.parent):
            sync_directory(each)
        return Kept(target, target.stat(follow_symlinks=False).st_size, until)

    def kept(self) -> list[Kept]:
        """Everything that is here, the first to go first."""
        found = []
        for folder, until in self._folders():
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                for entry in os.scandir(folder):
                    if entry.is_file(follow_symlinks=False):
                        found.append(Kept(Path(entry.path), entry.stat(follow_symlinks=False).st_size, until))
        return sorted(found, key=lambda each: (each.until is None, each.until or 0.0, each.path))

    def prune(self) -> list[Kept]:
        """Removes what has been here for long enough; says what."""
        now = time.time()
        gone = [each for each in self.kept() if each.until is not None and each.until <= now]
        for each in gone:
            each.path.unlink(missing_ok=True)
        for folder, until in self._folders():
            if until is not None and until <= now:
                try:
                    folder.rmdir()
                except OSError as error:
                    log.warning("%s: cannot be removed: %s", folder, error.strerror)
        return gone

    def _folders(self) -> Iterator[tuple[Path, float | None]]:
        try:
            entries = sorted(os.scandir(self.directory), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            named = _FOLDER.match(entry.name)
            if named and entry.is_dir(follow_symlinks=False):
                until = float(_seconds(named[2])) if named[1] == "until" else None
                yield Path(entry.path), until


def _seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, _STAMP))
