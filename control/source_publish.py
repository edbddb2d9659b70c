"""A region's content as a boot source of its own: complete sets laid out and signed for other regions, MAAS, anyone.

    DIR/streams/v1/...            index and product lists, plain, with detached signatures, clear-signed
    DIR/<path>                    files under the paths they had upstream
    DIR/content/<16 hex>/<file>   files that had none, or one that stands for other bytes already
    DIR/keyring.gpg               the public key, for readers
    DIR/.bootplane-mirror.json    what this folder's last publication put here, so that nothing else is ever removed

A reader that comes in the middle finds the old mirror or the new one: files first, product lists, the index last. What
the new one names no more stays for a grace time, because a reader may have read the old index a moment ago.

Invariants: a path's content never changes, and was hashed when it was laid out; only complete sets are published; a
folder that is not empty and not ours is refused, and what one that is ours says of itself leads nowhere outside it;
``updated`` never goes back. Left to others: bytes (placing), documents (mirror_publish), who serves it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bootplane.control import datadir, placing
from bootplane.control.domain.images import (
    ARCHIVE,
    CUSTOM_OS,
    MANIFESTS,
    ROOT_ARCHIVES,
    SYNCED,
    BootResource,
    ResourceFile,
    Tag,
    kernel_name,
)
from bootplane.control.holdings import READS, Holdings
from bootplane.control.mirror_publish import STREAMS, PublishItem, PublishProduct, write_lists
from bootplane.control.placing import How, Vanished
from bootplane.control.simplestreams.errors import HostilePath
from bootplane.control.simplestreams.paths import item_path
from bootplane.control.simplestreams.signer import PublishError, Signer
from bootplane.control.storage.images import StoredSet
from bootplane.dataplane.store import Store

KEY_FILE = "publish-key"  # in the data directory: the secret key, armored
KEYRING = "keyring.gpg"
STATE = ".bootplane-mirror.json"
LOCK = ".bootplane-mirror.lock"
STATE_FORMAT = 1
GRACE_S = 3600.0
_KEY_ASIDE = "bootplane-key-"  # in the folder for temporary files; names of sockets must be short

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:-]{0,127}\Z")  # a content id that can be the name of a file
_IDENTITY = ("os", "release", "arch", "subarch", "kflavor", "label", "bootloader-type")  # tags that tell products apart
_ARCHES = {("open-firmware", "ppc64el"): "ppc64el,ppc64"}  # machines a loader starts, where that is not its arch alone


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a publication did. Sizes in bytes."""

    sets: int
    files: int
    bytes: int  # of the distinct files
    copied_bytes: int  # those that took room of their own
    how: str
    removed: int  # stale files that went now
    stale: int  # stale files that stay until their grace is over
    fingerprint: str
    keyring: str
    updated: str
    left_out: tuple[str, ...]  # a sentence for each image that is not in it
    names: tuple[str, ...]


@dataclass
class _State:
    """The folder's own memory. *files*: path -> sha256 and size; *stale*: path -> Unix seconds since when."""

    updated: float = 0.0
    files: dict[str, list[Any]] = field(default_factory=dict)
    documents: list[str] = field(default_factory=list)
    stale: dict[str, float] = field(default_factory=dict)


@contextmanager
def signer_for(data: Path, key: Path | None) -> Iterator[Signer]:
    """What signs: the key in *key*, or the region's own, made at its first use. Raises PublishError, StartError."""
    with datadir.private_folder(Path(tempfile.gettempdir()), _KEY_ASIDE) as folder:
        home = folder / "home"
        if key is not None:
            try:
                secret = key.read_bytes()
            except OSError as error:
                raise PublishError(f"{key}: expected a secret OpenPGP key, got: {error.strerror}") from None
            name = str(key)
        else:
            own = data / KEY_FILE
            secret = datadir.secret(own, lambda: _generated(folder / "new")).encode("ascii")
            name = str(own)
        with Signer.imported(home, secret, name) as signer:
            yield signer


def _generated(home: Path) -> str:
    with Signer.generate(home) as made:
        return made.secret()


