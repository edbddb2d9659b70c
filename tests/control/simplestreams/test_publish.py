"""Publishing: nothing half-written, nothing rewritten, one sentence when it cannot be done."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootplane.control.bootloaders import unpack
from bootplane.control.mirror_publish import PublishError, PublishItem, PublishProduct, Signer, image, pack, publish
from tests.fakes.mirror import make_file, publish_small, small_loaders


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with Signer.generate(tmp_path_factory.mktemp("signer") / "home", algorithm="ed25519") as made:
        yield made


def small(folder: Path, serial: str = "1", salt: str = "") -> PublishProduct:
    files = {name: make_file(folder, name + salt, 100) for name in ("kernel", "initrd", "squashfs")}
    return image(serial=serial, **files)


def test_publishing_again_changes_nothing_but_documents(tmp_path: Path) -> None:
    publish_small(tmp_path / "m", None)
    before = {p: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()}
    publish_small(tmp_path / "m", None)
    after = {p: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()}
    assert set(before) == set(after)
    assert {p.suffix for p in before if before[p] != after[p]} <= {".json"}


def test_other_content_under_a_published_path_is_refused_and_the_old_stays(tmp_path: Path) -> None:
    publish(tmp_path / "m", [small(tmp_path / "in")], None)
    before = {p: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()}
    with pytest.raises(PublishError, match=r"expected the published content .*: use another serial"):
        publish(tmp_path / "m", [small(tmp_path / "in", salt="changed")], None)
    assert {p: p.read_bytes() for p in (tmp_path / "m").rglob("*") if p.is_file()} == before


def test_versions_of_a_product_gather_under_it(tmp_path: Path) -> None:
    publish(tmp_path / "m", [small(tmp_path / "a", "1"), small(tmp_path / "b", "2", "2")], None)
    listed = json.loads((tmp_path / "m/streams/v1/com.ubuntu.maas:stable:v3:download.json").read_text())
    (product,) = listed["products"].values()
    assert sorted(product["versions"]) == ["1", "2"]


def test_contradictions_are_refused_in_one_sentence(tmp_path: Path) -> None:
    one, two = small(tmp_path / "a", "1"), small(tmp_path / "a", "2")
    hostile = replace(one, items=(PublishItem("x", "squashfs", "../x", tmp_path / "a" / "kernel"),))
    missing = replace(one, items=(PublishItem("x", "squashfs", "x", tmp_path / "nothing"),))
    clash = replace(two, items=(PublishItem("x", "squashfs", one.items[0].path, tmp_path / "a" / "initrd"),))
    for products, words in [
        ([one, one], "expected version 1 once, got it twice"),
        ([one, replace(two, tags={**two.tags, "os": "x"})], "expected the same tags for every version"),
        ([hostile], "path '../x': expected a plain relative path"),
        ([missing], "cannot be published: No such file or directory"),
        ([one, clash], "expected one file, got"),
    ]:
        with pytest.raises(PublishError) as caught:
            publish(tmp_path / "m", products, None)
        assert words in str(caught.value)
    assert not (tmp_path / "m" / "streams").exists()


def test_links_share_the_file_and_copies_do_not(tmp_path: Path) -> None:
    publish(tmp_path / "linked", [small(tmp_path / "in")], None, link=True)
    publish(tmp_path / "copied", [small(tmp_path / "in")], None)
    publish(tmp_path / "linked", [small(tmp_path / "in")], None, link=True)  # once more over itself
    kernel = tmp_path / "in" / "kernel"
    path = "noble/amd64/1/ga-24.04/generic/boot-kernel"
    assert (tmp_path / "linked" / path).samefile(kernel)
    assert not (tmp_path / "copied" / path).samefile(kernel)
    assert (tmp_path / "copied" / path).read_bytes() == kernel.read_bytes()
    assert not [p for root in ("linked", "copied") for p in (tmp_path / root).rglob("*.part")]


def test_an_unsigned_publication_leaves_no_signature_of_an_earlier_one(tmp_path: Path, signer: Signer) -> None:
    assert publish(tmp_path / "m", [small(tmp_path / "in")], signer).index.name == "index.sjson"
    assert publish(tmp_path / "m", [small(tmp_path / "in")], None).index.name == "index.json"
    assert {p.suffix for p in (tmp_path / "m/streams/v1").iterdir()} == {".json"}


def test_a_packed_archive_is_the_same_each_time_and_unpacks(tmp_path: Path) -> None:
    files = {name: make_file(tmp_path, name, 3000) for name in ("grubx64.efi", "bootx64.efi")}
    one, two = pack(files, tmp_path / "1.tar.xz"), pack(files, tmp_path / "2.tar.xz")
    assert one.read_bytes() == two.read_bytes()
    assert unpack(one) == {name: path.read_bytes() for name, path in files.items()}
    for product in small_loaders(tmp_path / "loaders"):
        for item in product.items:
            assert unpack(item.source) and tarfile.is_tarfile(item.source)


def test_a_signer_in_a_folder_too_deep_for_sockets_works(tmp_path: Path) -> None:
    home = tmp_path / ("d" * 60) / ("e" * 60) / "home"
    with Signer.generate(home, algorithm="ed25519") as signer:
        assert b"BEGIN PGP SIGNED MESSAGE" in signer.clearsign(b"text\n")
        short = Path(signer._homedir()).parent
        assert short.exists()
    assert not short.exists() and (home / "pubring.kbx").exists()


def test_a_missing_gpg_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PublishError, match=r"gpg: expected it on PATH .*; install the package gnupg"):
        Signer.generate(tmp_path / "home")


def test_what_gpg_says_is_handed_on(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="expected success, got exit status 2: gpg: "):
        Signer.generate(tmp_path / "home", algorithm="rot13")
