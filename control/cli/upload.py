"""``bootplane image upload``: a custom image from files here into the region's store.

Nothing is remembered on this side: the files are hashed, the region is told what comes, and it says what is lacking
and where to go on. So the same command, given again after any stop of either side, goes on. A region that is away, or
says "not now", is waited for while it takes a byte now and then.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bootplane.control.cli import client, figures, output
from bootplane.control.cli.failure import CliError
from bootplane.control.cli.options import Data, Json
from bootplane.control.cli.upload_view import View, view_for
from bootplane.control.domain.images import INITRD, KERNEL, SQUASHFS
from bootplane.control.errors import Refused
from bootplane.control.uploads import magic, rules

PIECE_BYTES = 1 << 20  # read, hashed, sent at a time
PAUSE_S = 0.5  # between questions while somebody else brings the same content, or the region is away
UNSAID_S = 30.0  # of waiting for somebody else before it is said; most often it is over by then
PATIENCE_S = 60.0  # how long a region may stay away, or refuse for now, without a byte in between
SILENCE_S = 60.0  # of the region while it takes bytes; it hashes again what it has of a file before it takes the first
HASHED_BYTES_S = 100 << 20  # at least so fast


@dataclass(frozen=True)
class Source:
    """One file here. *changed*: what is compared to see whether it is still the file that was hashed."""

    path: Path
    ftype: str
    size: int  # bytes
    changed: tuple[int, int, int]


def upload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the image: NAME, or OS/NAME.", show_default=False)],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A root file system or disk image.", show_default=False)
    ] = None,
    arch: Annotated[
        str, typer.Option("--arch", metavar="A", help="Machines it is for: amd64, arm64, ...", show_default=False)
    ] = "",
    kind: Annotated[
        str, typer.Option("--type", metavar="T", help=f"Of FILE: {', '.join(rules.TYPES)}.")
    ] = "tgz",
    kernel: Annotated[Path | None, typer.Option("--kernel", metavar="FILE", show_default=False)] = None,
    initrd: Annotated[Path | None, typer.Option("--initrd", metavar="FILE", show_default=False)] = None,
    squashfs: Annotated[Path | None, typer.Option("--squashfs", metavar="FILE", show_default=False)] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="Its packages, one `NAME VERSION` a line.", show_default=False),
    ] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", show_default=False)] = "",
    base_image: Annotated[
        str | None,
        typer.Option(
            "--base-image", metavar="OS/SERIES",
            help="What it was made from; else what it was before, or the newest Ubuntu LTS here.", show_default=False,
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Upload a custom image: FILE of a --type, or --kernel, --initrd and --squashfs. Given again, it goes on."""
    if not arch:
        raise CliError("--arch: expected the arch of the machines it is for (amd64, arm64, ...), got none.", 2)
    sources = _sources(file, kind, {KERNEL: kernel, INITRD: initrd, SQUASHFS: squashfs}, manifest, arch)
    region = client.connect(data)
    try:
        with view_for(name, quiet=json) as view:
            document = _bring(region, name, arch, title, base_image, sources, view)
    except KeyboardInterrupt:
        output.say("Stopped; what has arrived is kept for a day, and the same command goes on.")
        raise typer.Exit(130) from None
    if document["state"] != "complete":
        raise CliError(output.clean(document["error"] or f"The upload ended in state {document['state']}."))
    base = f", on {document['base_image']}" if document["base_image"] else ""
    output.done(
        document,
        json,
        f"{document['image']} {document['version']} is complete, {figures.size(document['size'])}{base}; "
        f"`bootplane image show {document['image']}` has the names machines fetch it by.",
    )


