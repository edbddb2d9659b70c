"""A disk that fails under the cache: bytes that cannot be read while they are sent, directories that take no change.

The errors are real: a loop device that ends in the middle of a file (ext4, xfs), or whose bytes have another checksum
(btrfs). sendfile() then gives EIO, and what is sent from a mapping EFAULT.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from bootplane.core.lru import Cache
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.filesystems import KINDS, LOG_IN_FRONT, MIB, Disk, charge_of, on_disk, or_skip
from tests.fakes.filling import eventually
from tests.fakes.http_client import Client, cold, fill
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

BIG = random.Random(8).randbytes(9 * MIB + 4321)  # ten chunks in three segments
BIG_SHA = hashlib.sha256(BIG).hexdigest()
LOADER = random.Random(9).randbytes(50_000)  # sent from its mapping, with its head
LOADER_SHA = hashlib.sha256(LOADER).hexdigest()
FILES = {"images/x/squashfs": BIG, "bootx64.efi": LOADER}
INPUT_OUTPUT = "got Input/output error"


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with or_skip(on_disk(request.param, tmp_path, mkfs=LOG_IN_FRONT[request.param])) as disk:
        yield disk


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    with FakeRegion(FILES) as fake:
        yield fake


@pytest.fixture
def rack(disk: Disk, region: FakeRegion, tmp_path: Path) -> Iterator[RackProcess]:
    """One that has served every file once."""
    with RackProcess(tmp_path / "rack", region, "--park-limit", "2", data=disk.point / "data") as it:
        assert http(it, "images/x/squashfs") == BIG
        assert http(it, "bootx64.efi") == LOADER
        region.sent.clear()
        yield it


def http(rack: RackProcess, name: str) -> bytes:
    return http_fetch.fetch(rack.http.host, rack.http.port, f"/{name}", keep=True).body


def tftp(rack: RackProcess, name: str) -> bytes:
    """By TFTP in windows of 16."""
    return tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, name, windowsize=16, keep=True).body


def segment(rack: RackProcess, sha256: str, index: int) -> Path:
    return rack.data / "cache" / f"{sha256}.d" / str(index)


def spoil(disk: Disk, rack: RackProcess, path: Path, at: int) -> None:
    """Between two runs: pages that a process has mapped and touched are not given back to the disk."""
    rack.stop()
    disk.spoil(path, at)
    rack.start()


def damage_lines(rack: RackProcess) -> list[str]:
    return [line for line in rack.log().splitlines() if "damaged on the disk" in line]


@pytest.mark.parametrize("read", [http, tftp])
def test_a_segment_that_cannot_be_read_is_fetched_again_and_the_transfer_goes_on(
    read: Callable[[RackProcess, str], bytes], disk: Disk, rack: RackProcess, region: FakeRegion
) -> None:
    path = segment(rack, BIG_SHA, 1)
    disk.spoil(path, MIB + 8192)  # in chunk 5
    assert read(rack, "images/x/squashfs") == BIG
    assert region.sent[BIG_SHA, 5] == 1
    assert disk.kind != "btrfs" or {chunk for _, chunk in region.sent} <= {4, 5, 6, 7}
    expected = hashlib.sha256(BIG[5 * MIB : 6 * MIB]).hexdigest()
    lines = damage_lines(rack)
    told = f"damaged on the disk, removed and fetched again: chunk 5 of blob {BIG_SHA} in {path}: expected {expected}, "
    assert sum(told + INPUT_OUTPUT in line for line in lines) == 1
    numbers = rack.metrics()
    assert numbers["bootplane_damaged_chunks_total"] == len(lines) >= 1
    assert numbers["bootplane_unreadable_total"] >= 1
    assert numbers["bootplane_http_cut_total"] == numbers["bootplane_tftp_errors_total"] == 0
    assert read(rack, "images/x/squashfs") == BIG
    assert damage_lines(rack) == lines, "what was fetched again is right"


@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)  # the other two are written to between the runs
@pytest.mark.parametrize("read", [http, tftp])
def test_so_is_a_small_file_that_is_sent_from_its_mapping(
    read: Callable[[RackProcess, str], bytes], disk: Disk, rack: RackProcess, region: FakeRegion
) -> None:
    spoil(disk, rack, segment(rack, LOADER_SHA, 0), 8192)
    assert read(rack, "bootx64.efi") == LOADER
    assert region.sent[LOADER_SHA, 0] == 1
    assert rack.metrics()["bootplane_damaged_chunks_total"] == 1


@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)  # the other two lose what lies behind it as well
def test_with_its_region_gone_a_damaged_file_is_refused_as_one_that_was_never_here(
    disk: Disk, rack: RackProcess, region: FakeRegion
) -> None:
    disk.spoil(segment(rack, BIG_SHA, 2), 4096)
    spoil(disk, rack, segment(rack, LOADER_SHA, 0), 8192)
    region.stop()
    with Client(rack.http.port) as client:
        answer = client.get("/bootx64.efi")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert client.get("/images/x/squashfs", f"Range: bytes=0-{8 * MIB - 1}").body == BIG[: 8 * MIB]
    with pytest.raises(Exception, match=r"bytes cannot be had|not sent it in time"):
        tftp(rack, "bootx64.efi")
    with Client(rack.http.port) as client:
        client.send(b"GET /images/x/squashfs HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
        client.head()
        n, how = client.rest()
        assert how == "reset" and n <= 8 * MIB + 4096, "never a clean end, and nothing from the damage on"
    region.start()
    eventually(lambda: statuses(rack, ["bootx64.efi"]) == {"bootx64.efi": 200})
    assert http(rack, "images/x/squashfs") == BIG
    assert len(damage_lines(rack)) == 2


@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)
def test_many_readers_of_a_damaged_chunk_cost_one_fetch_and_one_line(
    disk: Disk, rack: RackProcess, region: FakeRegion
) -> None:
    disk.spoil(segment(rack, BIG_SHA, 0), 3 * MIB)
    clients = [Client(rack.http.port) for _ in range(16)]
    for client in clients:
        client.send(b"GET /images/x/squashfs HTTP/1.1\r\nHost: r\r\n\r\n")
    for client in clients:
        assert client.response().body == BIG
        client.socket.close()
    assert region.sent[BIG_SHA, 3] == 1
    assert len(damage_lines(rack)) == 1
    assert re.search("chunk 3 of blob", damage_lines(rack)[0])


# -- what cannot be written or removed


NAMES = {f"images/x/{n}": random.Random(n).randbytes(3 * MIB + n) for n in range(6)}
LIMIT = "12MiB"  # three of them


@pytest.fixture
def many() -> Iterator[FakeRegion]:
    with FakeRegion(NAMES) as fake:
        yield fake


def statuses(rack: RackProcess, names: list[str]) -> dict[str, int]:
    """One request for each *name* of FILES or NAMES, all at once; a body that comes must be right."""
    clients = [Client(rack.http.port).send(f"GET /{name} HTTP/1.1\r\nHost: r\r\n\r\n".encode()) for name in names]
    found = {}
    for name, client in zip(names, clients, strict=True):
        with client:
            answer = client.response()
            assert answer.status != 200 or answer.body == (FILES | NAMES)[name]
            found[name] = answer.status
    return found


def account(rack: RackProcess) -> tuple[float, float]:
    """(what the cache has charged, what its files are worth)."""
    return rack.metrics()["bootplane_cache_charged_bytes"], charge_of(rack.data / "cache")


def refusing(rack: RackProcess, names: list[str], lines: int) -> None:
    """Three files are here and stay here; the others are refused, 96 times, soon and in few words."""
    here = statuses(rack, names[:3])
    assert set(here.values()) == {200}
    before = len(rack.log().splitlines())
    for _ in range(4):
        assert set(statuses(rack, names[3:] * 8).values()) == {503}
    assert statuses(rack, names[:3]) == here
    numbers = rack.metrics()
    assert numbers["bootplane_park_timeouts_total"] == 0, "what is certain is not waited for"
    assert len(rack.log().splitlines()) - before <= lines
    charged, on_disk = account(rack)
    assert charged == on_disk


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Disk]:
    with or_skip(on_disk("ext4", tmp_path, options="errors=remount-ro")) as disk:
        yield disk


def test_on_a_file_system_that_the_kernel_has_made_read_only_what_is_here_is_served(
    journaled: Disk, many: FakeRegion, tmp_path: Path
) -> None:
    names, disk = list(NAMES), journaled
    with RackProcess(tmp_path / "rack", many, "--cache-size", LIMIT, data=disk.point / "data") as rack:
        assert set(statuses(rack, names[:3]).values()) == {200}
        Path(f"/sys/fs/ext4/{Path(disk.device).name}/trigger_fs_error").write_text("test")
        refusing(rack, names, lines=16)
        assert "Read-only file system" in rack.log()
        assert rack.stop() == 0
    with pytest.raises(AssertionError, match="did not become ready"):
        rack.start()
    said = rack.log().splitlines()[-1]
    assert said == f"bootplane rack: {rack.data}: expected a writable directory, got Read-only file system"


@pytest.mark.parametrize("disk", KINDS, indirect=True)
def test_directories_that_take_no_change_are_used_again_when_they_do(
    disk: Disk, many: FakeRegion, tmp_path: Path
) -> None:
    names = list(NAMES)
    with RackProcess(tmp_path / "rack", many, "--cache-size", LIMIT, data=disk.point / "data") as rack:
        assert set(statuses(rack, names[:3]).values()) == {200}
        cache = rack.data / "cache"
        places = [str(cache), *(str(path) for path in cache.glob("*.d"))]
        disk.run("chattr", "+i", *places)
        try:
            refusing(rack, names, lines=16)
        finally:
            disk.run("chattr", "-i", *places)
        assert set(statuses(rack, names).values()) == {200}
        charged, on_disk = account(rack)
        assert charged == on_disk <= 12 * MIB


@pytest.mark.parametrize("disk", ["xfs"], indirect=True)
def test_a_disk_that_has_gone_is_refused_and_not_waited_for(disk: Disk, many: FakeRegion, tmp_path: Path) -> None:
    names = list(NAMES)
    with RackProcess(tmp_path / "rack", many, "--cache-size", LIMIT, data=disk.point / "data") as rack:
        assert set(statuses(rack, names[:3]).values()) == {200}
        disk.run("xfs_io", "-x", "-c", "shutdown -f", str(disk.point))
        for _ in range(3):
            clients = [Client(rack.http.port) for _ in names]
            for name, client in zip(names, clients, strict=True):
                client.send(f"GET /{name} HTTP/1.1\r\nHost: r\r\n\r\n".encode())
            for client in clients:
                with client, contextlib.suppress(ConnectionResetError):  # before its head has left
                    assert client.head().status == 503 or client.rest()[1] == "reset"
        assert rack.metrics()["bootplane_park_timeouts_total"] == 0
        assert len(rack.log().splitlines()) <= 40, "a few for each of 9 damaged chunks"
        assert rack.stop() == 0
        assert "its state cannot be kept: Input/output error" in rack.log()
        with pytest.raises(AssertionError, match="did not become ready"):
            rack.start()
        said = rack.log().splitlines()[-1]
        assert said == f"bootplane rack: {rack.data}: expected a writable directory, got Input/output error"


# -- files of an earlier run that do not fit


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
@pytest.mark.parametrize("heals", [True, False])
def test_a_file_that_does_not_fit_and_cannot_be_removed_stays_on_the_account(disk: Disk, heals: bool) -> None:
    data, directory = BIG[: 5 * MIB], disk.point / "cache"
    folder = directory / f"{hashlib.sha256(data).hexdigest()}.d"
    cache = Cache(str(directory), 64 * MIB)
    cache.close()
    folder.mkdir()
    (folder / "0").write_bytes(b"short")
    (folder / "1").write_bytes(data[4 * MIB :])
    (folder / "7").write_bytes(b"beyond the end")
    cache = Cache(str(directory), 64 * MIB)
    disk.run("chattr", "+i", str(folder))
    blob = cold(cache, data)
    assert blob.states(0, 5) == bytes([0, 0, 0, 0, 3])
    assert cache.stats()["misfit_segments"] == 2
    assert cache.stats()["charged_bytes"] == 4096 + MIB + 4096
    cache.settle([])
    with pytest.raises(OSError, match="/0: file cannot be unlinked"):
        cache.begin(blob, 0)
    assert cache.stats()["charged_bytes"] == 4096 + MIB + 4096
    disk.run("chattr", "-i", str(folder))
    if heals:
        cache.settle([])
        for chunk in range(4):
            fill(cache, blob, data, chunk)
        assert cache.recheck(blob, 4)
        assert blob.read(0, len(data)) == data
        cache.reap()
        assert cache.stats()["charged_bytes"] == 5 * MIB
        assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    assert cache.close() == ""
    cache = Cache(str(directory), 64 * MIB)
    assert cache.stats()["charged_bytes"] == charge_of(directory)
    blob = cold(cache, data)
    assert blob.present_bytes() == (len(data) if heals else 0)
    cache.close()
