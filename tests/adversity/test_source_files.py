"""A matrix of faults, 2: files, archives, the wire; each through ``bootplane sync --wait`` with a new serial upstream.

One file of it goes wrong. The command exits 1 with one sentence (where, expected, got), or 0 where the fault can be
borne; everything else of the serial arrives and is offered; the version before stays where it is not; the bytes that
move are counted; the store holds nothing half. When the mirror is mended, the next sync brings what lacked, and only
that.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bootplane.control.simplestreams.signer import Signer
from bootplane.control.sync import download
from tests.fakes.mirror import UBUNTU_LIST, Fault, bootloader, serve, small_products
from tests.fakes.operator import INDEX, Operator, operator

pytestmark = pytest.mark.integration
GA, HWE = "ubuntu/noble/amd64/ga-24.04", "ubuntu/noble/amd64/hwe-24.04"
KERNEL_BYTES = 30_000
CUT = 12_345
PIECES = 1 << 20  # what may be on its way when a body is given up


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with Signer.generate(tmp_path_factory.mktemp("key"), algorithm="ed25519") as made:
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Iterator[Operator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "STALL_S", 0.3)
        with operator(tmp_path_factory.mktemp("files"), signer, patch) as made:
            made.add()
            made.sync()
            yield made


@pytest.fixture
def site(whole: Operator) -> Iterator[Operator]:
    yield whole
    whole.mirror.faults.clear()


class Case(NamedTuple):
    """*words*: of the sentence; "" where the sync completes all the same. *moved*: least and most body bytes of the
    kernel in the faulty sync."""

    fault: Callable[[Operator], Fault | list[Fault]]
    words: str
    moved: tuple[int, int]


def always(**options: Any) -> Callable[[Operator], Fault]:
    return lambda site: Fault(**options)


def then_well(**options: Any) -> Callable[[Operator], list[Fault]]:
    return lambda site: [Fault(**options)]


def cut_and(**options: Any) -> Callable[[Operator], list[Fault]]:
    """The first answer is cut; what comes next is the fault."""
    return lambda site: [Fault(cut_after=CUT), Fault(**options)]


def changed_meanwhile(site: Operator) -> list[Fault]:
    """Cut; and when the rest is asked for, the mirror's file has another tag (and the same bytes)."""
    data = (site.mirror.root / site.kernel()).read_bytes()
    return [Fault(cut_after=CUT), Fault(body=data, headers={"ETag": '"other"'})]


def packed(site: Operator) -> Fault:
    data = gzip.compress((site.mirror.root / site.kernel()).read_bytes())
    return Fault(body=data, headers={"Content-Encoding": "gzip"})


def to(location: str) -> Callable[[Operator], Fault]:
    return lambda site: Fault(status=302, headers={"Location": location or site.mirror.url + site.kernel()})


