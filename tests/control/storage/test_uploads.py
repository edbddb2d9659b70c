"""Uploads and uploaded images in the database: versions, elders, names of sources."""

from __future__ import annotations

import pytest

from bootplane.control.domain.images import UPLOADED, BootResource, ResourceFile, ResourceSet
from bootplane.control.errors import Conflict
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository, StoredSet, WantedSet
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.storage.uploads import COMPLETE, FAILED, RECEIVING, UploadRepository


def made(arch: str = "amd64", title: str = "Web", base: str = "ubuntu/noble") -> BootResource:
    return BootResource("custom", arch, "web", "generic", "uploaded", title=title, rtype=UPLOADED, base_image=base)


def files(content: int) -> tuple[ResourceFile, ...]:
    return (ResourceFile("root-tgz", "root-tgz", f"{content:064x}", 10 + content),)


def told(sets: list[StoredSet]) -> list[tuple[str, bool, bool]]:
    """(version, complete, marked)"""
    return [(each.resource_set.version, each.complete, each.marked is not None) for each in sets]


def test_each_upload_of_a_day_is_a_version_and_marks_the_one_before(database: Database) -> None:
    images = ImageRepository(database)
    versions = [images.add_uploaded(made(), files(number), "20261122") for number in range(12)]
    assert versions == ["20261122", *(f"20261122.{number}" for number in range(1, 12))]
    assert told(images.sets()) == [(version, True, version != versions[-1]) for version in versions]
    assert images.add_uploaded(made(), files(12), "20261123") == "20261123"
    assert told(images.sets())[-2:] == [("20261122.11", True, True), ("20261123", True, False)]
    (newest,) = (each for each in images.sets() if each.marked is None)
    assert (newest.resource_set.resource, newest.resource_set.files) == (made(), files(12))
    assert newest.source_id is None


def test_the_same_files_again_are_the_same_version_with_a_new_title(database: Database) -> None:
    images = ImageRepository(database)
    images.add_uploaded(made(), files(1), "20261122")
    assert images.add_uploaded(made(title="Other", base="centos/8"), files(1), "20261123") == "20261122"
    (only,) = images.sets()
    assert (only.resource_set.resource.title, only.resource_set.resource.base_image) == ("Other", "centos/8")


def test_after_a_delete_the_same_files_are_a_new_version(database: Database) -> None:
    images = ImageRepository(database)
    images.add_uploaded(made(), files(1), "20261122")
    images.add_uploaded(made("arm64"), files(1), "20261122")
    images.retire("custom/web/amd64/generic")
    assert [(each.resource_set.resource.arch, each.marked is not None) for each in images.sets()] == [
        ("amd64", True), ("arm64", False),
    ]  # fmt: skip
    assert images.add_uploaded(made(), files(1), "20261122") == "20261122.1"


def test_a_synced_image_keeps_its_name(database: Database) -> None:
    sources, images = SourceRepository(database), ImageRepository(database)
    source = sources.add(
        name="m", url="http://m/", keyring=b"k", unsigned=False, priority=None, fingerprints=(), updated=None
    ).source
    synced = BootResource("centos", "amd64", "golden", "generic", "stable")
    images.decide([WantedSet(ResourceSet(synced, "1", files(1)), source.id, {"root-tgz": "p"})], (), ())
    upload = BootResource("centos", "amd64", "golden", "generic", "uploaded", rtype=UPLOADED)
    with pytest.raises(Conflict, match="expected no synced image of this name"):
        images.add_uploaded(upload, files(2), "20261122")
    assert told(images.sets()) == [("1", False, False)]


def test_a_source_offers_until_it_is_removed_and_what_cannot_be_a_name_is_left_out(database: Database) -> None:
    sources = SourceRepository(database)
    source = sources.add(
        name="m", url="http://m/", keyring=b"k", unsigned=False, priority=None, fingerprints=(), updated=None
    ).source
    sources.offer(source.id, [("ubuntu", "noble"), ("ubuntu", "noble"), ("pxelinux", ""), ("x" * 65, "y")])
    assert sources.offered() == {("ubuntu", "noble"), ("pxelinux", "")}
    sources.offer(source.id, [("ubuntu", "jammy")])
    assert sources.offered() == {("ubuntu", "jammy")}
    sources.remove("m")
    assert sources.offered() == set()
    sources.offer(source.id, [("ubuntu", "jammy")])
    assert sources.offered() == set()


def test_an_upload_comes_back_as_it_was_announced_and_goes_with_its_files(database: Database) -> None:
    uploads = UploadRepository(database)
    first = uploads.add(made(), files(1))
    second = uploads.add(made("arm64"), files(2))
    assert uploads.list() == [first, second] and uploads.get(first.id) == first and uploads.get("none") is None
    assert (first.state, first.resource, first.files, first.size) == (RECEIVING, made(), files(1), 11)
    uploads.fail(first.id, "wrong")
    uploads.complete(second.id, "20261122")
    assert [(each.state, each.error, each.version) for each in uploads.list()] == [
        (FAILED, "wrong", None), (COMPLETE, None, "20261122"),
    ]  # fmt: skip
    uploads.renew(first.id, made(title="New"))
    renewed = uploads.get(first.id)
    assert renewed is not None and (renewed.state, renewed.error, renewed.resource.title) == (RECEIVING, None, "New")
    assert renewed.touched > first.touched
    assert uploads.digests() == {files(1)[0].sha256}  # those of the other are its image's
    uploads.remove(first.id)
    assert uploads.digests() == set() and [each.id for each in uploads.list()] == [second.id]
