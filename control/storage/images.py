"""Boot resources, their sets and files: what is here, and what has been decided to come.

A set that is not complete is a decision of the last plan: its files are being fetched. It survives a killed region, so
that a sync goes on without asking the source again. A set that is *marked* has been superseded or is no longer wanted;
it is removed after a grace time, in which racks and machines move on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet, Told
from bootplane.control.errors import Conflict
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.models import FileRow, ResourceRow, SetRow


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A set as the database has it. *paths*: file name -> its path below the boot source."""

    id: int
    resource_set: ResourceSet
    complete: bool
    created: str
    marked: str | None = None
    source_id: str | None = None  # None when the source has been removed
    paths: dict[str, str] = field(default_factory=dict, hash=False)
    told: Told | None = field(default=None, hash=False)  # None: no source has said anything


@dataclass(frozen=True, slots=True)
class WantedSet:
    """A set to be stored as not complete yet."""

    resource_set: ResourceSet
    source_id: str | None  # None: no source's; what is known of the resource's source stays
    paths: dict[str, str] = field(hash=False)
    told: Told | None = field(default=None, hash=False)  # None: what is known stays


class ImageRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def sets(self) -> list[StoredSet]:
        """Every set, oldest first within its resource; resources by name."""
        query = (
            sa.select(SetRow)
            .join(SetRow.resource)
            .options(selectinload(SetRow.files), selectinload(SetRow.resource))
            .order_by(ResourceRow.name, SetRow.version, SetRow.id)
        )
        with self._database.read() as session:
            found = [_stored(row) for row in session.scalars(query)]
        return sorted(found, key=lambda each: (each.resource_set.resource.name, each.resource_set.order, each.id))

    def decide(self, wanted: Sequence[WantedSet], dropped: Iterable[int], marked: Iterable[int]) -> None:
        """Carry out the metadata part of a plan in one transaction.

        *wanted* sets are stored (a known one is un-marked and takes the new paths and source), incomplete sets in
        *dropped* are deleted, complete ones in *marked* are marked.
        """
        with self._database.begin() as session:
            for wish in wanted:
                _want(session, wish)
            session.flush()
            session.execute(sa.delete(SetRow).where(SetRow.id.in_(list(dropped)), SetRow.complete.is_(False)))
            session.execute(
                sa.update(SetRow)
                .where(SetRow.id.in_(list(marked)), SetRow.complete.is_(True), SetRow.marked.is_(None))
                .values(marked=now_text())
            )
            _drop_empty_resources(session)

    def complete(self, set_ids: Iterable[int]) -> None:
        """These sets have all their files. Their complete elders are marked as superseded."""
        ids = list(set_ids)
        with self._database.begin() as session:
            session.execute(sa.update(SetRow).where(SetRow.id.in_(ids)).values(complete=True, marked=None))
            for row in session.scalars(sa.select(SetRow).where(SetRow.id.in_(ids))):
                session.execute(
                    sa.update(SetRow)
                    .where(
                        SetRow.resource_id == row.resource_id,
                        SetRow.version < row.version,
                        SetRow.complete.is_(True),
                        SetRow.marked.is_(None),
                    )
                    .values(marked=now_text())
                )

    def renew_marks(self, set_ids: Iterable[int]) -> None:
        """Their grace time begins anew."""
        with self._database.begin() as session:
            of_them = sa.and_(SetRow.id.in_(list(set_ids)), SetRow.marked.is_not(None))
            session.execute(sa.update(SetRow).where(of_them).values(marked=now_text()))

    def add_uploaded(self, resource: BootResource, files: Sequence[ResourceFile], day: str) -> str:
        """A new version of an uploaded image: complete at once, its elders marked in the same transaction.

        Returns the version: *day* (YYYYMMDD), or *day*.N for a further one. When the newest one has these very files,
        it is that one, with the title and base image of *resource*. Raises Conflict when a source's has the name.
        """
        with self._database.begin() as session:
            row = session.scalar(sa.select(ResourceRow).where(ResourceRow.name == resource.name))
            if row is None:
                row = ResourceRow(name=resource.name, rtype=resource.rtype, source_id=None)
                row.os, row.release, row.arch, row.subarch = (
                    resource.os, resource.release, resource.arch, resource.subarch,
                )  # fmt: skip
                row.kflavor, row.label, row.bootloader_type = resource.kflavor, resource.label, ""
                row.codename = resource.codename
                session.add(row)
            elif row.rtype != resource.rtype:
                raise Conflict(f"image {resource.name}: expected no synced image of this name, got one")
            row.title, row.base_image = resource.title, resource.base_image
            session.flush()
            elders = sorted((_stored(each) for each in row.sets), key=lambda each: (each.resource_set.order, each.id))
            wanted = {(file.name, file.ftype, file.sha256, file.size) for file in files}
            if elders and elders[-1].complete and elders[-1].marked is None:
                here = {(file.name, file.ftype, file.sha256, file.size) for file in elders[-1].resource_set.files}
                if here == wanted:
                    return elders[-1].resource_set.version
            version = _next_version(day, [each.resource_set.version for each in elders])
            session.execute(
                sa.update(SetRow).where(SetRow.resource_id == row.id, SetRow.marked.is_(None)).values(marked=now_text())
            )
            new = SetRow(resource_id=row.id, version=version, complete=True, created=now_text(), marked=None)
            session.add(new)
            session.flush()
            session.add_all(
                FileRow(
                    set_id=new.id, name=f.name, ftype=f.ftype, sha256=f.sha256, size=f.size, path="", kparams=f.kparams
                )
                for f in files
            )
            return version

    def retire(self, resource_name: str) -> None:
        """All versions of a resource are marked, to go after the grace time; incomplete ones go at once."""
        with self._database.begin() as session:
            of_it = SetRow.resource_id.in_(sa.select(ResourceRow.id).where(ResourceRow.name == resource_name))
            session.execute(sa.delete(SetRow).where(of_it, SetRow.complete.is_(False)))
            session.execute(sa.update(SetRow).where(of_it, SetRow.marked.is_(None)).values(marked=now_text()))
            _drop_empty_resources(session)

    def remove(self, set_ids: Iterable[int]) -> None:
        with self._database.begin() as session:
            session.execute(sa.delete(SetRow).where(SetRow.id.in_(list(set_ids))))
            _drop_empty_resources(session)


