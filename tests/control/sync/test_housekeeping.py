"""Store and database in step: after lost rows, lost files, cut files, strangers; and when something may go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet
from bootplane.control.mirror_publish import pack
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository, WantedSet
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.storage.timeline import Step
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.control.sync.removal import Removal
from bootplane.control.sync.users import MID_BOOT_S, SILENT_S, Users
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
        self.steps: list[Step] = []
        self.racks: list[Any] = []
        self.named: set[str] = set()  # what the catalogue names
        self.version = 1
        self.is_strange = False
        self.published = 0
        self.removal = self.remover()
        self.source = (
            SourceRepository(self.database)
            .add(name="m", url="http://m/", keyring=None, unsigned=True, priority=1, fingerprints=(), updated=None)
            .source.id
        )

    def remover(self, grace_s: float = 0.0) -> Removal:
        return Removal(
            self.store,
            self.blobs,
            self.images,
            Users(lambda: self.racks, lambda since: [step for step in self.steps if step.at >= since]),
            grace_s=grace_s,
            may_delete=lambda: not self.is_strange,
            publish=self._publish,
            published=lambda: SimpleNamespace(version=self.version, contents=SimpleNamespace(blobs=self.named)),  # type: ignore[arg-type,return-value]
        )

    def _publish(self) -> None:
        self.published += 1

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


def test_an_adopted_file_is_looked_at_soon(place: Place) -> None:
    sha256 = place.put(b"x", row=False)
    place.put(b"fetched, and so hashed just now")
    place.keeper.reconcile()
    due = place.blobs.due("")
    assert due is not None and due.sha256 == sha256
    place.blobs.checked(sha256)
    assert place.blobs.due("") is None


def test_a_file_with_a_digests_name_and_no_chunk_list_is_left_to_be_hashed(place: Place) -> None:
    foreign = place.store.path_of("ab" * 32)
    foreign.write_bytes(b"not ours")
    found = place.keeper.reconcile()
    assert (found.adopted, found.doubted) == ((), ("ab" * 32,))
    assert not place.store.has("ab" * 32) and place.store.found() == {"ab" * 32: 8}
    assert place.store.found_path("ab" * 32).read_bytes() == b"not ours"


def test_in_a_strange_store_a_chunk_list_is_no_proof_and_nothing_is_put_aside_for_a_time(place: Place) -> None:
    known, unknown = place.put(b"known"), place.put(b"unknown", row=False)
    (place.store.directory / "notes").write_bytes(b"a stranger")
    found = place.keeper.reconcile(is_strange=True)
    assert (found.adopted, found.doubted) == ((), (unknown,))
    assert place.store.has(known) and place.store.found() == {unknown: 7}
    [kept] = place.store.aside.kept()
    assert kept.until is None and kept.path.read_bytes() == b"a stranger"


def test_a_stranger_is_set_aside_with_one_line_and_goes_after_its_time(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    (place.store.directory / "notes.iso").write_bytes(b"x" * 1234)
    with caplog.at_level("WARNING", "bootplane.store"):
        patient = Housekeeper(place.store, place.blobs, place.images, grace_s=3600.0)
        assert patient.reconcile().set_aside == 1
    [line] = [record.getMessage() for record in caplog.records]
    [kept] = place.store.aside.kept()
    assert line == f"set aside: {kept.path}, 1234 bytes: not a file of this store; kept {kept.term}"
    assert kept.path.name == "notes.iso" and kept.until is not None
    place.removal.step()
    assert kept.path.exists()
    kept.path.parent.rename(kept.path.parent.with_name("until-20200101T000000Z"))
    place.removal.step()
    assert place.store.aside.kept() == [] and list(place.store.aside.directory.iterdir()) == []


SPARED = ("lost+found", "custom", "custom-bootloaders", "bootloaders", ".snapshot", ".zfs", "my folder")


def test_folders_links_and_what_file_systems_keep_for_themselves_are_spared(place: Place) -> None:
    for name in SPARED:
        (place.store.directory / name).mkdir()
        (place.store.directory / name / "precious").write_bytes(b"p")
    for name in (".nfs0000000000a1", ".fuse_hidden01", "aquota.user"):
        (place.store.directory / name).write_bytes(b"kept by the file system")
    (place.store.directory / ("cd" * 32)).symlink_to("/etc/hostname")
    before = sorted(path.name for path in place.store.directory.iterdir())
    for is_strange in (False, True):
        assert place.keeper.reconcile(is_strange=is_strange).set_aside == 0
    place.removal.step()
    assert sorted(path.name for path in place.store.directory.iterdir()) == before
    assert all((place.store.directory / name / "precious").exists() for name in SPARED)


def test_a_chunk_list_without_its_file_goes_at_the_next_start(place: Place) -> None:
    sha256 = place.put(b"stays")
    lists = place.store.directory / ".chunks"
    for name in ("ef" * 32, f".{'ef' * 32}.new"):
        (lists / name).write_bytes(b"left by a crash")
    place.keeper.reconcile()
    assert [path.name for path in lists.iterdir()] == [sha256]


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
    assert place.blobs.lost() == {sha256} and [*place.blobs.promised()] == [sha256]
    assert [each.complete for each in place.images.sets()] == [True]  # its names stay, for racks that hold it
    assert not place.blobs.is_removed(sha256)  # a rack is not told to forget it
    assert place.keeper.reconcile().missing == ()  # once
    place.put(data)
    assert place.blobs.lost() == set()


def test_a_lost_file_that_is_back_is_adopted(place: Place, tmp_path: Path) -> None:
    sha256 = place.put(b"on a disk that was not mounted")
    path, aside = place.store.path_of(sha256), tmp_path / "aside"
    chunks = place.store.chunk_list(sha256)
    path.rename(aside)
    place.keeper.reconcile()
    aside.rename(path)
    (place.store.directory / ".chunks" / sha256).write_bytes(chunks)
    assert place.keeper.reconcile().adopted == (sha256,)
    assert [*place.blobs.present()] == [sha256]


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
    assert place.blobs.lost() == {sha256_hex(b"shim")}
    assert place.keeper.unpack_archives(place.images.sets(), place.blobs.present()) == {}
    assert place.store.has(sha256_hex(b"shim")) and place.blobs.lost() == set()


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
    assert place.removal.step() == []
    assert place.store.partials() == []
    place.images.remove([set_id])
    assert set(place.removal.step()) == {sha256_hex(data), sha256_hex(b"shim")}
    assert dict(place.store.complete()) == {sha256_hex(other): len(other)}
    assert place.blobs.derived() == {}


def test_nothing_goes_before_its_grace_time(place: Place) -> None:
    sha256 = place.put(b"z")
    assert place.remover(grace_s=3600.0).step() == [] and place.store.has(sha256)


def test_what_is_being_written_or_uploaded_stays(place: Place) -> None:
    written, uploaded = "cd" * 32, place.put(b"brought by an operator")
    ingest = place.store.begin(written, 10)
    place.store.begin("ef" * 32, 10).suspend()
    place.removal.arriving = lambda: {uploaded, "ef" * 32}
    assert place.removal.step() == [] and set(place.store.partials()) == {written, "ef" * 32}
    ingest.suspend()
    place.removal.arriving = lambda: ()
    assert place.removal.step() == [uploaded] and place.store.partials() == []


def test_nothing_goes_while_the_store_is_strange(place: Place) -> None:
    sha256 = place.put(b"z")
    place.is_strange = True
    assert place.removal.step() == [] and place.store.has(sha256)
    assert place.blobs.marked_bytes() == 1
    place.is_strange = False
    assert place.removal.step() == [sha256] and not place.store.has(sha256)
    assert place.blobs.is_removed(sha256)


def test_the_bulk_port_has_been_told_before_a_file_goes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = place.put(b"z")
    seen: list[tuple[list[str], bool]] = []
    monkeypatch.setattr(place, "_publish", lambda: seen.append((place.blobs.removed(), place.store.has(sha256))))
    place.removal = place.remover()
    assert place.removal.step() == [sha256] and not place.store.has(sha256)
    assert seen == [([sha256], True)]


def test_what_an_upload_brings_again_while_that_is_published_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = place.put(b"z")
    monkeypatch.setattr(place, "_publish", lambda: place.put(b"z"))
    place.removal = place.remover()
    place.removal.step()
    assert place.store.has(sha256) and sha256 in place.blobs.present()


def test_a_blob_that_is_wanted_again_is_un_marked(place: Place) -> None:
    place.put(b"again")
    patient = place.remover(grace_s=3600.0)
    patient.step()
    assert place.blobs.marked_bytes() == 5
    place.want("root-tgz", b"again")
    patient.step()
    assert place.blobs.marked_bytes() == 0 and place.blobs.unnamed() == []


def test_what_a_set_names_by_now_is_not_taken_away(place: Place) -> None:
    sha256 = place.put(b"wanted in the last moment")
    place.want("root-tgz", b"wanted in the last moment")
    assert place.blobs.take_away([sha256]) == [] and not place.blobs.is_removed(sha256)


@pytest.mark.parametrize(
    ("told", "heard_s", "goes"),
    [(7, 0.0, False), (8, 0.0, True), (None, 0.0, True), (7, SILENT_S + 60, True), (7, SILENT_S - 60, False)],
)
def test_a_blob_stays_while_a_rack_has_a_catalogue_with_it(
    place: Place, told: int | None, heard_s: float, goes: bool
) -> None:
    sha256 = place.put(b"z")
    place.version = 8  # the first without it
    heard = (datetime.now(UTC) - timedelta(seconds=heard_s)).isoformat()
    place.racks = [
        SimpleNamespace(catalogue_version=9, last_seen=datetime.now(UTC).isoformat()),
        SimpleNamespace(catalogue_version=told, last_seen=heard),
        SimpleNamespace(catalogue_version=None, last_seen=None),
    ]
    assert place.removal.step() == ([sha256] if goes else [])
    place.racks[1].catalogue_version = 8
    assert place.removal.step() == ([] if goes else [sha256])


FILE = "root-tgz"
MAC, ADDRESS = "52:54:00:77:00:01", "10.0.0.7"


def superseded(place: Place) -> tuple[int, str]:
    """A complete set whose time is over; its id, and its file's name on the wire."""
    place.put(b"old")
    old = place.want(FILE, b"old")
    place.images.complete([old])
    place.put(b"new")
    place.images.complete([place.want(FILE, b"new", "2")])
    return old, f"/images/{sha256_hex(b'old')[:16]}/os/amd64/generic/x/stable/file"


