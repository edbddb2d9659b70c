"""Store and database in step: after lost rows, lost files, cut files, and when something may go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet
from bootplane.control.mirror_publish import pack
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository, WantedSet
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.core.digest import sha256_hex
from bootplane.dataplane.store import Store


class Place:
    """A store, a database and the housekeeper between them."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'x.sqlite'}")
        self.database.migrate()
        self.store = Store(folder)
        self.blobs, self.images = BlobRepository(self.database), ImageRepository(self.database)
        self.keeper = Housekeeper(self.store, self.blobs, self.images, grace_s=0.0)
        self.source = (
            SourceRepository(self.database)
            .add(name="m", url="http://m/", keyring=None, unsigned=True, priority=1, fingerprints=(), updated=None)
            .source.id
        )

    def put(self, data: bytes, *, row: bool = True) -> str:
        sha256 = sha256_hex(data)
        with self.store.begin(sha256, len(data)) as ingest:
            ingest.write(data)
            root = ingest.commit().root
        if row:
            self.blobs.record([BlobRecord(sha256, len(data), root)])
        return sha256

    def want(self, ftype: str, data: bytes, version: str = "1") -> int:
        kind = "uefi" if ftype == "archive.tar.xz" else ""
        resource = BootResource("os", "amd64", "", "", "stable", bootloader_type=kind)
        file = ResourceFile("file", ftype, sha256_hex(data), len(data))
        self.images.decide([WantedSet(ResourceSet(resource, version, (file,)), self.source, {"file": "f"})], (), ())
        return next(each.id for each in self.images.sets() if each.resource_set.version == version)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.database.close()


def archive(tmp_path: Path, **files: bytes) -> bytes:
    paths = {}
    for name, data in files.items():
        path = tmp_path / f"{name}.efi"
        path.write_bytes(data)
        paths[path.name] = path
    return pack(paths, tmp_path / "a.tar.xz").read_bytes()


def test_a_complete_file_the_database_does_not_know_is_adopted(place: Place) -> None:
    sha256 = place.put(b"x" * 3_000_000, row=False)
    found = place.keeper.reconcile()
    assert (found.adopted, found.missing) == ((sha256,), ())
    assert place.blobs.present()[sha256].size == 3_000_000
    assert place.keeper.reconcile().adopted == ()


def test_a_foreign_file_with_a_digests_name_is_left_alone(place: Place) -> None:
    foreign = place.store.path_of("ab" * 32)
    foreign.write_bytes(b"not ours")
    assert place.keeper.reconcile().adopted == () and foreign.exists()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_lost_or_cut_file_is_wanted_again(place: Place, damage: str) -> None:
    data = b"y" * 5000
    sha256 = place.put(data)
    set_id = place.want("root-tgz", data)
    place.images.complete([set_id])
    if damage == "missing":
        place.store.path_of(sha256).unlink()
    else:
        place.store.path_of(sha256).write_bytes(data[:100])
    assert place.keeper.reconcile().missing == (sha256,)
    assert place.blobs.present() == {} and not place.store.has(sha256)
    assert [each.complete for each in place.images.sets()] == [False]
    assert not place.blobs.is_removed(sha256)  # a rack is not told to forget it


def test_a_boot_loader_is_ready_once_it_is_unpacked(place: Place, tmp_path: Path) -> None:
    data = archive(tmp_path, bootx64=b"shim", grubx64=b"grub" * 1000)
    sha256 = place.put(data)
    place.want("archive.tar.xz", data)
    sets = place.images.sets()
    assert place.keeper.ready(sets, place.blobs.present()) == []
    assert place.keeper.unpack_archives(sets, place.blobs.present()) == {}
    assert [file.name for file in place.blobs.derived()[sha256]] == ["bootx64.efi", "grubx64.efi"]
    assert place.store.path_of(sha256_hex(b"shim")).read_bytes() == b"shim"
    assert len(place.keeper.ready(sets, place.blobs.present())) == 1


def test_a_lost_boot_loader_file_is_unpacked_again(place: Place, tmp_path: Path) -> None:
    data = archive(tmp_path, bootx64=b"shim")
    place.put(data)
    place.images.complete([place.want("archive.tar.xz", data)])
    place.keeper.unpack_archives(place.images.sets(), place.blobs.present())
    place.store.path_of(sha256_hex(b"shim")).unlink()
    place.keeper.reconcile()
    assert [each.complete for each in place.images.sets()] == [False]
    assert place.keeper.unpack_archives(place.images.sets(), place.blobs.present()) == {}
    assert (
        place.store.has(sha256_hex(b"shim"))
        and len(place.keeper.ready(place.images.sets(), place.blobs.present())) == 1
    )


def test_an_archive_that_is_none_is_refused_by_name_and_the_others_go_on(place: Place, tmp_path: Path) -> None:
    bad, good = b"this is no archive at all", archive(tmp_path, bootx64=b"shim")
    for number, data in enumerate((bad, good)):
        place.put(data)
        place.want("archive.tar.xz", data, str(number))
    refused = place.keeper.unpack_archives(place.images.sets(), place.blobs.present())
    assert list(refused) == [sha256_hex(bad)]
    assert "os/uefi/amd64 0: file: expected a .tar.xz archive" in refused[sha256_hex(bad)]
    assert sha256_hex(good) in place.blobs.derived()


def test_what_no_set_names_goes_with_its_unpacked_files_and_partials(place: Place, tmp_path: Path) -> None:
    data, other = archive(tmp_path, bootx64=b"shim"), b"used"
    for content in (data, other):
        place.put(content)
    set_id = place.want("archive.tar.xz", data)
    place.want("root-tgz", other, "2")
    place.keeper.unpack_archives(place.images.sets(), place.blobs.present())
    place.store.begin("cd" * 32, 10).suspend()
    assert place.keeper.sweep(place.images.sets()) == []
    assert place.store.partials() == []
    place.images.remove([set_id])
    assert set(place.keeper.sweep(place.images.sets())) == {sha256_hex(data), sha256_hex(b"shim")}
    assert dict(place.store.complete()) == {sha256_hex(other): len(other)}
    assert place.blobs.derived() == {}


def test_nothing_goes_before_its_grace_time(place: Place) -> None:
    sha256 = place.put(b"z")
    patient = Housekeeper(place.store, place.blobs, place.images, grace_s=3600.0)
    assert patient.sweep([]) == [] and place.store.has(sha256)