def publish_region(
    held: Holdings,
    folder: Path,
    signer: Signer,
    *,
    patterns: Sequence[str] = (),
    how: How | None = None,
    check: bool = False,
    grace_s: float = GRACE_S,
    meter: Callable[[str, int], Callable[[int], None]] = lambda _what, _total: lambda _n: None,
    now: Callable[[], float] = time.time,
) -> Outcome:
    """Make *folder* the mirror of what *held* has now, of resources whose name one of the shell *patterns* matches.

    Boot loaders always come along. ``how=None`` takes the cheapest the file system allows. *check* hashes what an
    earlier publication laid out, too. *meter* is asked for a progress function by a text and the bytes to be hashed.
    Raises PublishError or PlaceError in one sentence.
    """
    folder = folder.absolute()
    placing.refuse_store(folder, held.store.directory)
    _prepare(folder)
    lock = datadir.Lock(folder / LOCK, "publication")
    try:
        state = _read_state(folder)
        _write_state(folder, state)  # from now on it is ours: a publication that is killed can be made again
        for attempt in range(1, READS + 1):
            products, left_out = _products(held, patterns, state)
            try:
                placed = _lay_out(held.store, folder, products, state, how, check, meter, now())
                break
            except Vanished:
                if attempt == READS:
                    raise
        return _announce(folder, products, placed, signer, state, grace_s, now(), tuple(left_out))
    finally:
        lock.release()


# -- what is published


def _products(held: Holdings, patterns: Sequence[str], state: _State) -> tuple[list[PublishProduct], list[str]]:
    """What is published, and a sentence for each image that is not."""
    sets = [each for each in held.read().sets if each.complete and each.marked is None]
    chosen = [each for each in sets if each.resource_set.resource.is_bootloader or _matches(each, patterns)]
    images = [each for each in chosen if not each.resource_set.resource.is_bootloader]
    if not images:
        asked = f" that matches {', '.join(patterns)}" if patterns else ""
        raise PublishError(f"{held.settings.data}: expected a complete image{asked} to publish, got none")
    for pattern in patterns:
        if not any(_matches(each, (pattern,)) for each in images):
            raise PublishError(f"--image {pattern}: expected the name of a complete image, or a pattern, got neither")
    taken = {path: str(facts[0]) for path, facts in state.files.items()}
    own, left_out = _one_each(chosen)
    return _apart([product_of(each, held.store, taken) for each in own]), left_out


def _one_each(chosen: Collection[StoredSet]) -> tuple[list[StoredSet], list[str]]:
    """Those that readers can tell apart, and a sentence for each other: an upload to this region goes before one that
    came from another region under the same name."""
    found: dict[BootResource, StoredSet] = {}
    left_out = []
    for each in sorted(chosen, key=lambda each: not each.resource_set.resource.is_uploaded):
        abroad = replace(_known_abroad(each.resource_set.resource), title="", codename="", kflavor="", base_image="")
        abroad = replace(abroad, rtype=SYNCED)
        first = found.setdefault(abroad, each)
        if first.resource_set.resource.name != each.resource_set.resource.name:
            left_out.append(
                f"{each.resource_set.resource.name} is left out: {first.resource_set.resource.name} is called "
                f"{abroad.name} for readers, too"
            )
    names = {each.resource_set.resource.name for each in found.values()}
    return [each for each in chosen if each.resource_set.resource.name in names], left_out


def _apart(products: Collection[PublishProduct]) -> list[PublishProduct]:
    """Versions of one product say the same of it (the newest's words count), and two products have two ids."""
    tags: dict[tuple[str, str], Mapping[str, Tag]] = {}
    owners: dict[tuple[str, str], tuple[object, ...]] = {}
    made = []
    for product in sorted(products, key=lambda each: each.version, reverse=True):
        owner = tuple(product.tags.get(key) for key in _IDENTITY)
        number, key = 1, (product.content_id, product.id)
        while owners.setdefault(key, owner) != owner:
            number, key = number + 1, (product.content_id, f"{product.id}:{number}")
        made.append(replace(product, id=key[1], tags=tags.setdefault(key, product.tags)))
    return made