def _sources(
    file: Path | None, kind: str, parts: dict[str, Path | None], manifest: Path | None, arch: str
) -> list[Source]:
    """The files of the command line, looked at. Raises CliError for what cannot be an image."""
    given = {ftype: path for ftype, path in parts.items() if path is not None}
    if file is not None and given:
        raise CliError("Expected FILE, or --kernel, --initrd and --squashfs; got both.", 2)
    if file is not None:
        if kind not in rules.TYPES:
            raise CliError(f"--type: expected one of {', '.join(rules.TYPES)}, got {kind!r}.", 2)
        given = {rules.TYPES[kind]: file}
    elif len(given) != len(parts):
        raise CliError("Expected FILE, or all of --kernel, --initrd and --squashfs.", 2)
    if manifest is not None:
        given[rules.MANIFEST] = manifest
    return [_source(path, ftype, arch) for ftype, path in given.items()]


def _source(path: Path, ftype: str, arch: str) -> Source:
    try:
        if not path.is_file():
            raise CliError(output.clean(f"{path}: expected a file, got {'a directory' if path.is_dir() else 'none'}."))
        with path.open("rb") as opened:
            found = os.fstat(opened.fileno())
            head = opened.read(magic.HEAD_BYTES)
    except OSError as error:
        raise CliError(output.clean(f"{path}: cannot be read: {error.strerror}.")) from None
    if not head:
        raise CliError(output.clean(f"{path}: expected bytes, got an empty file."))
    try:
        magic.check(ftype, arch.partition("/")[0], head, str(path))
    except Refused as error:
        raise CliError(output.clean(error)) from None
    return Source(path, ftype, found.st_size, _stamp(found))


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _bring(
    region: client.Client,
    name: str,
    arch: str,
    title: str,
    base_image: str | None,
    sources: Sequence[Source],
    view: View,
) -> dict[str, Any]:
    """Ask, hash, announce, send what lacks, until the region says complete. Returns its last word."""
    body: dict[str, Any] = {"name": name, "arch": arch, "title": title, "base_image": base_image}
    region.post("/uploads/check", body)  # a name that is refused, or a region that is not there, is told at once
    announced = []
    for source in sources:
        announced.append({"ftype": source.ftype, "sha256": _sha256(source, view), "size": source.size})
    body["files"] = announced
    by_type = {source.ftype: source for source in sources}
    patience = _Patience(view)
    refused = 0
    while True:
        wanted: dict[str, Any] | None = None
        try:
            document: dict[str, Any] = region.post("/uploads", body, client.SLOW_TIMEOUT_S)
            patience.heard(document["done"])
            lacking = [each for each in document["files"] if each["done"] < each["size"]]
            if document["state"] != "receiving":
                return document
            view.show(document)
            wanted = next((each for each in lacking if each["state"] == "waiting"), None)
            if wanted is None:  # somebody else sends it, or has just sent the last of it
                raise _WaitError("somebody else sends the rest of it just now")
            document = _send(region, document, wanted, by_type[wanted["ftype"]], view)
            if document["state"] != "receiving":
                return document
        except client.Problem as problem:
            kind = str(problem.document.get("type", "")).rpartition(":")[2]
            if kind in ("wrong-offset", "busy"):  # ours that came further than we heard; a sync's, or somebody else's
                patience.queue(str(problem))
            elif kind == "unavailable" and wanted is not None:  # it ends, its disk fails, or we were too slow
                patience.lost(problem)
            elif kind == "refused" and refused == 0 and wanted is not None and wanted["done"]:
                refused = 1  # what was kept from an earlier time may be what is wrong: once more, from its beginning
                _refuse_changed(by_type[wanted["ftype"]])
            else:
                for source in sources:
                    _refuse_changed(source)
                raise
        except _WaitError as wait:
            patience.queue(str(wait))
        except client.Unreachable as error:
            patience.lost(error)


class _WaitError(Exception):
    """Somebody else brings the rest just now."""