NONE, ONCE, TWICE = (0, 0), (KERNEL_BYTES, KERNEL_BYTES), (2 * KERNEL_BYTES, 2 * KERNEL_BYTES)
WRONG = b"x" * KERNEL_BYTES
CASES = {
    "wrong bytes": Case(always(body=WRONG), "sha256 differs: expected ", TWICE),
    "wrong bytes once": Case(then_well(body=WRONG), "", TWICE),
    "a byte too few": Case(always(body=WRONG[1:]), "size: expected 30000 bytes, got 29999", (0, 29_999)),
    "a byte too many": Case(always(body=WRONG + b"x"), "size: expected 30000 bytes, got 30001", (0, 30_001)),
    "announced as 1 TB": Case(
        always(headers={"Content-Length": str(1 << 40)}), f"size: expected 30000 bytes, got {1 << 40}", ONCE
    ),
    "endless": Case(always(is_endless=True), "expected ", (KERNEL_BYTES, 64 << 20)),
    "empty": Case(always(body=b""), "size: expected 30000 bytes, got 0", NONE),
    "a page": Case(always(body=b"<html>no</html>"), "size: expected 30000 bytes, got 15", (0, 15)),
    "packed": Case(packed, "expected the file as it is, got it in encoding 'gzip'", (0, KERNEL_BYTES + 100)),
    "not there": Case(always(status=404), "expected the file, got 404", NONE),
    "gone": Case(always(status=410), "expected the file, got 410", NONE),
    "forbidden": Case(always(status=403), "expected the file, got 403", NONE),
    "unauthorised": Case(always(status=401), "expected the file, got 401", NONE),
    "a teapot": Case(always(status=418), "expected the file, got 418", NONE),
    "down": Case(always(status=500), "expected the file, got 500", NONE),
    "down for a moment": Case(then_well(status=503), "", ONCE),
    "busy": Case(then_well(status=429, headers={"Retry-After": "0"}), "", ONCE),
    "busy for a while": Case(then_well(status=429, headers={"Retry-After": "1"}), "", ONCE),
    "busy for days": Case(
        always(status=429, headers={"Retry-After": "172800"}),
        "got 429 Too Many Requests, and not to come back for 172800 s", NONE,
    ),
    "busy until a date": Case(
        always(status=503, headers={"Retry-After": "Fri, 31 Dec 2099 23:59:59 GMT"}), "and not to come back for", NONE
    ),
    "busy until nonsense": Case(then_well(status=503, headers={"Retry-After": "soon"}), "", ONCE),
    "a redirect in a circle": Case(to(""), "expected at most 5 redirects, got more", NONE),
    "a redirect into the file system": Case(to("file:///etc/passwd"), "got a redirect to file:", NONE),
    "a redirect to ftp": Case(to("ftp://127.0.0.1/x"), "an http, https or file URL, got the scheme 'ftp'", NONE),
    "a redirect to nowhere": Case(always(status=302), "expected a redirect to say where, got no Location", NONE),
    "a redirect to nobody": Case(
        to("http://127.0.0.1:9/x"), "redirected: http://127.0.0.1:9/x: expected an answer, got: Connection", NONE
    ),
    "reset": Case(always(is_reset=True), "expected an answer, got: Connection reset by peer", NONE),
    "reset once": Case(then_well(is_reset=True), "", ONCE),
    "cut": Case(then_well(cut_after=CUT), "", ONCE),
    "cut each time after a byte": Case(always(cut_after=1), "expected 30000 bytes, got an end after", (4, 8)),
    "cut, no ranges": Case(cut_and(ignore_range=True), "", (KERNEL_BYTES + CUT,) * 2),
    "cut, changed meanwhile": Case(changed_meanwhile, "", (KERNEL_BYTES + CUT,) * 2),
    "cut, then 416": Case(cut_and(status=416), "", (KERNEL_BYTES + CUT,) * 2),
    "cut, another range": Case(
        cut_and(status=206, body=b"x" * 9, headers={"Content-Range": "bytes 0-8/30000"}), "",
        (KERNEL_BYTES + CUT, KERNEL_BYTES + CUT + 9),
    ),
    "cut, a range of another size": Case(
        cut_and(status=206, body=b"x" * (KERNEL_BYTES - CUT), headers={"Content-Range": f"bytes {CUT}-29999/31000"}),
        "", (KERNEL_BYTES + CUT, 2 * KERNEL_BYTES),
    ),
    "cut, wrong bytes in the rest": Case(
        cut_and(status=206, body=b"x" * (KERNEL_BYTES - CUT), headers={"Content-Range": f"bytes {CUT}-29999/30000"}),
        "", TWICE,
    ),
    "cut, then down": Case(lambda site: [Fault(cut_after=CUT), *[Fault(status=500)] * 20], "got 500", (CUT, CUT)),
    "drips": Case(always(drip_s=0.02), "expected at least 65536 bytes in 0 s, got ", (1, 10 * KERNEL_BYTES)),
}  # fmt: skip


def table(cases: dict[str, Any]) -> list[Any]:
    return [pytest.param(case, id=name) for name, case in cases.items()]


@pytest.mark.parametrize("case", table(CASES))
def test_one_file_that_goes_wrong_stops_nothing_else(site: Operator, case: Case) -> None:
    before = site.state()
    site.publish()
    version = str(site.serial)
    kernel = site.kernel()
    site.mirror.faults[kernel] = case.fault(site)
    site.forget()
    if case.words:
        sentence = site.refused("sync", "--wait")
        assert case.words in sentence and sentence.startswith("The sync failed: ")
        assert kernel in sentence and site.mirror.url in sentence
    else:
        site.sync()
    least, most = case.moved
    turns = 2 if "404" in case.words or "410" in case.words else 1  # the stream may have moved on: looked at once more
    assert least <= site.sent[kernel] <= most * turns or least == most == 0
    others = {path: sent for path, sent in site.sent.items() if not path.startswith("streams/") and path != kernel}
    assert all(sent == (site.mirror.root / path).stat().st_size for path, sent in others.items()), "each file once"

    now = site.state()
    site.is_sound()
    assert now.images[HWE] == version
    assert now.images[GA] == (before.images[GA] if case.words else version)
    assert before.blobs <= now.blobs  # nothing good is thrown away
    kept = [path.name for path in (site.region.store.directory / ".partial").iterdir()]
    wanted = hashlib.sha256((site.mirror.root / kernel).read_bytes()).hexdigest()
    assert set(kept) <= {wanted} if case.words else kept == []

    site.mirror.faults.clear()
    site.forget()
    site.sync()
    assert site.state().images[GA] == version and site.banners() == {}
    assert site.item_bytes() <= (KERNEL_BYTES if case.words else 0)  # and only that
    site.is_sound()


