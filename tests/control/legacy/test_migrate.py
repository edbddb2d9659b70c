"""The migration from a real PostgreSQL: every kind of row, the odd ones of facts too, and what is left afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.banners import MAAS_MIGRATION
from bootplane.control.errors import StartError
from bootplane.control.legacy import migrate, state
from bootplane.control.legacy.maas import Content, MaasDatabase, MaasError
from bootplane.control.legacy.migrate import Report
from bootplane.control.mirror_publish import pack
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.settings import SettingsRepository
from bootplane.dataplane.store import InsufficientSpace
from tests.fakes.maas import GENERATED, MISSING_OID, UPLOADED, Maas
from tests.fakes.mirror import content, make_file
from tests.fakes.regions import running

CarryOut = Callable[..., Report]
DryRun = Callable[[], Report]
AMD64 = "ubuntu/noble/amd64/ga-24.04"


def stored(data: Path) -> set[str]:
    """Digests in the store; each file is what its name says."""
    found = {path.name: path for path in (data / "image-storage").iterdir() if len(path.name) == 64}
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    assert not list((data / "image-storage" / ".partial").iterdir())
    return set(found)


def digest(name: str, size: int) -> str:
    return hashlib.sha256(content(name, size)).hexdigest()


def names(report: Report) -> set[str]:
    return {f"{row.name} {row.version}" for row in report.rows}


def test_a_synced_image_is_served_as_if_it_had_been_synced(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    maas.image("noble", kflavor="generic", file_extra={"kparams": "quiet"})
    assert carry_out().succeeded
    with running(data) as (region, client):
        shown = client.get(f"/api/v1/images/{AMD64}").json()
        assert (shown["version"], shown["complete"], shown["label"], shown["title"]) == (
            "20240501", True, "stable", "24.04 LTS",
        )  # fmt: skip
        assert {file["name"]: file["sha256"] for file in shown["files"]} == {
            "boot-kernel": digest("noble-amd64-kernel-20240501", 5000),
            "boot-initrd": digest("noble-amd64-initrd-20240501", 10_000),
            "squashfs": digest("noble-amd64-squashfs-20240501", 20_000),
        }
        names = region.publisher.current.contents.names
        assert names["ubuntu/amd64/ga-24.04/noble/stable/squashfs"] == digest("noble-amd64-squashfs-20240501", 20_000)
        assert {f.kparams for s in region.images.sets() for f in s.resource_set.files} == {"quiet"}


def test_what_came_is_selected_so_that_a_sync_keeps_it(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    maas.image("noble")
    maas.image("noble", architecture="amd64/hwe-24.04-lowlatency", kflavor="lowlatency")
    carry_out()
    carry_out()
    with running(data) as (_, client):
        (selection,) = client.get("/api/v1/selections").json()["items"]
        assert (selection["os"], selection["release"], selection["arches"], selection["subarches"]) == (
            "ubuntu", "noble", ["amd64"], ["ga-24.04", "hwe-24.04-lowlatency"],
        )  # fmt: skip


def test_a_sync_afterwards_has_nothing_to_fetch(maas: Maas, data: Path, carry_out: CarryOut, signer, tmp_path) -> None:
    """The same version at a source is the same set: not one byte of it travels."""
    from tests.fakes.filled import fill
    from tests.fakes.mirror import publish_small, serve

    publish_small(tmp_path / "source", signer)
    place = tmp_path / "source" / "noble/amd64/20250709"
    files = {
        "boot-kernel": maas.put_bytes((place / "ga-24.04/generic/boot-kernel").read_bytes()),
        "boot-initrd": maas.put_bytes((place / "ga-24.04/generic/boot-initrd").read_bytes()),
        "squashfs": maas.put_bytes((place / "squashfs").read_bytes()),
    }
    maas.resource("ubuntu/noble", "amd64/ga-24.04", files, version="20250709", kflavor="generic")
    assert carry_out().succeeded
    with serve(tmp_path / "source") as server, running(data) as (region, client):
        fill(region, client, server.url, signer.public())
        assert client.get(f"/api/v1/images/{AMD64}").json()["complete"]
        asked = [path for path in server.requests if path.startswith("noble/amd64/20250709/")]
        assert not [path for path in asked if path.endswith("/squashfs") or "/ga-24.04/" in path]


def test_a_boot_loader_is_unpacked(maas: Maas, data: Path, carry_out: CarryOut, tmp_path: Path) -> None:
    archive = pack({"bootx64.efi": make_file(tmp_path, "b", 700)}, tmp_path / "shim-signed.tar.xz")
    loader = {"shim-signed.tar.xz": maas.put_bytes(archive.read_bytes())}
    maas.resource("grub-efi-signed/uefi", "amd64/generic", loader, version="20231004.0", bootloader_type="uefi")
    report = carry_out()
    assert names(report) == {"grub-efi-signed/uefi/amd64 20231004.0"}
    with running(data) as (region, _):
        assert region.publisher.current.contents.names["bootx64.efi"] == digest("b", 700)


@pytest.mark.parametrize("rtype", [UPLOADED, GENERATED])
def test_an_upload_becomes_a_custom_image(rtype: int, maas: Maas, data: Path, carry_out: CarryOut) -> None:
    files = {"root-tgz": maas.put("upload", 3000)}
    options = {"rtype": rtype, "label": "uploaded", "base_image": "ubuntu/jammy", "extra": {"title": "Our own"}}
    maas.resource("web", "amd64/generic", files, filenames={"root-tgz": "root.tgz"}, **options)
    assert carry_out().succeeded and carry_out().succeeded
    with running(data) as (region, client):
        shown = client.get("/api/v1/images/custom/web/amd64/generic").json()
        assert (shown["version"], shown["title"], shown["complete"]) == ("20240501", "Our own", True)
        assert [(file["name"], file["sha256"]) for file in shown["files"]] == [("root-tgz", digest("upload", 3000))]
        (kept,) = region.images.sets()
        assert kept.resource_set.resource.is_uploaded and kept.resource_set.resource.base_image == "ubuntu/jammy"
        assert client.get("/api/v1/selections").json()["items"] == []


# -- the odd rows


def test_a_content_that_is_not_finished_is_left_and_said(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    files = maas.image("noble")
    maas.one("update maasserver_largefile set size = 1234 where id = %s returning id", files["squashfs"])
    report = carry_out()
    assert report.succeeded and not report.rows
    assert report.remarks == (
        "ubuntu/noble amd64/ga-24.04 20240501, squashfs: passed over: its download was not finished, 1234 of 20000 "
        "bytes; a sync fetches it",
    )
    assert stored(data) == set()


def test_a_content_that_was_never_started_is_left_and_said(maas: Maas, carry_out: CarryOut) -> None:
    files = maas.image("noble")
    oid = maas.large_object(b"")
    maas.one(
        "update maasserver_largefile set size = 0, content = %s where id = %s returning id", oid, files["squashfs"]
    )
    report = carry_out()
    assert report.succeeded and "its download was never started" in report.remarks[0]


def test_a_corrupt_content_is_named_and_the_others_come(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    bad = maas.image("noble")
    maas.image("jammy")
    oid = maas.large_object(b"x" * 20_000)
    maas.one("update maasserver_largefile set content = %s where id = %s returning id", oid, bad["squashfs"])
    report = carry_out()
    assert names(report) == {"ubuntu/jammy/amd64/ga-24.04 20240501"}
    assert not report.succeeded
    assert report.damaged == (
        "ubuntu/noble amd64/ga-24.04 20240501, squashfs: damaged: its bytes are not those of its sha256",
    )
    assert digest("noble-amd64-squashfs-20240501", 20_000) not in stored(data)
    with running(data) as (region, client):
        assert state.is_pending(region.settings_rows)
        (banner,) = [each for each in client.get("/api/v1/status").json()["banners"] if each["id"] == "maas-migration"]
        assert "machines cannot be commissioned or deployed" in banner["text"] and "migrate-maas" in banner["remedy"]
    assert carry_out(leave_damaged=True, unlink=True).succeeded
    with running(data) as (region, client):
        assert not state.is_pending(region.settings_rows)
        assert "maas-migration" not in {each["id"] for each in client.get("/api/v1/status").json()["banners"]}
    assert maas.one("select 1 from pg_largeobject_metadata where oid = %s", oid) == 1  # not ours to throw away


def test_of_a_resource_with_a_corrupt_newest_version_the_older_one_comes(maas: Maas, carry_out: CarryOut) -> None:
    maas.image("noble", version="20240401")
    newest = maas.image("noble", version="20240501")
    oid = maas.large_object(b"x" * 20_000)
    maas.one("update maasserver_largefile set content = %s where id = %s returning id", oid, newest["squashfs"])
    report = carry_out()
    assert names(report) == {f"{AMD64} 20240401"} and len(report.damaged) == 1


def test_an_object_shorter_than_its_row_is_damaged(maas: Maas, carry_out: CarryOut, dry_run: DryRun) -> None:
    files = maas.image("noble")
    oid = maas.one("select content::bigint from maasserver_largefile where id = %s", files["boot-kernel"])
    maas.one("select lo_put(%s::oid, 0, ''), lo_close(fd) from (select lo_open(%s::oid, 131072) fd) o "
             "where lo_truncate(fd, 4999) = 0", oid, oid)  # fmt: skip
    expected = (
        "ubuntu/noble amd64/ga-24.04 20240501, boot-kernel: damaged: expected 5000 bytes in its object, got 4999",
    )
    assert dry_run().damaged == expected
    assert carry_out().damaged == expected


def test_a_row_without_its_object_is_damaged(maas: Maas, carry_out: CarryOut) -> None:
    files = maas.image("noble")
    maas.one(
        "update maasserver_largefile set content = %s::oid where id = %s returning id", MISSING_OID, files["squashfs"]
    )
    assert carry_out().damaged == (
        "ubuntu/noble amd64/ga-24.04 20240501, squashfs: damaged: its row is there and its object is not",
    )


def test_what_nobody_names_is_left_there_and_said(maas: Maas, carry_out: CarryOut) -> None:
    maas.image("noble")
    maas.put("nobody's", 777)  # a row that no file names
    maas.large_object(b"no row names it")
    report = carry_out(unlink=True)
    assert report.succeeded
    assert report.remarks == (
        f"content {digest(chr(110) + 'obody' + chr(39) + 's', 777)[:16]}, 777 bytes: left there: no file names it",
        "1 large object: left there: no row of MAAS names them",
    )
    assert (report.removed_objects, maas.objects()) == (3, 2)


def test_one_content_under_several_files_is_read_once(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    ga = maas.image("noble")
    hwe = {**ga, "boot-kernel": maas.put("hwe-kernel", 5100)}
    maas.resource("ubuntu/noble", "amd64/hwe-24.04", hwe)
    report = carry_out()
    assert report.bytes_total == 5000 + 10_000 + 20_000 + 5100
    assert len(stored(data)) == 4 and len(report.rows) == 2


def test_an_empty_file_comes(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    empty = maas.put_bytes(b"")
    files = {"boot-kernel": maas.put("k", 10), "boot-initrd": maas.put("i", 10), "squashfs": maas.put("s", 10)}
    maas.resource("ubuntu/trusty", "armhf/generic", {**files, "boot-dtb": empty})
    assert carry_out().succeeded
    assert hashlib.sha256(b"").hexdigest() in stored(data)


def test_only_the_newest_whole_version_comes(maas: Maas, carry_out: CarryOut) -> None:
    for version in ("20240401", "20240501", "20240301"):
        maas.image("noble", version=version)
    unfinished = maas.image("noble", version="20240601")
    maas.one("update maasserver_largefile set size = 1 where id = %s returning id", unfinished["squashfs"])
    report = carry_out()
    assert names(report) == {f"{AMD64} 20240501"}
    assert [remark for remark in report.remarks if "is newer" in remark] == [
        "ubuntu/noble amd64/ga-24.04 20240401: passed over: 20240501 is newer",
        "ubuntu/noble amd64/ga-24.04 20240301: passed over: 20240501 is newer",
    ]
    assert report.bytes_total == 35_000


@pytest.mark.parametrize(
    ("name", "architecture", "options", "why"),
    [
        ("ubuntu/my noble", "amd64/ga-24.04", {}, "as release, got 'my noble'"),
        ("noble", "amd64/ga-24.04", {}, "expected a name of os and release, got 'noble'"),
        ("ubuntu/../etc", "amd64/ga-24.04", {}, "as release, got '../etc'"),
        ("caf\xe9", "amd64/generic", {"rtype": UPLOADED}, "as name, got 'caf\\xe9'"),
        ("ubuntu/noble", "../ga-24.04", {}, "as architecture, got '..'"),
        ("ubuntu/noble", "amd64/ga-24.04", {"label": "a label"}, "as label, got 'a label'"),
        ("ubuntu/noble", "amd64/ga-24.04", {"version": "../x"}, "as version, got '../x'"),
        ("ubuntu/noble", "amd64/ga-24.04", {"filenames": {"squashfs": "../x"}}, "as file name, got '../x'"),
    ],
)  # fmt: skip
def test_an_odd_name_is_left_with_the_reason(
    name: str, architecture: str, options: dict, why: str, maas: Maas, data: Path, carry_out: CarryOut
) -> None:
    files = {kind: maas.put(kind, 100) for kind in ("boot-kernel", "boot-initrd", "squashfs")}
    maas.resource(name, architecture, files, **options)
    maas.image("jammy")
    report = carry_out(unlink=True)
    assert report.succeeded and len(report.rows) == 1
    assert len(report.remarks) == 1 and why in report.remarks[0]
    assert maas.objects() == 3  # what has not come over stays


def test_an_incomplete_set_and_an_unknown_type_are_left_with_the_reason(maas: Maas, carry_out: CarryOut) -> None:
    maas.resource("ubuntu/noble", "amd64/ga-24.04", {"boot-kernel": maas.put("k", 10)})
    maas.resource("pxelinux/pxe", "i386/generic", {"bootloader": maas.put("p", 10)}, bootloader_type="pxe")
    report = carry_out()
    assert report.remarks == (
        "ubuntu/noble amd64/ga-24.04 20240501: passed over: it has no boot-initrd, squashfs",
        "pxelinux/pxe i386/generic 20240501: passed over: nobody here knows the file type 'bootloader'",
    )


# -- the whole


def test_a_dry_run_changes_nothing_and_says_all(maas: Maas, data: Path, dry_run: DryRun) -> None:
    maas.image("noble")
    maas.put("nobody", 1000)
    report = dry_run()
    assert not data.exists()
    assert (report.bytes_total, report.bytes_needed, report.space_query_bytes) == (35_000, 35_000, 36_000)
    assert maas.one(report.space_query) == 36_000
    assert [(row.name, row.kind, row.files, row.bytes, row.state) for row in report.rows] == [
        (AMD64, "synced", 3, 35_000, "comes")
    ]
    assert report.others == 1  # this test's own session: MAAS, for all it knows


def test_objects_stay_unless_told_and_go_when_told(maas: Maas, carry_out: CarryOut, dry_run: DryRun) -> None:
    maas.image("noble")
    assert (carry_out().removed_objects, maas.objects()) == (0, 3)
    done = carry_out(unlink=True)
    assert (done.removed_objects, done.removed_bytes, maas.objects()) == (3, 35_000, 0)
    again = carry_out(unlink=True)
    assert again.succeeded and again.removed_objects == 0 and again.remarks == ()
    assert [row.state for row in dry_run().rows] == ["here"]


@pytest.mark.parametrize("harm", [False, True])
def test_a_file_that_lost_its_row_is_hashed_before_it_is_believed(
    maas: Maas, data: Path, carry_out: CarryOut, harm: bool
) -> None:
    maas.image("noble")
    carry_out()
    name = digest("noble-amd64-squashfs-20240501", 20_000)
    database = Database(f"sqlite:///{data / 'region.sqlite'}")
    BlobRepository(database).lose([name])
    database.close()
    path = data / "image-storage" / name
    if harm:
        path.chmod(0o644)
        path.write_bytes(b"x" * 20_000)
    done = carry_out(unlink=True)
    assert done.succeeded and done.removed_objects == 3
    assert name in stored(data)


def test_a_rotten_file_is_mended_before_its_object_goes(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    maas.image("noble")
    carry_out()
    name = digest("noble-amd64-squashfs-20240501", 20_000)
    (data / "image-storage" / name).chmod(0o644)
    (data / "image-storage" / name).write_bytes(b"x" * 20_000)
    assert (carry_out(unlink=True).removed_objects, maas.objects()) == (3, 0)
    assert name in stored(data)


def test_the_rows_survive_a_power_cut_before_the_first_object_goes(
    maas: Maas, data: Path, carry_out: CarryOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLite has in its write-ahead log only is not on stable storage: the database is looked at without it."""
    maas.resource("web", "amd64/generic", {"root-tgz": maas.put("upload", 3000)}, rtype=UPLOADED)
    unlink = MaasDatabase.unlink

    def cut_first(self: MaasDatabase, content: Content) -> bool:
        shutil.copy(data / "region.sqlite", tmp_path / "cut.sqlite")
        return unlink(self, content)

    monkeypatch.setattr(MaasDatabase, "unlink", cut_first)
    assert carry_out(unlink=True).removed_objects == 1
    database = Database(f"sqlite:///{tmp_path / 'cut.sqlite'}")
    (found,) = ImageRepository(database).sets()
    assert found.complete and found.resource_set.resource.name == "custom/web/amd64/generic"
    assert not state.is_pending(SettingsRepository(database))
    database.close()


