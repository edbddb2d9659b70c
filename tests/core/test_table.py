"""The name table: canonical names, their kinds, and lookups in an immutable snapshot."""

from __future__ import annotations

import gc
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.core.blob import Blob, counts, reap
from bootplane.core.table import Table, kind, normalise

FILE, DYNAMIC, EMPTY, CONTROL = range(4)
MAX_NAME = 512


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("bootx64.efi", "bootx64.efi"),
        ("/bootx64.efi", "bootx64.efi"),
        ("//grubx64.efi", "grubx64.efi"),  # shim 16.1 over HTTP
        ("bios//hello/vmlinuz", "bios/hello/vmlinuz"),  # PXELINUX glues its prefix on
        ("grub/./grub.cfg", "grub/grub.cfg"),
        (".", ""),
        ("/", ""),
        ("", ""),
        ("a/", "a"),
        (r"\EFI\BOOT\bootx64.efi", "EFI/BOOT/bootx64.efi"),
        (r"a\/b", "a/b"),
        ("a/.hidden", "a/.hidden"),
        ("a/...", "a/..."),
        ("a/..b", "a/..b"),
        ("é", "é"),
        (b"\xff", "\udcff"),
        ("..", None),
        ("a/../b", None),
        (r"a\..\b", None),
        ("a/..", None),
        ("a\0b", None),
        ("a\nb", None),
        ("a\x7fb", None),
        ("n" * MAX_NAME, "n" * MAX_NAME),
        ("n" * (MAX_NAME + 1), None),
        ("/" * 5000 + "n" * MAX_NAME, "n" * MAX_NAME),
        ("a/" * 256 + "b", None),  # 513 bytes
        ("a/" * 255 + "bc", "a/" * 255 + "bc"),  # 512 bytes
    ],
)
def test_a_wire_name_has_one_canonical_form_or_none(raw: str | bytes, canonical: str | None) -> None:
    assert normalise(raw) == canonical


@given(st.binary(max_size=700))
def test_normalising_is_idempotent_and_leaves_nothing_to_escape_with(raw: bytes) -> None:
    name = normalise(raw)
    if name is None:
        return
    assert normalise(name) == name
    assert "\\" not in name and not name.startswith("/")
    assert not {"", ".", ".."} & set(name.split("/")) or name == ""


@given(st.text(st.sampled_from("a./\\"), max_size=30))
def test_normalising_agrees_with_a_plain_model(raw: str) -> None:
    parts = raw.replace("\\", "/").split("/")
    expected = None if ".." in parts else "/".join(part for part in parts if part not in ("", "."))
    assert normalise(raw) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grub/grub.cfg", DYNAMIC),
        ("grub/grub.cfg-52:54:00:77:00:01", DYNAMIC),
        ("grub/x86_64-efi/grub.cfg-52:54:00:77:00:01", DYNAMIC),
        ("grub.cfg-default-amd64", DYNAMIC),
        ("debian-installer/arm64/grub/grub.cfg", DYNAMIC),  # the prefix that Debian's installer images build in
        ("debian-installer/arm64/grub/grub.cfg-52:54:00:77:00:01", DYNAMIC),
        ("debian-installer/arm64/notgrub/grub.cfg", FILE),
        ("debian-installer/arm64/notgrub/grub.cfg-1", FILE),
        ("grub.cfg", DYNAMIC),  # a GRUB that takes the folder it was loaded from, which is none
        ("other/grub.cfg", FILE),
        ("other/grub.cfg-default-amd64", FILE),
        ("grubby/grub.cfg-1", FILE),
        ("grub/grub.cfgx", FILE),
        ("pxelinux.cfg/default", DYNAMIC),
        ("pxelinux.cfg/01-52-54-00-77-00-01", DYNAMIC),
        ("bios/pxelinux.cfg/0A4D00CA", DYNAMIC),
        ("syslinux/pxelinux.cfg/default", DYNAMIC),
        ("pxelinux.cfg", FILE),
        ("pxelinux.cfg/a/b", FILE),
        ("xpxelinux.cfg/default", FILE),
        ("ipxe.cfg", DYNAMIC),
        ("ipxe.cfg-52:54:00:77:00:01", DYNAMIC),
        ("ipxe.cfgx", FILE),
        ("ipxe.cfg-1/x", FILE),
        ("grub/x86_64-efi/command.lst", EMPTY),
        ("command.lst", EMPTY),
        ("command.lstx", FILE),
        ("lst", FILE),
        ("MAAS", CONTROL),
        ("MAAS/metadata/latest/x.lst", CONTROL),
        ("MAASX/metadata", FILE),
        ("api", CONTROL),
        ("api/v1/status", CONTROL),
        ("apis", FILE),
        ("metrics", CONTROL),
        ("metrics/x", CONTROL),
        ("metricsx", FILE),
        ("", FILE),
        ("images/0123456789abcdef/ubuntu/amd64/ga-24.04/noble/stable/boot-kernel", FILE),
    ],
)
def test_the_kind_of_a_name_says_who_answers_it(name: str, expected: int) -> None:
    assert kind(name) == expected


