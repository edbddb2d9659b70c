"""What is published: names of complete sets only, the newest offered, versions that rise only with the content."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from bootplane.control.catalogue import Publisher, contents, names_by_file, stand_ins
from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet
from bootplane.control.storage.blobs import BlobRecord, DerivedFile
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import StoredSet
from bootplane.control.storage.settings import SettingsRepository
from bootplane.dataplane.catalogue import PinnedKey, SigningKey, open_signed


def sha(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


def image(version: str = "1", *, complete: bool = True, subarch: str = "ga-24.04", label: str = "stable") -> StoredSet:
    resource = BootResource("ubuntu", "amd64", "noble", subarch, label)
    files = tuple(
        ResourceFile(name, name, sha(f"{name[-1]}{version}{subarch}{label}"), 10)
        for name in ("boot-kernel", "boot-initrd", "squashfs")
    )
    return StoredSet(hash((version, subarch, label)), ResourceSet(resource, version, files), complete, "2026")


def loader(os_name: str, arch: str, archive: str, kind: str = "uefi", label: str = "stable") -> StoredSet:
    resource = BootResource(os_name, arch, "", "", label, bootloader_type=kind)
    file = ResourceFile(f"{archive}.tar.xz", "archive.tar.xz", sha(archive), 10)
    return StoredSet(hash(archive), ResourceSet(resource, "1", (file,)), True, "2026")


def present(*sets: StoredSet, derived: dict[str, tuple[DerivedFile, ...]] | None = None) -> dict[str, BlobRecord]:
    digests = {file.sha256 for each in sets for file in each.resource_set.files}
    digests |= {file.sha256 for inner in (derived or {}).values() for file in inner}
    return {digest: BlobRecord(digest, 10, "ab" * 32) for digest in digests}


UPLOADED = BootResource("ubuntu", "amd64", "noble", "ga-24.04", "uploaded", rtype="uploaded")
KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def test_machines_begin_with_the_newest_version_of_which_no_file_is_lost() -> None:
    sets = [image("1"), image("2"), image("3")]
    kernels = [each.resource_set.files[0].sha256 for each in sets]
    for lost, version in (
        ([], 3),
        ([kernels[0]], 3),
        ([kernels[2]], 2),
        ([kernels[2], kernels[1]], 1),
        (kernels, 3),
    ):
        made = contents(sets, {}, present(*sets), set(lost))
        assert [each.version for each in made.offered] == [str(version)]
        assert made.names[KERNEL] == kernels[version - 1]
        by_content = {digest for name, digest in made.names.items() if name.startswith("images/")}
        assert by_content == set(present(*sets))  # whoever has begun with another one goes on to find it


def test_a_lost_package_list_is_no_reason_to_begin_with_an_older_version() -> None:
    old, new = image("1"), image("2")
    manifest = ResourceFile("squashfs.manifest", "manifest", sha("list"), 10)
    files = (*new.resource_set.files, manifest)
    new = replace(new, resource_set=replace(new.resource_set, files=files))
    made = contents([old, new], {}, present(old, new), {manifest.sha256})
    assert [each.version for each in made.offered] == ["2"]


def test_of_a_boot_loader_what_was_unpacked_counts_and_not_its_archive() -> None:
    old, new = loader("grub-efi", "amd64", "one"), loader("grub-efi", "amd64", "two")
    new = replace(new, resource_set=replace(new.resource_set, version="2"))
    derived = {sha(name): (DerivedFile("grubx64.efi", sha(f"{name} inner"), 10),) for name in ("one", "two")}
    held = present(old, new, derived=derived)
    assert contents([old, new], derived, held, {sha("two")}).names["grubx64.efi"] == sha("two inner")
    assert contents([old, new], derived, held, {sha("two inner")}).names["grubx64.efi"] == sha("one inner")


def test_only_what_stands_in_for_a_version_that_is_still_wanted_is_a_stand_in() -> None:
    old, new = replace(image("1"), marked="2026"), image("2")
    kernel = {new.resource_set.files[0].sha256}
    assert stand_ins([old, new], {}, kernel) == [old]
    assert stand_ins([old, new], {}, set()) == []
    assert stand_ins([old, replace(new, marked="2026")], {}, kernel) == []  # deselected: both go
    assert stand_ins([new], {}, kernel) == []


def test_a_deleted_upload_never_stands_in() -> None:
    old, new = (
        replace(each, resource_set=replace(each.resource_set, resource=UPLOADED)) for each in (image("1"), image("2"))
    )
    old = replace(old, marked="2026")
    made = contents([old, new], {}, present(old, new), {new.resource_set.files[0].sha256})
    assert [each.version for each in made.offered] == ["2"]


def test_a_set_that_is_not_complete_has_no_names() -> None:
    made = contents([image(complete=False)], {}, present(image()))
    assert (made.names, made.blobs, made.offered) == ({}, {}, ())


def test_the_newest_complete_set_has_the_tree_names_and_an_older_one_its_names_by_content() -> None:
    old, new, coming = image("1"), image("2"), image("3", complete=False)
    made = contents([old, new, coming], {}, present(old, new, coming))
    assert made.names["ubuntu/amd64/ga-24.04/noble/stable/squashfs"] == new.resource_set.files[2].sha256
    by_content = {name for name, digest in made.names.items() if digest == old.resource_set.files[2].sha256}
    assert len(by_content) == 1 and by_content.pop().startswith("images/")
    assert [each.version for each in made.offered] == ["2"]
    assert set(made.blobs) == set(made.names.values())
    assert not any(file.sha256 in made.blobs for file in coming.resource_set.files)


def test_a_package_list_that_could_not_be_had_keeps_nothing_from_being_served() -> None:
    one = image()
    held = present(one)
    listed = ResourceFile("squashfs.manifest", "manifest", sha("m"), 5)
    files = (*one.resource_set.files, listed)
    with_list = replace(one, resource_set=replace(one.resource_set, files=files))
    made = contents([with_list], {}, held)
    assert "ubuntu/amd64/ga-24.04/noble/stable/squashfs" in made.names
    assert not any("manifest" in name for name in made.names)


def test_unpacked_boot_loaders_have_the_names_firmware_asks_for() -> None:
    signed = loader("grub-efi-signed", "amd64", "shim")
    derived = {sha("shim"): (DerivedFile("bootx64.efi", sha("boot"), 10), DerivedFile("grubx64.efi", sha("grub"), 10))}
    made = contents([signed], derived, present(signed, derived=derived))
    assert made.names["bootx64.efi"] == sha("boot") and made.names["bootloader/uefi/amd64/grubx64.efi"] == sha("grub")
    assert sha("shim") not in made.blobs  # the archive itself is nobody's


def test_pxelinux_under_two_arches_is_one_program() -> None:
    sets = [loader("pxelinux", "amd64", "syslinux", "pxe"), loader("pxelinux", "i386", "syslinux", "pxe")]
    derived = {sha("syslinux"): (DerivedFile("lpxelinux.0", sha("lpx"), 10),)}
    made = contents(sets, derived, present(*sets, derived=derived))
    assert made.names["pxelinux.0"] == made.names["bootloader/pxe/i386/lpxelinux.0"] == sha("lpx")
    assert made.left_out == ()


def test_of_two_files_for_one_bare_name_the_tested_one_is_served_and_the_other_is_reported() -> None:
    sets = [loader("grub-efi-signed", "amd64", "a", label="candidate"), loader("grub-efi-signed", "amd64", "b")]
    derived = {sha(each): (DerivedFile("bootx64.efi", sha(f"boot{each}"), 10),) for each in "ab"}
    made = contents([*sets, image()], derived, present(*sets, image(), derived=derived))
    assert made.names["bootx64.efi"] == sha("bootb")
    assert len(made.left_out) == 1 and "candidate" in made.left_out[0]
    assert "ubuntu/amd64/ga-24.04/noble/stable/squashfs" in made.names


def test_names_by_file_are_the_names_that_still_mean_this_file() -> None:
    old, new = image("1"), image("2")
    made = contents([old, new], {}, present(old, new))
    names = names_by_file(new.resource_set, made.names)["squashfs"]
    assert names[0].startswith("images/") and "ubuntu/amd64/ga-24.04/noble/stable/squashfs" in names
    assert len(names_by_file(old.resource_set, made.names)["squashfs"]) == 1


@pytest.fixture
def settings(tmp_path: Path) -> SettingsRepository:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    return SettingsRepository(database)


def test_the_version_rises_with_the_content_only_and_over_restarts(settings: SettingsRepository) -> None:
    key = SigningKey.generate()
    one, two = contents([image()], {}, present(image())), contents([], {}, {})
    publisher = Publisher("r1", key, settings)
    assert [publisher.publish(each).version for each in (two, two, one, one, two)] == [1, 1, 2, 2, 3]
    assert [Publisher("r1", key, settings).publish(each).version for each in (two, one)] == [3, 4]


def test_what_is_published_opens_with_the_pinned_key_and_no_other(settings: SettingsRepository) -> None:
    key = SigningKey.generate()
    published = Publisher("r1", key, settings).publish(contents([image()], {}, present(image())))
    opened = open_signed(published.body, published.signature, PinnedKey(key.public_hex))
    assert (opened.region, opened.version, dict(opened.names)) == ("r1", 1, dict(published.contents.names))
    with pytest.raises(ValueError, match="signature"):
        open_signed(published.body, published.signature, PinnedKey(SigningKey.generate().public_hex))


async def test_a_waiting_rack_hears_of_a_new_version_at_once(settings: SettingsRepository) -> None:
    publisher = Publisher("r1", SigningKey.generate(), settings)
    publisher.attach(asyncio.get_running_loop())
    first = publisher.publish(contents([], {}, {}))
    assert await publisher.newer_than(-1, 0) is first
    assert await publisher.newer_than(first.version, 0.0) is None
    waiting = asyncio.create_task(publisher.newer_than(first.version, 60.0))
    await asyncio.sleep(0)
    second = await asyncio.to_thread(publisher.publish, contents([image()], {}, present(image())))
    assert await waiting is second


async def test_racks_are_let_go_when_the_region_ends(settings: SettingsRepository) -> None:
    publisher = Publisher("r1", SigningKey.generate(), settings)
    publisher.attach(asyncio.get_running_loop())
    version = publisher.publish(contents([], {}, {})).version
    waiting = asyncio.create_task(publisher.newer_than(version, 60.0))
    await asyncio.sleep(0)
    publisher.end_waits()
    assert await waiting is None