def test_a_stream_that_moves_while_it_is_synced_is_read_once_more(site: Operator) -> None:
    site.publish()
    old = site.kernel()

    def move() -> None:
        site.publish()
        (site.mirror.root / old).unlink()

    site.mirror.faults[old] = [Fault(first=move)]
    site.forget()
    site.sync()
    assert site.state().images[GA] == str(site.serial) and old.split("/")[2] != str(site.serial)
    assert site.mirror.requests.count(INDEX) == 2


def test_a_file_that_is_not_there_costs_one_more_look_and_not_a_loop(site: Operator) -> None:
    site.publish()
    site.mirror.faults[site.kernel()] = Fault(status=404)
    site.forget()
    site.refused("sync", "--wait")
    assert site.mirror.requests.count(INDEX) == 2 and site.mirror.requests.count(site.kernel()) == 2


def test_a_file_refused_again_and_again_has_a_banner_until_it_is_had(site: Operator) -> None:
    site.sync()
    site.publish()
    site.mirror.faults[site.kernel()] = Fault(body=WRONG)
    site.refused("sync", "--wait")
    assert "files-refused" not in site.banners()
    site.refused("sync", "--wait")
    banners = site.banners()
    assert banners["files-refused"].startswith("1 file could not be had in the last syncs: ")
    assert site.kernel() in banners["files-refused"] and "sha256 differs" in banners["files-refused"]
    assert banners["sync"].startswith("The last 2 syncs failed: ")
    site.mirror.faults.clear()
    site.sync()
    assert site.banners() == {}


def test_a_source_that_stops_answering_leaves_all_as_it_is(site: Operator, tmp_path: Path) -> None:
    before = site.state()
    url = "http://127.0.0.1:9/"
    sentence = site.refused("source", "add", url, "--keyring", site.keyring())
    assert sentence == f"{url}streams/v1/index.sjson: expected an answer, got: Connection refused"
    site.mirror.faults[INDEX] = Fault(is_reset=True)
    assert "Connection reset by peer" in site.refused("sync", "--wait")
    assert list(site.banners()) == ["source-away-1", "sync"] and site.state() == before
    site.mirror.faults.clear()
    site.sync()
    assert site.banners() == {}


# -- what the lists say of files


def product(document: Any, subarch: str = "ga-24.04") -> Any:
    """The items of an image of the serial published last."""
    (version,) = document["products"][f"com.ubuntu.maas.stable:v3:boot:24.04:amd64:{subarch}"]["versions"].values()
    return version["items"]


def say(site: Operator, change: Callable[[Any], None]) -> None:
    """A new serial whose list is changed before it is signed."""
    site.publish()
    document = site.document(f"{UBUNTU_LIST}.json")
    change(document)
    site.sign(f"{UBUNTU_LIST}.sjson", document)


def other_digest_same_path(document: Any) -> None:
    product(document)["boot-kernel"]["path"] = product(document, "hwe-24.04")["boot-kernel"]["path"]


def same_digest_other_size(document: Any) -> None:
    items = product(document)
    items["boot-kernel"].update(sha256=product(document, "hwe-24.04")["boot-kernel"]["sha256"], size=31_000)


LISTS: dict[str, tuple[Callable[[Any], None], str, bool]] = {
    "one path, two digests": (other_digest_same_path, "expected one sha256, got 2: ", False),
    "one digest, two sizes": (same_digest_other_size, "expected one size, got ", False),
    "signed as too large": (
        lambda document: product(document)["boot-kernel"].update(size=30_001), "expected 30001 bytes, got 30000", True
    ),
    "signed as too small": (
        lambda document: product(document)["boot-kernel"].update(size=29_999), "expected 29999 bytes, got 30000", True
    ),
    "another digest": (
        lambda document: product(document)["boot-kernel"].update(sha256="ab" * 32),
        f"sha256 differs: expected {'ab' * 32}, got ", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words", "others_come"), [
    pytest.param(*case, id=name) for name, case in LISTS.items()
])  # fmt: skip
def test_what_lists_contradict_is_not_taken_and_said(
    site: Operator, change: Callable[[Any], None], words: str, others_come: bool
) -> None:
    before = site.state()
    say(site, change)
    assert words in site.refused("sync", "--wait")
    now = site.state()
    assert now.images[GA] == before.images[GA]
    assert now.images[HWE] == (str(site.serial) if others_come else before.images[HWE])
    assert before.blobs <= now.blobs
    site.is_sound()
    site.publish()
    site.sync()
    assert site.state().images[GA] == str(site.serial) and site.banners() == {}