class TestTable:
    blobs: ClassVar[list[Blob]] = [Blob.memory(bytes([i])) for i in range(4)]

    def test_a_name_is_found_in_every_spelling_that_means_it(self) -> None:
        a, b, *_ = self.blobs
        table = Table({"bootx64.efi": a, "/ubuntu//amd64/kernel": b}, 7)
        assert (table.version, len(table)) == (7, 2)
        assert table.find("bootx64.efi") == table.find("//bootx64.efi") == a.sha256
        assert table.find(r"\ubuntu\amd64\kernel") == table.find(b"ubuntu/amd64/kernel") == b.sha256

    def test_a_name_nobody_has_is_not_found(self) -> None:
        table = Table({"a": self.blobs[0]}, 1)
        for name in ("", "/", "..", "a/..", "A", "a/b", "aa", "n" * 600):
            assert table.find(name) is None

    def test_an_empty_table_finds_nothing(self) -> None:
        assert Table({}, 0).find("a") is None

    def test_two_spellings_of_one_name_may_mean_one_blob_only(self) -> None:
        a, b, *_ = self.blobs
        assert len(Table({"a/b": a, "a//b": a}, 1)) == 1
        with pytest.raises(ValueError, match=f"'a//b': expected one blob, got {a.sha256} and {b.sha256}"):
            Table({"a/b": a, "a//b": b}, 1)

    @pytest.mark.parametrize("name", ["", "/", "a/../b", "n" * 513, "a\nb"])
    def test_a_name_without_canonical_form_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="table 3: expected a name of 1 to 512 bytes"):
            Table({name: self.blobs[0]}, 3)

    def test_a_value_that_is_no_blob_is_refused(self) -> None:
        with pytest.raises(TypeError, match="'a': expected a Blob, got str"):
            Table({"a": "b"}, 1)  # type: ignore[dict-item]

    @given(st.dictionaries(st.text(st.sampled_from("abcdefgh/"), min_size=1, max_size=24), st.integers(0, 3)))
    def test_a_table_answers_as_a_dict_of_its_canonical_names(self, names: dict[str, int]) -> None:
        model = {}
        for name, i in names.items():
            canonical = normalise(name)
            if canonical:
                model.setdefault(canonical, i)
        table = Table({name: self.blobs[i] for name, i in model.items()}, 1)
        assert len(table) == len(model)
        for name in [*names, *model, "abc", "zz"]:
            canonical = normalise(name)
            expected = self.blobs[model[canonical]].sha256 if canonical in model else None
            assert table.find(name) == expected

    def test_ten_thousand_names_are_all_found(self) -> None:
        names = {
            f"images/{i:016x}/ubuntu/amd64/ga-24.04/noble/stable/boot-kernel": self.blobs[i % 4] for i in range(10000)
        }
        table = Table(names, 1)
        assert all(table.find(name) == blob.sha256 for name, blob in names.items())
        assert not any(table.find(name + "x") for name in names)

    @given(
        st.sets(st.text(st.sampled_from("abcd/"), min_size=1, max_size=6)),
        st.sets(st.text(st.sampled_from("abcd/"), min_size=1, max_size=6)),
    )
    def test_a_name_is_there_removed_or_nobodys(self, here: set[str], removed: set[str]) -> None:
        names = {canonical for name in here if (canonical := normalise(name))}
        gone = {canonical for name in removed if (canonical := normalise(name))} - names
        table = Table(dict.fromkeys(names, self.blobs[0]), 1, gone)
        assert len(table) == len(names)
        for name in [*here, *removed, "", "/", "..", "zz"]:
            canonical = normalise(name)
            assert table.find(name) == (self.blobs[0].sha256 if canonical in names else None)
            assert table.is_gone(name) == (canonical in gone)

    def test_a_removed_name_is_not_there_too_and_has_a_canonical_form(self) -> None:
        with pytest.raises(ValueError, match="'//a': expected it removed or there, got both"):
            Table({"a": self.blobs[0]}, 1, ["//a"])
        with pytest.raises(ValueError, match="table 3: expected a name of 1 to 512 bytes"):
            Table({}, 3, ["../a"])


def same_hash(name: bytes) -> bytes:
    """Another 16-byte name with the hash that table.pyx gives *name*: its function is no secret, nor need be."""
    mask = (1 << 64) - 1

    def step(h: int, word: bytes) -> int:
        h = (h ^ int.from_bytes(word, "little")) * 0xFF51AFD7ED558CCD & mask
        return h ^ h >> 32

    start = 0x9E3779B97F4A7C15 ^ len(name)
    for i in range(1000):
        first = b"%08d" % i
        xor = step(start, name[:8]) ^ step(start, first)  # what the second half must make up for
        second = (int.from_bytes(name[8:], "little") ^ xor).to_bytes(8, "little")
        if normalise(first + second) is not None and not set(second) & set(b"/\\"):
            return first + second
    raise AssertionError("no other name found")


def test_a_name_made_to_collide_with_another_is_not_taken_for_it() -> None:
    name = b"grub/grubx64.efi"
    other = same_hash(name)
    blob, evil = Blob.memory(b"loader"), Blob.memory(b"evil")
    assert Table({name: blob}, 1).find(other) is None  # type: ignore[dict-item]
    both = Table({name: blob, other: evil}, 1)  # type: ignore[dict-item]
    assert (both.find(name), both.find(other)) == (blob.sha256, evil.sha256)


def test_a_table_holds_a_reference_on_each_blob_for_each_name_and_gives_it_back() -> None:
    gc.collect()
    reap()
    before = counts()
    blob = Blob.memory(b"kernel")
    assert blob.references == 1
    table = Table({"a": blob, "b": blob}, 1)
    assert (blob.references, table.references) == (3, 1)
    sha256 = blob.sha256
    del blob
    assert table.find("a") == sha256
    del table
    reap()
    assert counts() == before


def test_a_table_that_could_not_be_built_leaks_no_reference() -> None:
    blob = Blob.memory(b"kernel")
    with pytest.raises(ValueError):
        Table({"a": blob, "..": blob}, 1)
    assert blob.references == 1
