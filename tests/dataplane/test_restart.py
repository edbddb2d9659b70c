"""A rack that starts on a used disk: after a clean end, after a kill, with rotten bytes; its region there or gone."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.client import Fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.filling import eventually
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(4).randbytes(9 * MIB + 4321)  # ten chunks in three segments
BIG_SHA = hashlib.sha256(BIG).hexdigest()
LOADER = b"a boot loader" * 100
FILES = {"images/x/squashfs": BIG, "bootx64.efi": LOADER}


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion(FILES) as fake:
        yield fake


@pytest.fixture
def rack(tmp_path: Path, region: FakeRegion) -> RackProcess:
    return RackProcess(tmp_path / "rack", region, "--park-limit", "2")


def used(rack: RackProcess, end: signal.Signals) -> None:
    """Lets it serve every file once, and ends it."""
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
        assert get(rack, "/bootx64.efi").body == LOADER
        rack.stop(end)


def get(rack: RackProcess, path: str) -> Fetch:
    return http_fetch.fetch(rack.http.host, rack.http.port, path, keep=True)


def segment(rack: RackProcess, index: int) -> Path:
    return rack.directory / "data" / "cache" / f"{BIG_SHA}.d" / str(index)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_rack_that_is_ended_while_it_starts_ends_well(
    end: signal.Signals, rack: RackProcess, tmp_path: Path, region: FakeRegion
) -> None:
    used(rack, signal.SIGTERM)
    log = tmp_path / "log"
    with log.open("w") as said, subprocess.Popen(rack.command, stderr=said, stdout=subprocess.DEVNULL) as process:
        eventually(lambda: "cache: 4 segments" in log.read_text())
        process.send_signal(end)
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text()
    region.bulk_bytes = 0
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
    assert region.bulk_bytes == 0  # hashed where it lies, perhaps, and not fetched


def test_a_clean_restart_asks_nobody_for_a_byte(rack: RackProcess, region: FakeRegion) -> None:
    used(rack, signal.SIGTERM)
    region.bulk_bytes = 0
    region.sent.clear()
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
        assert get(rack, "/bootx64.efi").body == LOADER
        assert rack.metrics()["bootplane_misses_total"] == 0
    assert (region.bulk_bytes, region.sent) == (0, {})
    assert "cache: 4 segments, 9.4 MB kept (clean)" in rack.log()


def test_a_rack_that_was_killed_serves_from_its_disk_with_its_region_gone(
    rack: RackProcess, region: FakeRegion
) -> None:
    used(rack, signal.SIGKILL)
    region.stop()
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
        over_tftp = tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, "images/x/squashfs", windowsize=16)
        assert over_tftp.sha256 == BIG_SHA
        assert get(rack, "/bootx64.efi").body == LOADER
        assert rack.metrics()["bootplane_fill_upstream_bytes_total"] == 0
    assert "cache: 4 segments, 9.4 MB kept (unclean: each chunk is checked at its first use)" in rack.log()
    with rack:  # what was checked need not be again: this end was clean
        assert get(rack, "/images/x/squashfs").body == BIG
        assert rack.metrics()["bootplane_misses_total"] == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_flipped_bit_is_never_served_and_its_segment_is_fetched_again(
    end: signal.Signals, rack: RackProcess, region: FakeRegion
) -> None:
    used(rack, end)
    region.sent.clear()
    flip(segment(rack, 1), MIB + 1000)
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
        assert get(rack, "/images/x/squashfs").body == BIG
    assert {chunk for _, chunk in region.sent} <= {4, 5, 6, 7} and (BIG_SHA, 5) in region.sent
    expected = hashlib.sha256(BIG[5 * MIB : 6 * MIB]).hexdigest()
    assert f"rotten in the cache, removed: blob {BIG_SHA} chunk 5: expected {expected}, got " in rack.log()


def test_a_flipped_bit_is_not_served_with_the_region_gone(rack: RackProcess, region: FakeRegion) -> None:
    used(rack, signal.SIGKILL)
    region.stop()
    flip(segment(rack, 2), 5)
    with rack:
        body = get(rack, "/bootx64.efi").body
        assert body == LOADER
        with pytest.raises(Exception, match="expected"):
            get(rack, "/images/x/squashfs")  # cut where the bytes end


def test_what_the_catalogue_has_lost_leaves_the_disk(rack: RackProcess, region: FakeRegion) -> None:
    used(rack, signal.SIGTERM)
    region.publish({"bootx64.efi": LOADER})
    (rack.directory / "data" / "catalogue").unlink()  # it does not even know that it had the name
    region.sent.clear()
    with rack:
        assert get(rack, "/bootx64.efi").body == LOADER
        eventually(lambda: not segment(rack, 0).parent.exists(), timeout=30)
        assert rack.metrics()["bootplane_cache_segments"] == 1
    assert region.sent == {}


def limit(rack: RackProcess) -> float:
    return rack.metrics()["bootplane_cache_limit_bytes"]


def test_a_limit_that_the_region_has_set_is_kept_with_the_region_gone(rack: RackProcess, region: FakeRegion) -> None:
    region.settings = {"cache_bytes": 5 * MIB, "upstream_bytes_s": None}
    with rack:
        assert get(rack, "/images/x/squashfs").body == BIG
        eventually(lambda: limit(rack) == 5 * MIB, timeout=30)
        rack.stop(signal.SIGKILL)
    region.stop()
    with rack:
        assert limit(rack) == 5 * MIB
        assert "cache limit: 5.0 MiB, as the region has set it" in rack.log()
    region.settings = {"cache_bytes": None, "upstream_bytes_s": None}
    region.start()
    with rack:
        eventually(lambda: limit(rack) == 256 * MIB, timeout=30)


def test_a_region_that_sets_nonsense_is_refused_and_the_rack_goes_on(rack: RackProcess, region: FakeRegion) -> None:
    region.settings = {"cache_bytes": 17}
    with rack:
        eventually(lambda: "refused: cache limit: expected 4194304 bytes" in rack.log(), timeout=30)
        assert limit(rack) == 256 * MIB and get(rack, "/images/x/squashfs").body == BIG