def _matches(stored: StoredSet, patterns: Sequence[str]) -> bool:
    name = stored.resource_set.resource.name
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def product_of(stored: StoredSet, store: Store, taken: dict[str, str]) -> PublishProduct:
    """A complete set as one version of a product. *taken*: paths in use -> digest; those of this set are added."""
    resource, told = _known_abroad(stored.resource_set.resource), stored.told
    items: dict[str, PublishItem] = {}
    ftypes = {file.ftype for file in stored.resource_set.files}
    for file in stored.resource_set.files:
        if not store.has(file.sha256, file.size):
            if file.is_required:
                raise Vanished(
                    f"{store.path_of(file.sha256)}: expected a file of {file.size} bytes, got none or another length"
                )
            continue  # a package list that never came: the set is complete without it
        said, words = told.items.get(file.name, ("", {})) if told else ("", {})
        name = said or _item_name(file)
        name = file.name if name in items else name
        path = _path(stored.paths.get(file.name, ""), file, taken)
        taken[path] = file.sha256
        tags: dict[str, Tag] = {"kparams": file.kparams} if file.kparams else {}
        if file.ftype == ARCHIVE:
            tags["src_package"] = name
        tags |= words
        items[name] = PublishItem(name, file.ftype, path, store.path_of(file.sha256), tags)
    content_id, product_id = _ids(resource, is_root=bool(ftypes & ROOT_ARCHIVES))
    known: dict[str, Tag] = _tags(resource)
    if told is not None:
        if _ID.match(told.content_id):
            content_id = told.content_id
        product_id = told.product_id
        known = {"arch": resource.arch, "label": resource.label, "os": resource.os, **told.tags}
    return PublishProduct(content_id, product_id, stored.resource_set.version, known, tuple(items.values()))


def _known_abroad(resource: BootResource) -> BootResource:
    """The resource as other regions are told of it. An upload is a source's image there, and a region takes none under
    the names that are its own operator's: os custom becomes upstream, label uploaded becomes custom."""
    if not resource.is_uploaded:
        return resource
    return replace(resource, os="upstream" if resource.os == CUSTOM_OS else resource.os, label="custom")


def _item_name(file: ResourceFile) -> str:
    """The key upstream gives it: boot-kernel, manifest, grub2-signed."""
    if file.ftype in MANIFESTS:
        return file.ftype
    return file.name.removesuffix(".tar.xz") if file.ftype == ARCHIVE else file.ftype


def _path(known: str, file: ResourceFile, taken: Mapping[str, str]) -> str:
    """Where it stood upstream, unless that is no path, or one that stands for other bytes here."""
    with contextlib.suppress(HostilePath):
        plain = item_path(known, file.name)
        is_ours = plain.startswith(("streams/", ".")) or plain == KEYRING
        if not is_ours and plain.rpartition("/")[2] == file.name and taken.get(plain, file.sha256) == file.sha256:
            return plain
    return f"content/{file.sha256[:16]}/{file.name}"


def _ids(resource: BootResource, *, is_root: bool) -> tuple[str, str]:
    """Content id and product id by the scheme of images.maas.io, which MAAS reads products by."""
    label = resource.label
    if resource.is_bootloader:
        return (
            f"com.ubuntu.maas:{label}:1:bootloader-download",
            f"com.ubuntu.maas.{label}:1:{resource.os}:{resource.bootloader_type}:{resource.arch}",
        )
    if is_root:
        tail = "" if resource.subarch == "generic" else f":{resource.subarch}"
        return (
            f"com.ubuntu.maas:{label}:{resource.os}-bases-download",
            f"com.ubuntu.maas.{label}:{resource.os}-bases:{resource.release}:{resource.arch}{tail}",
        )
    release = _number(resource) or resource.release
    if resource.os != "ubuntu":
        release = f"{resource.os}-{resource.release}"
    return (
        f"com.ubuntu.maas:{label}:v3:download",
        f"com.ubuntu.maas.{label}:v3:boot:{release}:{resource.arch}:{resource.subarch}",
    )


def _number(resource: BootResource) -> str:
    """24.04 of "24.04 LTS": what the title begins with."""
    found = re.match(r"\d+(\.\d+)*", resource.title) or re.fullmatch(r"\d+(\.\d+)*", resource.release)
    return found[0] if found else ""


