"""Every name machines fetch as a file in a folder, for TFTP and HTTP servers that are not ours.

    FOLDER/boot-resources/current            -> the newest snapshot, switched by one rename
    FOLDER/boot-resources/snapshot-<version>-<8 hex>/<wire name>
    FOLDER/boot-resources/.snapshot-....json    its names and digests: what the next one need not copy again

The names are those of the catalogue (control.catalogue): by content (``images/<16 hex>/...``), by meaning
(``ubuntu/amd64/...``), boot loaders under the bare names that firmware asks for, ``bootloader/``, ``syslinux/``,
``bios/``. Boot configuration (``grub.cfg-<mac>``, ``pxelinux.cfg/``) is made for each machine when it asks: it is not
here.

Invariants: a server that serves ``current`` sees one whole snapshot or the next; the one before stays until the export
after the next, for transfers under way; every file of a snapshot has been hashed before ``current`` leads to it.
Nothing is removed but snapshots of ours. Left to others: bytes (placing).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootplane.control import datadir, placing
from bootplane.control.catalogue import Contents, contents, digest_of
from bootplane.control.holdings import READS, Holdings
from bootplane.control.placing import How, PlaceError, Vanished
from bootplane.control.storage.settings import CATALOGUE_VERSION, SettingsRepository
from bootplane.dataplane.store import Store

TREE, CURRENT, LOCK = "boot-resources", "current", ".lock"
_SNAPSHOT = re.compile(r"snapshot-\d+-[0-9a-f]{8}\Z")
_MEMORY = re.compile(r"\.(snapshot-\d+-[0-9a-f]{8})\.json\Z")
_HALF = re.compile(r"\.(current-\d+|\.snapshot-\d+-[0-9a-f]{8}\.json\.part)\Z")


@dataclass(frozen=True, slots=True)
class Exported:
    """Sizes in bytes."""

    current: str
    snapshot: str
    names: int
    files: int
    bytes: int
    copied_bytes: int
    how: str
    is_new: bool  # False: it was there already
    left_out: tuple[str, ...]  # sets that could not be named, one sentence each


def export_tree(
    held: Holdings,
    folder: Path,
    how: How = How.LINK,
    meter: Callable[[str, int], Callable[[int], None]] = lambda _what, _total: lambda _n: None,
    *,
    check: bool = False,
) -> Exported:
    """Lay the catalogue of *held* out below *folder* and switch ``current``. *check*: a snapshot that is there already
    is hashed, too, and made anew when it is damaged. Raises PlaceError in one sentence."""
    tree = folder.absolute() / TREE
    placing.refuse_store(tree, held.store.directory)
    try:
        placing.make_folders(tree)
    except OSError as error:
        raise PlaceError(f"{tree}: expected a folder that can be written, got: {error.strerror}") from None
    lock = datadir.Lock(tree / LOCK, "export")
    try:
        for attempt in range(1, READS + 1):
            read = held.read()
            found = contents(read.sets, read.derived, read.present)
            if not found.names:
                raise PlaceError(f"{held.settings.data}: expected a complete image or boot loader to lay out, got none")
            version = int(SettingsRepository(held.database).get(CATALOGUE_VERSION) or 0)
            name = f"snapshot-{version}-{digest_of(found)[:8]}"
            try:
                return _export(held.store, tree, name, found, how, meter, check)
            except Vanished:  # a set went meanwhile; what was begun is begun anew
                if attempt == READS:
                    raise
        raise AssertionError("the loop ends by return or raise")
    finally:
        lock.release()


def _export(
    store: Store,
    tree: Path,
    name: str,
    found: Contents,
    how: How,
    meter: Callable[[str, int], Callable[[int], None]],
    check: bool,
) -> Exported:
    before = _snapshot_of(tree)
    for entry in tree.iterdir():  # what a killed export left
        if entry.name.startswith(".building-"):
            shutil.rmtree(entry, ignore_errors=True)
    copied = 0
    there = next((each for each in (before, name) if each and _is_whole(store, tree, each, found, how, check)), None)
    is_new = there is None
    if there is not None:
        name = there
    else:
        if (tree / name).is_dir():  # made in another way, or not whole: a rename cannot replace a folder with something
            name = _free_name(tree, name)
        copied = _build(store, tree, name, found, how, before, meter)
    _switch(tree, name)
    _remove_others(tree, {name, before})
    return Exported(
        current=str(tree / CURRENT),
        snapshot=name,
        names=len(found.names),
        files=len(found.blobs),
        bytes=sum(blob.size for blob in found.blobs.values()),
        copied_bytes=copied,
        how=how,
        is_new=is_new,
        left_out=found.left_out,
    )


def _build(
    store: Store,
    tree: Path,
    name: str,
    found: Contents,
    how: How,
    before: str | None,
    meter: Callable[[str, int], Callable[[int], None]],
) -> int:
    """A whole snapshot under its name; returns the bytes that were copied."""
    building = tree / f".building-{name}"
    names = found.names
    older: dict[str, Path] = {}  # digest -> a copy that the last snapshot has: it need not be copied again
    if how in (How.COPY, How.REFLINK) and before is not None:
        memory = _memory(tree, before)
        if memory is not None and memory[0] in (How.COPY, How.REFLINK):
            older = {
                sha256: tree / before / old for old, sha256 in memory[1].items() if (tree / before / old).is_file()
            }
    todo = sum(blob.size for sha256, blob in found.blobs.items() if sha256 not in older) if how is How.COPY else 0
    placing.require_room(tree, todo)
    progress = meter("laying files out", sum(blob.size for blob in found.blobs.values()))
    copied = 0
    first: dict[str, Path] = {}  # digest -> its file in this snapshot: one copy for all its names
    try:
        building.mkdir()
        building.chmod(0o755)
        for wire, sha256 in sorted(names.items()):
            target = building / wire
            if sha256 in first:
                placing.name_again(first[sha256], target)
                continue
            if not _from_older(older.get(sha256), target, sha256, progress):
                placing.place(store.path_of(sha256), target, how, sha256, progress)
                copied += found.blobs[sha256].size if how is How.COPY else 0
            first[sha256] = target
        known = json.dumps({"how": how, "names": dict(names)}, indent=1).encode() + b"\n"
        placing.write_whole(tree / f".{name}.json", known)
        building.rename(tree / name)
    except OSError as error:
        raise PlaceError(f"{building}: cannot become {tree / name}: {error.strerror}") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return copied


def _from_older(older: Path | None, target: Path, sha256: str, progress: Callable[[int], None]) -> bool:
    """Whether *target* could be had of the last snapshot: not when that is damaged."""
    if older is None:
        return False
    try:
        placing.place(older, target, How.LINK, sha256, progress)
    except PlaceError:
        return False
    return True


def _is_whole(store: Store, tree: Path, name: str, found: Contents, how: How, check: bool) -> bool:
    """Whether the snapshot *name* is what would be made now: the same names in the same way, each file there and as
    long as it must be; a link to the store's file of today, which another has replaced when the first was damaged."""
    if _memory(tree, name) != (how, dict(found.names)):
        return False
    right: set[str] = set()
    try:
        for wire, sha256 in found.names.items():
            path, stored = tree / name / wire, store.path_of(sha256)
            if path.stat().st_size != found.blobs[sha256].size:
                return False
            if how is How.LINK and not path.samefile(stored):
                return False
            if check and sha256 not in right and not placing.is_right(path.resolve(), sha256):
                return False
            right.add(sha256)
    except OSError:
        return False
    return True


