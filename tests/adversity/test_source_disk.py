"""A disk that is full in the middle of a sync, a real one (tmpfs): it stops, says so, breaks nothing, and finishes by
itself when there is room."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.simplestreams.signer import Signer
from bootplane.control.sync import coordinator
from tests.fakes.filesystems import MIB, in_memory, leave_room, or_skip
from tests.fakes.mirror import Fault, small_products
from tests.fakes.operator import ENDS_S, Operator, operator

pytestmark = pytest.mark.integration
GA = "ubuntu/noble/amd64/ga-24.04"
DISK = 24 * MIB
SQUASHFS = 5 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk that the region's image-storage stands on."""
    with or_skip(in_memory(tmp_path / "disk", DISK)) as point:
        (point / "image-storage").mkdir()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "image-storage").symlink_to(point / "image-storage")
        yield point


@pytest.fixture
def site(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setattr(coordinator, "SPACE_CHECK_S", 0.05)
    with (
        Signer.generate(tmp_path / "key", algorithm="ed25519") as signer,
        operator(tmp_path, signer, monkeypatch, disk_reserve=0) as made,
    ):
        made.add()
        made.sync()
        yield made


def new_serial(site: Operator) -> None:
    site.serial += 1
    site.publish(small_products(site.folder / "inputs", serial=str(site.serial), root_bytes=SQUASHFS))


def until_complete(site: Operator) -> None:
    tick = threading.Event()
    for _ in range(int(ENDS_S / 0.05)):
        if site.state().images.get(GA) == str(site.serial) and site.banners() == {}:
            return
        tick.wait(0.05)
    raise AssertionError(site.json("sync", "status"))


def free(disk: Path) -> int:
    info = os.statvfs(disk)
    return info.f_bavail * info.f_frsize


def test_a_disk_that_fills_in_mid_sync_stops_it_and_room_finishes_it(site: Operator, disk: Path) -> None:
    before = site.state()
    new_serial(site)
    squashfs = f"noble/amd64/{site.serial}/squashfs"
    half = SQUASHFS // 2
    site.mirror.faults[squashfs] = [Fault(cut_after=half), Fault(first=lambda: leave_room(disk, MIB))]
    site.forget()
    sentence = site.refused("sync", "--wait")
    assert sentence.startswith("The sync was stopped: ") and " bytes free, got " in sentence
    assert sentence.endswith("it goes on by itself when there is room")
    banners = site.banners()
    assert list(banners) == ["disk-full"] and str(site.region.store.directory) in banners["disk-full"]
    assert site.state().images == before.images and before.blobs <= site.state().blobs
    site.is_sound()
    kept = sum(path.stat().st_size for path in (site.region.store.directory / ".partial").iterdir())
    assert kept >= half - MIB and free(disk) <= MIB

    refused = len(site.mirror.requests)
    (disk / "ballast").unlink()
    until_complete(site)
    site.is_sound()
    spans = [span for path, span in site.asked()[refused:] if path == squashfs]
    assert len(spans) == 1 and spans[0] is not None and int(spans[0][6:-1]) >= half - MIB  # nothing is fetched again
    assert before.blobs <= site.state().blobs


def test_a_sync_that_does_not_fit_does_not_begin_and_says_how_much_it_lacks(site: Operator, disk: Path) -> None:
    before = site.state()
    new_serial(site)
    leave_room(disk, 2 * MIB)
    site.forget()
    sentence = site.refused("sync", "--wait")
    wanted = site.json("sync", "status")["bytes_total"]
    assert f"expected {wanted} bytes free for this sync, got " in sentence
    now = site.state()
    assert site.item_bytes() == 0 and (now.files, now.images, now.catalogue) == (
        before.files,
        before.images,
        before.catalogue,
    )
    assert list(site.banners()) == ["disk-full"]
    (disk / "ballast").unlink()
    until_complete(site)
    assert site.item_bytes() == wanted


def test_low_space_is_said_before_the_disk_is_full(site: Operator, disk: Path) -> None:
    site.region.coordinator._room._low_space_bytes = 8 * MIB
    leave_room(disk, 6 * MIB)
    site.sync()
    assert "expected at least 8388608 bytes free" in site.banners()["low-space"]
    (disk / "ballast").unlink()
    site.sync()
    assert site.banners() == {}


def test_a_selection_that_is_removed_is_room_too(site: Operator, disk: Path) -> None:
    """What the banner says to do is enough: nobody has to ask for a sync afterwards."""
    new_serial(site)
    (arm,) = [site.json("select", "add", "ubuntu", "noble", "--arch", "arm64")]
    leave_room(disk, 8 * MIB)  # enough for one architecture
    site.refused("sync", "--wait")
    assert list(site.banners()) == ["disk-full"]
    site.json("select", "remove", str(arm["id"]))
    until_complete(site)


def test_a_selection_nobody_offers_has_a_banner_until_it_is_removed(site: Operator) -> None:
    odd = site.json("select", "add", "plan9", "fourth", "--arch", "mips")
    words = "Selection plan9 fourth for mips: expected a boot source that offers it, got none."
    assert words[10:-1] in site.refused("sync", "--wait")
    assert site.banners()[f"selection-unoffered-{odd['id']}"] == words
    site.json("select", "remove", str(odd["id"]))
    assert list(site.banners()) == ["sync"]
    site.sync()
    assert site.banners() == {}