class _Patience:
    """How long nothing has come to the region, since it went away or refused for now."""

    def __init__(self, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        self._view, self._clock = view, clock
        self._since: float | None = None
        self._queued: float | None = None
        self._done = 0  # bytes
        self._said = ""

    def heard(self, done: int) -> None:
        """The region answers, and has *done* bytes."""
        if self._since is not None and done != self._done:
            self._view.note("The region answers again.")
            self._since, self._said = None, ""
        if done != self._done:
            self._queued = None
        self._done = done

    def queue(self, why: str) -> None:
        """Waits a little for somebody else, however long it takes in all; says so when it takes long."""
        if self._queued is None:
            self._queued = self._clock()
        elif self._clock() - self._queued > UNSAID_S and why != self._said:
            self._said = why
            self._view.note(f"{why}: waiting.")
        time.sleep(PAUSE_S)

    def lost(self, error: CliError) -> None:
        """Waits a little; raises *error* when it has been long."""
        if str(error) != self._said:
            self._said = str(error)
            self._view.note(f"{self._said.rstrip('.')}. Waiting for it.")
        if self._since is None:
            self._since = self._clock()
        elif self._clock() - self._since > PATIENCE_S:
            raise error
        time.sleep(PAUSE_S)


def _sha256(source: Source, view: View) -> str:
    digest = hashlib.sha256()
    done = 0
    for piece in _pieces(source, 0):
        digest.update(piece)
        done += len(piece)
        view.hashed(source.path.name, done, source.size)
    if done != source.size:
        raise _changed(source)
    _refuse_changed(source)
    return digest.hexdigest()


def _pieces(source: Source, start: int) -> Iterator[memoryview]:
    """The file from *start* on, in pieces that are good until the next one is asked for."""
    buffer = bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    try:
        with source.path.open("rb", buffering=0) as opened:
            opened.seek(start)
            left = source.size - start
            while left and (count := opened.readinto(view[: min(left, PIECE_BYTES)])):
                left -= count
                yield view[:count]
    except OSError as error:
        raise CliError(output.clean(f"{source.path}: cannot be read: {error.strerror}.")) from None


def _refuse_changed(source: Source) -> None:
    try:
        found = source.path.stat()
    except OSError as error:
        raise CliError(output.clean(f"{source.path}: cannot be read: {error.strerror}.")) from None
    if _stamp(found) != source.changed:
        raise _changed(source)


def _changed(source: Source) -> CliError:
    return CliError(
        output.clean(f"{source.path}: expected the file that was hashed, but it has changed since; give it again.")
    )


def _send(
    region: client.Client, document: dict[str, Any], wanted: dict[str, Any], source: Source, view: View
) -> dict[str, Any]:
    """One PUT: the rest of one file. Returns what the region says at its end."""
    start: int = wanted["done"]
    path = f"/uploads/{document['id']}/files/{client.quoted(wanted['name'])}"
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(source.size - start),
        "Content-Range": f"bytes {start}-{source.size - 1}/{source.size}",
    }
    patience_s = SILENCE_S + source.size / HASHED_BYTES_S
    before = sum(each["done"] for each in document["files"] if each["name"] != wanted["name"])
    with region.opened("PUT", path, headers, patience_s) as connection:
        sent = start
        with _early_answers():
            for piece in _pieces(source, start):
                passed = _pass(connection, piece, patience_s)
                sent += passed
                if passed < len(piece):
                    break
                view.sent(document, wanted["name"], before + sent)
        if sent < source.size:
            _refuse_changed(source)  # it became shorter
        answer: dict[str, Any] = region.answer(connection, "PUT", path, patience_s)
        return answer


@contextmanager
def _early_answers() -> Iterator[None]:
    """A region that refuses answers before it has read all, and closes: the answer says more than the broken pipe."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        return


def _pass(connection: http.client.HTTPConnection, piece: memoryview, patience_s: float) -> int:
    """Sends *piece*; fewer bytes than it has when the region has answered already, which is a refusal."""
    sock = connection.sock
    if hasattr(sock, "pending"):  # TLS: what can be read need not be an answer
        connection.send(piece)
        return len(piece)
    sent = 0
    while sent < len(piece):
        readable, writable, _ = select.select([sock], [sock], [], patience_s)
        if readable:
            break
        if not writable:
            raise TimeoutError
        sent += sock.send(piece[sent:])
    return sent