def _switch(tree: Path, name: str) -> None:
    aside = tree / f".{CURRENT}-{os.getpid()}"
    try:
        aside.unlink(missing_ok=True)
        aside.symlink_to(name)
        aside.replace(tree / CURRENT)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise PlaceError(f"{tree / CURRENT}: cannot be switched to {name}: {error.strerror}") from None


def _snapshot_of(tree: Path) -> str | None:
    """The snapshot ``current`` leads to. Raises PlaceError when that name is somebody else's."""
    link = tree / CURRENT
    if not link.is_symlink():
        if link.exists():
            raise PlaceError(f"{link}: expected a link that `export-tree` made, got something else")
        return None
    name = str(link.readlink())
    if not _SNAPSHOT.match(name):
        raise PlaceError(f"{link}: expected a link to a snapshot beside it, got one to {name}")
    return name if (tree / name).is_dir() else None


def _memory(tree: Path, name: str) -> tuple[How, dict[str, str]] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((tree / f".{name}.json").read_text(encoding="utf-8"))
        return How(found["how"]), dict(found["names"])
    return None


def _free_name(tree: Path, name: str) -> str:
    stem, _, tail = name.rpartition("-")
    number = int(tail, 16)
    while (tree / f"{stem}-{number:08x}").exists():
        number = (number + 1) % (1 << 32)
    return f"{stem}-{number:08x}"


def _remove_others(tree: Path, kept: set[str | None]) -> None:
    for entry in tree.iterdir():
        if _SNAPSHOT.match(entry.name) and entry.name not in kept and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
    for entry in tree.iterdir():  # a snapshot's memory that is left alone, what a killed export left half made
        memory = _MEMORY.match(entry.name)
        if (memory and not (tree / memory[1]).is_dir()) or _HALF.match(entry.name):
            entry.unlink(missing_ok=True)
