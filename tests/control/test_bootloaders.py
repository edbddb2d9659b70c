"""Boot loader archives: what unpacks, and what refuses the whole archive."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootplane.control import bootloaders
from bootplane.control.bootloaders import ArchiveRefused, unpack

NAME = "http://m.invalid/bootloaders/uefi/amd64/1/shim-signed.tar.xz"


def tar(*members: tuple[tarfile.TarInfo, bytes] | tuple[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg() or info.type == tarfile.CONTTYPE:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


SHIM = ("bootx64.efi", b"shim" * 1000)
GRUB = ("grubx64.efi", b"")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_flat_archive_gives_its_files_in_order(form: int) -> None:
    assert list(unpack(xz(tar(SHIM, GRUB, form=form)), NAME).items()) == [SHIM, GRUB]


def test_an_archive_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.xz"
    path.write_bytes(xz(tar(SHIM)))
    assert unpack(path) == dict([SHIM])
    with pytest.raises(ArchiveRefused, match="expected a whole"):
        path.write_bytes(xz(tar(SHIM))[:-20])
        unpack(path)


def test_a_leading_dot_folder_as_tar_makes_it_is_tolerated() -> None:
    archive = tar((member(".", tarfile.DIRTYPE), b""), ("./bootx64.efi", b"x"))
    assert unpack(xz(archive)) == {"bootx64.efi": b"x"}


def test_streams_in_a_row_with_padding_are_one_archive() -> None:
    whole = tar(SHIM, GRUB)
    assert unpack(xz(whole[:1000]) + b"\0" * 8 + xz(whole[1000:]) + b"\0" * 4) == dict([SHIM, GRUB])


def sparse() -> bytes:
    """An old GNU sparse member, which claims 1 GiB and holds none of it."""
    info = member("big.efi", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"10000000000\0"  # realsize, octal
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + b"\0" * 1024


def pax_sparse() -> bytes:
    info = tarfile.TarInfo("big.efi")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    info.size = 512
    out = info.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0")
    return out + b"\0" * 1024


def damaged_second_header() -> bytes:
    whole = bytearray(tar(SHIM, ("mmx64.efi", b"y")))
    whole[512 + 4096 + 5] ^= 0xFF  # in the name of the second member, under its checksum
    return bytes(whole)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "symbolic link": (lambda: xz(tar((member("a.efi", tarfile.SYMTYPE, "/etc/passwd"), b""))), "got a symbolic link"),
    "hard link": (lambda: xz(tar(SHIM, (member("a.efi", tarfile.LNKTYPE, "bootx64.efi"), b""))), "got a hard link"),
    "device": (lambda: xz(tar((member("a", tarfile.CHRTYPE), b""))), "got a character device"),
    "block device": (lambda: xz(tar((member("a", tarfile.BLKTYPE), b""))), "got a block device"),
    "fifo": (lambda: xz(tar((member("a", tarfile.FIFOTYPE), b""))), "got a FIFO"),
    "folder": (lambda: xz(tar((member("efi", tarfile.DIRTYPE), b""))), "got a folder"),
    "contiguous": (lambda: xz(tar((member("a", tarfile.CONTTYPE), b"x"))), "got type b'7'"),
    "in a folder": (lambda: xz(tar(("efi/bootx64.efi", b"x"))), "expected a plain file name"),
    "dot dot": (lambda: xz(tar(("../bootx64.efi", b"x"))), "member '../bootx64.efi': expected a plain file name"),
    "two dots": (lambda: xz(tar(("..", b"x"))), "expected a plain file name"),
    "absolute": (lambda: xz(tar(("/etc/cron.d/x", b"x"))), "expected a plain file name"),
    "backslash": (lambda: xz(tar(("a\\b", b"x"))), "expected a plain file name"),
    "hidden": (lambda: xz(tar((".profile", b"x"))), "expected a plain file name"),
    "control": (lambda: xz(tar(("a\nb", b"x"))), "member 'a\\nb'"),
    "not ascii": (lambda: xz(tar(("größe", b"x"))), "member 'gr\\xf6\\xdfe'"),
    "long": (lambda: xz(tar(("a" * 300, b"x"))), "expected a plain file name"),
    "twice": (lambda: xz(tar(SHIM, SHIM)), "expected each name once, got 'bootx64.efi' twice"),
    "twice with a dot": (lambda: xz(tar(SHIM, ("./bootx64.efi", b""))), "got 'bootx64.efi' twice"),
    "sparse": (lambda: xz(sparse()), "got a sparse file"),
    "sparse pax": (lambda: xz(pax_sparse()), "got a sparse file"),
    "no file": (lambda: xz(tar()), "expected boot loader files, got none"),
    "many files": (lambda: xz(tar(*((f"f{n}", b"") for n in range(600)))), "at most 512 files"),
    "bomb": (lambda: xz(tar(("a", b"\0" * (65 << 20)))), "at most 67108864 bytes once unpacked"),
    "bomb in pieces": (lambda: xz(b"\0" * (8 << 20)) * 9, "at most 67108864 bytes once unpacked"),
    "big": (lambda: b"\xfd7zXZ\0" + b"\0" * (33 << 20), "expected at most 33554432 bytes"),
    "cut": (lambda: xz(tar(SHIM))[:-30], "cut off"),
    "cut tar": (lambda: xz(tar(SHIM)[:2000]), "expected a tar archive inside"),
    "damaged header": (lambda: xz(damaged_second_header()), "got a damaged header"),
    "tail": (lambda: xz(tar(SHIM) + b"more"), "got a damaged header"),
    "gzip": (lambda: b"\x1f\x8b\x08" + b"\0" * 100, "expected a .tar.xz archive, got something else"),
    "html": (lambda: b"<html>not found</html>", "expected a .tar.xz archive, got something else"),
    "not a tar": (lambda: xz(b"hello" * 1000), "expected a tar archive inside"),
    "empty": (lambda: b"", "got an empty one"),
    "empty xz": (lambda: xz(b""), "got an empty one"),
    "more after": (lambda: xz(tar(SHIM)) + b"junk" * 10, "expected a .tar.xz archive"),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_refuses_the_whole_archive_in_one_sentence(name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(ArchiveRefused) as caught:
        unpack(make(), NAME)
    sentence = str(caught.value)
    assert sentence.startswith(NAME + ": ") and words in sentence and sentence.isprintable()


def test_an_archive_that_needs_too_much_memory_to_unpack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootloaders, "XZ_MEMORY_BYTES", 1 << 16)
    with pytest.raises(ArchiveRefused, match=r"expected a \.tar\.xz archive"):
        unpack(xz(tar(SHIM)), NAME)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2047), st.binary(min_size=1, max_size=40))
def test_a_mangled_tar_is_unpacked_or_refused_and_nothing_else(at: int, noise: bytes) -> None:
    whole = bytearray(tar(("a.efi", b"x" * 100), ("b.efi", b"y" * 10)))
    whole[at : at + len(noise)] = noise
    try:
        files = unpack(xz(bytes(whole)))
    except ArchiveRefused as error:
        assert str(error).isprintable()
    else:
        assert all("/" not in name and not name.startswith(".") for name in files)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_inside_are_unpacked_or_refused(data: bytes) -> None:
    with pytest.raises(ArchiveRefused):
        unpack(xz(data) if data else b"")