def test_a_wrong_database_begins_nothing(postgres: Any, data: Path) -> None:
    """Or a misspelt name would keep every machine from being deployed."""
    with postgres.database() as url, MaasDatabase(url) as other, migrate.target(data) as region:
        with pytest.raises(MaasError, match="expected the database of a MAAS"):
            migrate.migrate(other, region)
        assert not state.is_pending(region.settings) and region.board.since(MAAS_MIGRATION) is None


def test_what_has_succeeded_does_not_begin_again_when_the_database_has_gone(
    maas: Maas, data: Path, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    maas.image("noble")
    carry_out()

    def away(self: MaasDatabase) -> None:
        raise MaasError("MAAS database: cannot be read: the server has ended")

    with monkeypatch.context() as patch, pytest.raises(MaasError):
        patch.setattr(MaasDatabase, "read", away)
        carry_out(unlink=True)
    with migrate.target(data) as region:
        assert not state.is_pending(region.settings)


def test_an_older_maas_keeps_extras_as_text(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    maas.image("noble", file_extra={"kparams": "quiet"})
    for table in ("maasserver_bootresource", "maasserver_bootresourcefile"):
        maas.connection.execute(f"alter table {table} alter column extra type text using extra::text")
    assert carry_out().succeeded
    with running(data) as (region, client):
        assert client.get(f"/api/v1/images/{AMD64}").json()["title"] == "24.04 LTS"
        assert {f.kparams for s in region.images.sets() for f in s.resource_set.files} == {"quiet"}


def test_an_object_stays_when_neither_side_has_it_right(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    files = maas.image("noble")
    carry_out()
    path = data / "image-storage" / digest("noble-amd64-squashfs-20240501", 20_000)
    path.chmod(0o644)
    path.write_bytes(b"x" * 20_000)
    oid = maas.large_object(b"y" * 20_000)
    maas.one("update maasserver_largefile set content = %s where id = %s returning id", oid, files["squashfs"])
    assert carry_out(unlink=True).removed_objects == 2
    assert maas.one("select 1 from pg_largeobject_metadata where oid = %s", oid) == 1


def test_a_full_disk_is_said_before_the_first_byte(
    maas: Maas, data: Path, carry_out: CarryOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    maas.image("noble")
    monkeypatch.setenv("BOOTPLANE_DISK_RESERVE", str(1 << 50))
    with pytest.raises(InsufficientSpace, match=r"image-storage: expected 35000 bytes free, got 0"):
        carry_out()
    assert stored(data) == set()
    monkeypatch.delenv("BOOTPLANE_DISK_RESERVE")
    assert carry_out().succeeded


def test_large_objects_pass_in_pieces(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    maas.resource("big", "amd64/generic", {"root-tgz": maas.put("big", 5_000_001)}, rtype=UPLOADED)
    seen: list[int] = []
    assert carry_out(meter=lambda _what, total: seen.append(-total) or seen.append).succeeded
    assert seen[0] == -5_000_001 and sum(seen[1:]) == 5_000_001
    assert max(seen) == 1 << 20
    assert stored(data) == {digest("big", 5_000_001)}


def test_a_running_region_is_not_written_to(maas: Maas, data: Path, carry_out: CarryOut) -> None:
    with running(data), pytest.raises(StartError, match=rf"expected to be the only region here, .* pid {os.getpid()}"):
        carry_out()


def test_a_database_of_something_else_is_refused_in_one_sentence(postgres_url: str) -> None:
    with MaasDatabase(postgres_url) as other, pytest.raises(MaasError) as refused:
        other.read()
    assert "expected the database of a MAAS, got one without the table maasserver_bootresource" in str(refused.value)


def test_a_newer_maas_is_refused_in_one_sentence(maas: Maas, dry_run: DryRun) -> None:
    maas.connection.execute("drop table maasserver_largefile cascade")
    with pytest.raises(MaasError, match=r"expected the database of MAAS 3\.4 or older, got a newer one"):
        dry_run()


def test_no_password_stands_in_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(MaasError) as refused:
        MaasDatabase(f"postgresql://maas:geheim@/maas?host={tmp_path}")
    assert "geheim" not in str(refused.value) and str(refused.value).count("\n") == 0