def _want(session: Session, wish: WantedSet) -> None:
    resource = wish.resource_set.resource
    row = session.scalar(sa.select(ResourceRow).where(ResourceRow.name == resource.name))
    if row is None:
        row = ResourceRow(name=resource.name)
        session.add(row)
    if wish.source_id is not None:
        row.source_id = int(wish.source_id)
    row.os, row.release, row.arch, row.subarch = resource.os, resource.release, resource.arch, resource.subarch
    row.kflavor, row.label, row.bootloader_type = resource.kflavor, resource.label, resource.bootloader_type
    row.title, row.codename = resource.title, resource.codename
    session.flush()
    found = session.scalar(
        sa.select(SetRow).where(SetRow.resource_id == row.id, SetRow.version == wish.resource_set.version)
    )
    if found is None:
        found = SetRow(
            resource_id=row.id, version=wish.resource_set.version, complete=False, created=now_text(), marked=None
        )
        session.add(found)
        session.flush()
    found.marked = None
    if wish.told is not None:
        found.told = asdict(wish.told)
    present = {file.name: file for file in found.files}
    if {name: file.sha256 for name, file in present.items()} != {f.name: f.sha256 for f in wish.resource_set.files}:
        found.complete = False  # a version whose content changed under its name is a new one in all but name
    for name in present.keys() - {file.name for file in wish.resource_set.files}:
        session.delete(present[name])
    for file in wish.resource_set.files:
        target = present.get(file.name)
        if target is None:
            target = FileRow(set_id=found.id, name=file.name)
            session.add(target)
        target.ftype, target.sha256, target.size = file.ftype, file.sha256, file.size
        target.path, target.kparams = wish.paths[file.name], file.kparams


def _next_version(day: str, taken: Sequence[str]) -> str:
    """*day*, else *day*.N with N one more than the highest taken (or 1)."""
    of_day = [version for version in taken if version.partition(".")[0] == day]
    if not of_day:
        return day
    return f"{day}.{1 + max(int(version.partition('.')[2] or 0) for version in of_day)}"


def _drop_empty_resources(session: Session) -> None:
    used = sa.select(SetRow.resource_id)
    session.execute(sa.delete(ResourceRow).where(ResourceRow.id.not_in(used)))


def _stored(row: SetRow) -> StoredSet:
    owner = row.resource
    resource = BootResource(
        os=owner.os,
        arch=owner.arch,
        release=owner.release,
        subarch=owner.subarch,
        label=owner.label,
        kflavor=owner.kflavor,
        title=owner.title,
        codename=owner.codename,
        bootloader_type=owner.bootloader_type,
        rtype=owner.rtype,
        base_image=owner.base_image,
    )
    files = tuple(ResourceFile(f.name, f.ftype, f.sha256, f.size, f.kparams) for f in row.files)
    return StoredSet(
        id=row.id,
        resource_set=ResourceSet(resource, row.version, files),
        complete=row.complete,
        created=row.created,
        marked=row.marked,
        source_id=str(owner.source_id) if owner.source_id is not None else None,
        paths={f.name: f.path for f in row.files},
        told=_told(row.told),
    )


def _told(found: dict[str, Any] | None) -> Told | None:
    if found is None:
        return None
    items = {name: (item, tags) for name, (item, tags) in found["items"].items()}
    return Told(found["product_id"], found["content_id"], found["tags"], items)