def _tags(resource: BootResource) -> dict[str, Tag]:
    tags: dict[str, Tag] = {"arch": resource.arch, "label": resource.label, "os": resource.os}
    if resource.is_bootloader:
        kind = resource.bootloader_type
        return {**tags, "arches": _ARCHES.get((kind, resource.arch), resource.arch), "bootloader-type": kind}
    flavour = f"-{resource.kflavor}" if resource.kflavor not in ("", "generic") else ""
    subarch = resource.subarch.replace(flavour, "", 1) if flavour else resource.subarch
    if kernel_name(subarch, resource.kflavor) != resource.subarch:
        subarch = resource.subarch
    tags |= {
        "release": resource.release,
        "release_title": resource.title,
        "subarch": subarch,
        "subarches": ",".join(dict.fromkeys(("generic", subarch))),
        "version": _number(resource) or resource.release,
    }
    if resource.kflavor:
        tags |= {"kflavor": resource.kflavor, "krel": resource.release}
    if resource.codename:
        tags["release_codename"] = resource.codename
    return tags


# -- how it gets there


@dataclass(frozen=True, slots=True)
class _Placed:
    files: dict[str, tuple[str, int]]  # path -> sha256, size
    copied_bytes: int
    how: How


def _lay_out(
    store: Store,
    folder: Path,
    products: Collection[PublishProduct],
    state: _State,
    how: How | None,
    check: bool,
    meter: Callable[[str, int], Callable[[int], None]],
    now: float,
) -> _Placed:
    """Files under their names, the index untouched."""
    wanted: dict[str, tuple[str, int]] = {}
    for item in (item for product in products for item in product.items):
        try:
            wanted[item.path] = item.source.name, item.source.stat().st_size
        except FileNotFoundError:
            raise Vanished(f"{item.source}: expected a file of the store, got none") from None
    first = store.path_of(next(iter(wanted.values()))[0])
    how = how or placing.best(first, folder)
    todo = {path: facts for path, facts in wanted.items() if not _is_there(store, folder, path, facts, how, state)}
    if check:
        again = {path: facts for path, facts in wanted.items() if path not in todo}
        reading = meter("checking files", sum(size for _, size in again.values()))
        for path, facts in again.items():
            if not placing.is_right(store.path_of(facts[0]) if how is How.SYMLINK else folder / path, facts[0]):
                todo[path] = facts
            reading(facts[1])
    nbytes = sum(size for _, size in todo.values())
    copied = nbytes if how is How.COPY else 0
    placing.require_room(folder, copied)
    progress = meter("laying files out", nbytes)
    for left in folder.rglob(".*.part"):  # of a publication that was killed
        left.unlink(missing_ok=True)
    state.stale |= {path: now for path in todo if path not in state.files}
    _write_state(folder, state)  # whatever becomes of this one, the next knows that they are ours
    for path, (sha256, _) in todo.items():
        placing.place(store.path_of(sha256), placing.inside(folder, path), how, sha256, progress)
    return _Placed(wanted, copied, how)


def _is_there(store: Store, folder: Path, path: str, facts: tuple[str, int], how: How, state: _State) -> bool:
    """Whether an earlier publication put these bytes there, as far as name, size and inode can tell."""
    target, (sha256, size) = placing.inside(folder, path), facts
    try:
        found = target.lstat()
        if how is How.LINK:
            return os.path.samestat(found, store.path_of(sha256).stat())
        if how is How.SYMLINK:
            return target.is_symlink() and target.resolve() == store.path_of(sha256).resolve()
    except FileNotFoundError:
        return False
    known = state.files.get(path)
    return known is not None and known == [sha256, size, found.st_mtime_ns] and found.st_size == size