def test_a_set_stays_while_a_machine_has_fetched_of_it_and_not_reported(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    old, name = superseded(place)
    now = time.time()
    place.steps = [Step(now - 60, "transfer", MAC, ADDRESS, name, "complete")]
    with caplog.at_level("INFO", "bootplane.store"):
        assert place.removal.step() == place.removal.step() == []
    assert [record.getMessage() for record in caplog.records] == [
        f"os//amd64/ 1 is kept beyond its time: machine {MAC} has fetched files of it and has not reported yet"
    ]
    assert old in {each.id for each in place.images.sets()}
    place.steps.append(Step(now, "report", MAC, "10.0.0.8", "init-local", "SUCCESS"))
    assert place.removal.step() == [sha256_hex(b"old")]


@pytest.mark.parametrize(
    "steps",
    [
        [Step(-MID_BOOT_S - 60, "transfer", MAC, ADDRESS, "{}", "complete")],  # long ago
        [Step(-60, "transfer", MAC, ADDRESS, "images/" + "0" * 16 + "/os/file", "complete")],  # of something else
        [Step(-60, "transfer", MAC, ADDRESS, "{}", "complete"), Step(-9, "report", "", ADDRESS, "up", "SUCCESS")],
        [Step(-60, "transfer", "", ADDRESS, "{}", "complete"), Step(-9, "report", MAC, ADDRESS, "up", "SUCCESS")],
        [Step(60, "config", MAC, ADDRESS, "grub.cfg", "boots")],  # after it was superseded: it names the new one
        [Step(-60, "config", MAC, ADDRESS, "grub.cfg", "nothing")],
    ],
)
def test_a_machine_that_is_not_in_mid_boot_on_it_holds_nothing(place: Place, steps: list[Step]) -> None:
    _, name = superseded(place)
    place.steps = [step._replace(at=time.time() + step.at, name=step.name.format(name)) for step in steps]
    assert place.removal.step() == [sha256_hex(b"old")]


@pytest.mark.parametrize(
    "steps",
    [
        [Step(-60, "config", MAC, ADDRESS, "grub.cfg", "boots")],
        [Step(-60, "transfer", MAC, ADDRESS, "{}", "complete"), Step(-90, "report", MAC, ADDRESS, "up", "SUCCESS")],
        [Step(-60, "transfer", MAC, ADDRESS, "{}", "cut"), Step(-9, "report", "52:54:00:00:00:02", ADDRESS, "", "")],
        [Step(-60, "transfer", "", ADDRESS, "{}", "complete")],
    ],
)
def test_a_machine_that_may_still_ask_for_it_holds_it(place: Place, steps: list[Step]) -> None:
    _, name = superseded(place)
    place.steps = [step._replace(at=time.time() + step.at, name=step.name.format(name)) for step in steps]
    assert place.removal.step() == []


def test_a_superseded_set_stays_while_machines_begin_with_it_and_has_its_grace_time_from_then(place: Place) -> None:
    old, _ = superseded(place)
    new, before = sha256_hex(b"new"), place.images.sets()[0].marked
    place.blobs.lose([new])
    assert place.removal.step() == place.removal.step() == [] and place.store.has(sha256_hex(b"old"))
    kept = next(each for each in place.images.sets() if each.id == old)
    assert before is not None and kept.marked is not None and kept.marked > before
    place.blobs.record([BlobRecord(new, 3, "ab" * 32)])
    assert place.removal.step() == [sha256_hex(b"old")]  # there is no grace time here


def test_a_set_that_is_no_longer_wanted_goes_although_its_newer_one_has_lost_a_file(place: Place) -> None:
    old, _ = superseded(place)
    place.images.decide((), (), [each.id for each in place.images.sets()])
    place.blobs.lose([sha256_hex(b"new")])
    assert sha256_hex(b"old") in place.removal.step() and old not in {each.id for each in place.images.sets()}


def test_at_most_some_missing_files_have_a_line_of_their_own(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    digests = [place.put(b"%d" % number) for number in range(30)]
    for sha256 in digests:
        place.store.path_of(sha256).unlink()
    with caplog.at_level("ERROR", "bootplane.store"):
        assert len(place.keeper.reconcile().missing) == 30
    assert len(caplog.records) == 21 and caplog.records[-1].getMessage() == "and 10 more files that are missing"
