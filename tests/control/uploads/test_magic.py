"""The first bytes of real archives against the type they are said to be."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from bootplane.control.errors import Refused
from bootplane.control.uploads.magic import HEAD_BYTES, check, kind_of
from bootplane.control.uploads.rules import TYPES
from tests.fakes import archives


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archives")
    return {kind: archives.archive(folder, kind).read_bytes()[:HEAD_BYTES] for kind in TYPES}


@pytest.mark.parametrize("kind", TYPES)
def test_a_real_archive_is_of_its_type(files: dict[str, bytes], kind: str) -> None:
    check(TYPES[kind], "amd64", files[kind], kind)


# Types whose first bytes cannot tell them apart: what is in them is a tar either way, and bzip2 gives nothing away
# before the end of its first block.
ALIKE = [{"tgz", "ddtgz"}, {"tbz", "ddtbz", "ddbz2"}, {"txz", "ddtxz"}]


@pytest.mark.parametrize("said", TYPES)
@pytest.mark.parametrize("kind", TYPES)
def test_any_other_type_is_refused_and_a_type_that_fits_is_named(files: dict[str, bytes], kind: str, said: str) -> None:
    if kind == said or any({kind, said} <= group for group in ALIKE):
        return
    with pytest.raises(Refused, match=rf"expected .*--type {said} says, got ") as refused:
        check(TYPES[said], "amd64", files[kind], "x")
    if kind not in ("tbz", "ddtbz", "ddbz2"):
        suggested = str(refused.value).rpartition("--type ")[2].rstrip("?")
        check(TYPES[suggested], "amd64", files[kind], "x")


def test_kernel_initrd_and_squashfs_are_known(tmp_path: Path) -> None:
    head = {
        "boot-kernel": archives.kernel(tmp_path).read_bytes()[:HEAD_BYTES],
        "boot-initrd": archives.initrd(tmp_path).read_bytes()[:HEAD_BYTES],
        "squashfs": archives.squashfs(tmp_path).read_bytes()[:HEAD_BYTES],
    }
    for ftype, data in head.items():
        check(ftype, "amd64", data, ftype)
        for other, wrong in head.items():
            if other != ftype:
                with pytest.raises(Refused):
                    check(ftype, "amd64", wrong, ftype)
    check("boot-kernel", "arm64", archives.kernel(tmp_path, "arm64").read_bytes()[:HEAD_BYTES], "arm")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"QFI\xfb" + bytes(600), "qemu-img convert -O raw"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (bytes(HEAD_BYTES), "begins with 00 00"),
        (b"PK\x03\x04" + bytes(600), "a zip archive"),
        (b"\x55\xaa", "begins with 55 aa"),
    ],
)
def test_what_operators_take_for_a_disk_image_is_named(head: bytes, words: str) -> None:
    with pytest.raises(Refused) as refused:
        check("root-dd.raw", "amd64", head, "disk")
    assert words in str(refused.value)


def test_a_manifest_is_text() -> None:
    check("manifest", "amd64", b"adduser\t3.137\n", "m")
    with pytest.raises(Refused, match="in text"):
        check("manifest", "amd64", b"\x1f\x8b\0\0", "m")


def test_an_old_tar_without_a_mark_is_known_by_its_checksum() -> None:
    block = bytearray(512)
    block[0:4] = b"disk"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert kind_of(bytes(block)) == "tar"
    block[1] ^= 1
    assert kind_of(bytes(block)) == ""


@pytest.mark.parametrize("size", [0, 1, 5, 511])
def test_a_short_file_is_refused_and_nothing_else_goes_wrong(size: int) -> None:
    for ftype in (*TYPES.values(), "squashfs", "boot-kernel", "boot-initrd"):
        with pytest.raises(Refused):
            check(ftype, "amd64", b"\x1f\x8b"[:size] if ftype == "root-dd.raw" else bytes(size), ftype)


@pytest.mark.parametrize("name", ["BZhang.img", "PK\x03\x04", "hsqs", "07070/disk"])
def test_a_tar_is_a_tar_whatever_its_first_file_is_called(name: str) -> None:
    head = tarfile.TarInfo(name).tobuf() + bytes(1024)
    assert kind_of(head) == "tar"
    check("root-dd.tar", "amd64", head, "image")