def _announce(
    folder: Path,
    products: Collection[PublishProduct],
    placed: _Placed,
    signer: Signer,
    state: _State,
    grace_s: float,
    now: float,
    left_out: tuple[str, ...],
) -> Outcome:
    """Documents, the index last; then the keyring's and the folder's memory, and away with what is stale."""
    moment = max(now, state.updated)
    updated = datetime.fromtimestamp(int(moment), UTC)
    old = {*state.files, *state.documents, *state.stale}
    names = _list_names(products)
    coming = _State(
        updated=int(moment),
        files={p: [*facts, (folder / p).lstat().st_mtime_ns] for p, facts in placed.files.items()},
        documents=sorted({*state.documents, *_documents(names.values())}),
        stale={path: state.stale.get(path, now) for path in old if path not in placed.files},
    )
    _write_state(folder, coming)  # before the index: whatever happens next, what lies here is known to be ours
    _write(folder / KEYRING, signer.public(), placing.FOR_ALL)
    placing.inside(folder, f"{STREAMS}/index.json")
    lists = write_lists(folder, products, placed.files, signer, updated, list_name=names.__getitem__)
    written = [str(path.relative_to(folder)) for path in lists]
    coming.documents = written
    for path in written:
        coming.stale.pop(path, None)
    gone = [path for path, since in coming.stale.items() if now - since >= grace_s]
    for path in gone:
        placing.inside(folder, path).unlink(missing_ok=True)
        coming.stale.pop(path)
        for parent in (folder / path).parents:
            if parent == folder:
                break
            with contextlib.suppress(OSError):  # not empty: somebody's
                parent.rmdir()
    _write_state(folder, coming)
    distinct = set(placed.files.values())
    return Outcome(
        sets=len(products),
        files=len(placed.files),
        bytes=sum(size for _, size in distinct),
        copied_bytes=placed.copied_bytes,
        how=placed.how,
        removed=len(gone),
        stale=len(coming.stale),
        fingerprint=signer.fingerprint,
        keyring=str(folder / KEYRING),
        updated=updated.isoformat(),
        left_out=left_out,
        names=tuple(sorted(f"{product.id} {product.version}" for product in products)),
    )


def _documents(names: Iterable[str]) -> Iterator[str]:
    """What write_lists is about to write."""
    for name in (*names, "index"):
        yield from (f"{STREAMS}/{name}{suffix}" for suffix in (".json", ".json.gpg", ".sjson"))


def _list_names(products: Collection[PublishProduct]) -> dict[str, str]:
    """Content id -> a file name that every file system takes, and its own: mirrors travel on disks that are formatted
    as FAT, where a colon is no letter and A is a."""
    names: dict[str, str] = {}
    used = {"index"}
    for content_id in sorted({product.content_id for product in products}):
        name = content_id.replace(":", ".")
        if name.casefold() in used:
            name = f"{name}-{hashlib.sha256(content_id.encode()).hexdigest()[:8]}"
        used.add(name.casefold())
        names[content_id] = name
    return names


# -- the folder's memory


def _prepare(folder: Path) -> None:
    """Make *folder*. Raises PublishError when it holds something and is not ours."""
    try:
        placing.make_folders(folder)
        names = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise PublishError(f"{folder}: expected a folder that can be written, got: {error.strerror}") from None
    foreign = sorted(names - {STATE, LOCK, "lost+found"})
    if foreign and STATE not in names:
        raise PublishError(
            f"{folder}: expected an empty folder, or one that `source publish` made, got one with {foreign[0]!r}"
        )


def _read_state(folder: Path) -> _State:
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if found["format"] != STATE_FORMAT:
            raise ValueError(f"format {found['format']}")
        state = _State(float(found["updated"]), dict(found["files"]), list(found["documents"]), dict(found["stale"]))
        for path in (*state.files, *state.documents, *state.stale):
            item_path(path, str(folder / STATE))
        return state
    except FileNotFoundError:
        return _State()
    except HostilePath as error:  # whoever had this folder since has changed it
        raise PublishError(str(error)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{folder / STATE}: expected the memory of a publication, got {error}") from None


def _write_state(folder: Path, state: _State) -> None:
    document = {
        "format": STATE_FORMAT,
        "updated": state.updated,
        "files": state.files,
        "documents": state.documents,
        "stale": state.stale,
    }
    _write(folder / STATE, json.dumps(document).encode() + b"\n")


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    try:
        placing.write_whole(path, content, mode)
    except OSError as error:
        raise PublishError(f"{path}: cannot be written: {error.strerror}") from None
