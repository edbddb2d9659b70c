"""The rack process tells its region what machines have fetched, in order, once, also after the region was away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.status import RemoteError
from bootplane.dataplane.transfers import Transfer
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

MAC = "52:54:00:77:00:01"
CONFIG = f"grub/grub.cfg-{MAC}"
LOADER = b"a boot loader" * 100


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion({"bootx64.efi": LOADER}) as fake:
        fake.texts[CONFIG] = b"echo hello\n"
        yield fake


def heard(region: FakeRegion, is_enough: Callable[[list[Transfer]], bool]) -> list[Transfer]:
    """Every transfer the region has been told of, once it has heard enough; a repeated one counts once."""

    def told() -> list[Transfer]:
        found = {(batch.start, each.seq): each for batch in region.batches for each in batch.transfers}
        return [found[key] for key in sorted(found, key=lambda key: key[1])]

    with region.changed:
        assert region.changed.wait_for(lambda: is_enough(told()), timeout=60), told()
        return told()


def test_transfers_arrive_in_order_with_the_machine_that_made_them(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi", blksize=512, windowsize=4)
        tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, CONFIG)
        with pytest.raises(RemoteError):
            tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "nobody.efi")
        assert http_fetch.fetch(rack.http.host, rack.http.port, "/bootx64.efi").status == 200
        first, second, third, fourth = heard(region, lambda found: len(found) >= 4)
        numbers = rack.metrics()
    assert (first.protocol, first.name, first.outcome, first.sent) == ("tftp", "bootx64.efi", "complete", len(LOADER))
    assert (first.blksize, first.windowsize, first.packets, first.address) == (512, 4, 3, "127.0.0.1")
    assert (second.name, second.mac, second.known_by, second.source) == (CONFIG, MAC, "name", "dynamic")
    assert (third.name, third.outcome, third.status, third.mac) == ("nobody.efi", "refused", 1, MAC)
    assert (fourth.protocol, fourth.status, fourth.sent, fourth.mac) == ("http", 200, len(LOADER), MAC)
    assert first.at <= second.at <= third.at <= fourth.at
    assert numbers['bootplane_transfers_total{outcome="complete",protocol="tftp"}'] == 2
    assert numbers["bootplane_reports_sent_total"] == 4 and numbers["bootplane_reports_waiting"] == 0


def test_nothing_is_lost_and_nothing_doubled_while_the_region_is_away(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi")
        heard(region, lambda found: len(found) == 1)
        region.transfers_status = 503  # it hears, and says that it has not: a commit whose answer was lost
        tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi")
        heard(region, lambda found: len(found) == 2)
        region.stop()
        for _ in range(5):
            tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi")
        region.transfers_status = None
        region.start()
        assert [each.seq for each in heard(region, lambda found: len(found) == 7)] == list(range(1, 8))
        assert {(batch.lost, batch.told) for batch in region.batches} == {(0, 0)}


def test_the_last_transfers_are_told_when_the_rack_ends(tmp_path: Path, region: FakeRegion) -> None:
    with RackProcess(tmp_path / "rack", region) as rack:
        tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "bootx64.efi")
        assert rack.stop() == 0
        assert [each.name for each in heard(region, lambda found: len(found) == 1)] == ["bootx64.efi"]