# -- boot loader archives


def archives() -> dict[str, tuple[Callable[[], bytes], str]]:
    """The table of tests/control/test_bootloaders.py, which unpacks each in memory."""
    from importlib.util import module_from_spec, spec_from_file_location

    path = Path(__file__).parents[1] / "control" / "test_bootloaders.py"
    spec = spec_from_file_location("bootloader_cases", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, tuple[Callable[[], bytes], str]] = module.BAD
    return found


ARCHIVES = archives()
HOSTILE = [
    "symbolic link", "hard link", "device", "fifo", "folder", "dot dot", "absolute", "sparse", "bomb", "cut", "html",
    "empty",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_not_unpacked_and_the_loader_before_stays(
    site: Operator, tmp_path: Path, name: str
) -> None:
    make, words = ARCHIVES[name]
    path = tmp_path / "shim-signed.tar.xz"
    path.write_bytes(make())
    before = site.state()
    names = dict(site.region.publisher.current.contents.names)  # type: ignore[union-attr]
    serial = f"2099{site.serial}.0"
    loader = bootloader(os="grub-efi-signed", kind="uefi", arch="amd64", serial=serial, archives={"shim-signed": path})
    rest = [each for each in site.products() if "grub-efi-signed" not in each.id]
    site.publish([loader, *rest])
    sentence = site.refused("sync", "--wait")
    assert f"grub-efi-signed/uefi/amd64 {serial}: shim-signed.tar.xz: " in sentence and words in sentence
    now = site.state()
    assert now.images["grub-efi-signed/uefi/amd64"] == before.images["grub-efi-signed/uefi/amd64"]
    assert now.images[GA] == str(site.serial)
    after = site.region.publisher.current.contents.names  # type: ignore[union-attr]
    assert {name: after[name] for name in ("bootx64.efi", "grubx64.efi")} == {
        name: names[name] for name in ("bootx64.efi", "grubx64.efi")
    }
    site.is_sound()
    site.publish()
    site.sync()
    assert site.banners() == {}


# -- several ways to the same bytes


def test_what_one_source_has_wrong_is_taken_from_another(tmp_path: Path, signer: Signer) -> None:
    with pytest.MonkeyPatch.context() as patch, operator(tmp_path, signer, patch) as site:
        site.add()
        (tmp_path / "second").symlink_to(tmp_path / "mirror")
        with serve(tmp_path / "second") as second:
            site.json("source", "add", second.url, "--keyring", site.keyring(), "--name", "second")
            second.faults[site.kernel()] = Fault(body=WRONG)
            site.sync()  # the second has the higher priority, and one file of it is wrong
            assert site.sent[site.kernel()] == KERNEL_BYTES and site.banners() == {}
            listed = {source["name"]: source for source in site.json("source", "list")["items"]}
            assert any(GA in each and "second comes first" in each for each in listed["mirror"]["passed_over"])
            assert listed["second"]["passed_over"] == []
            assert "because a source of higher priority has them: " in site.run("source", "list").stderr
            assert site.json("image", "show", GA)["source"] == "second"

            # while the second is away, the first replaces nothing that came from it
            before = site.state().images
            site.publish()
            second.faults[INDEX] = Fault(status=503)
            site.refused("sync", "--wait")
            assert site.state().images == before and site.json("image", "show", GA)["source"] == "second"
            second.faults.clear()
            site.sync()
            assert site.state().images[GA] == str(site.serial)


def test_the_products_of_this_matrix_share_nothing(tmp_path: Path) -> None:
    """Or the counts above would prove nothing: each serial has bytes of its own."""
    digests = [
        hashlib.sha256(item.source.read_bytes()).hexdigest()
        for serial in ("1", "2")
        for each in small_products(tmp_path / "in", serial=serial)
        if each.id.endswith("amd64:ga-24.04")
        for item in each.items
        if item.name != "manifest"
    ]
    assert len(digests) == len(set(digests)) == 6
