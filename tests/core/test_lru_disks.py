"""A cache with few files open on a disk that fails: what was closed meanwhile is neither trusted nor lost for it."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.lru import Cache
from tests.core.caches import ABSENT, CLOSED, MIB, PRESENT, SEGMENT, filled, path_of
from tests.fakes.filesystems import CannotMountError, Disk, leave_room, on_disk

pytestmark = pytest.mark.usefixtures("nothing_leaks")

DATA = random.Random(23).randbytes(SEGMENT + MIB)  # segment 0, closed once segment 1 is open
NOW, NEVER = 0.0, 3600.0


@pytest.fixture(params=["ext4", "xfs"])
def thin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk of 320 MiB in a file on another one, which can be filled up behind its back."""
    try:
        with on_disk("ext4", tmp_path, 700 * MIB) as outer:
            (outer.point / "disk").mkdir()
            with on_disk(request.param, outer.point / "disk") as disk:
                yield disk
                (outer.point / "ballast").unlink(missing_ok=True)
    except CannotMountError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("after_s", [NOW, NEVER])
def test_what_the_disk_has_refused_leaves_though_its_file_is_closed(thin: Disk, after_s: float) -> None:
    with contextlib.closing(Cache(str(thin.point / "cache"), 64 * MIB, open_limit=1)) as cache:
        subprocess.run(["sync", "-f", str(thin.point)], check=True)
        leave_room(thin.image.parent.parent, 512 * 1024)
        blob = filled(cache, DATA)
        assert blob.states(0, 5) == bytes([CLOSED] * 4 + [PRESENT])
        assert subprocess.run(["sync", "-f", str(thin.point)], capture_output=True).returncode != 0
        lost = cache.settle_writes(after_s)
        assert (blob.sha256, 0) in [(sha256, index) for sha256, index, _ in lost]
        assert {error for _, _, error in lost} <= {errno.ENOSPC, errno.EIO, errno.EROFS}
        assert blob.states(0, 4) == bytes([ABSENT] * 4)
        assert cache.stats()["rotten_chunks"] >= 4


def test_what_is_closed_is_settled_once_and_stays_closed(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 64 * MIB, open_limit=1)
    blob = filled(cache, DATA)
    for after_s in (NEVER, NOW, NOW):
        assert cache.settle_writes(after_s) == []
        assert blob.states(0, 5) == bytes([CLOSED] * 4 + [PRESENT])
    path_of(cache, blob).unlink()
    assert cache.settle_writes(NOW) == [], "who wants it finds that it is gone"
    assert (cache.stats()["open_segments"], cache.stats()["reopened_segments"]) == (1, 0)
    filled(cache, b"another")
    assert blob.states(0, 5) == bytes([CLOSED] * 5), "it has taken nobody's place"
    cache.close()


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Disk]:
    try:
        with on_disk("ext4", tmp_path, options="errors=remount-ro") as disk:
            yield disk
    except CannotMountError as error:
        pytest.skip(str(error))


def test_on_a_disk_that_has_become_read_only_a_closed_file_is_opened_to_be_read(journaled: Disk) -> None:
    with contextlib.closing(Cache(str(journaled.point / "cache"), 64 * MIB, open_limit=1)) as cache:
        blob = filled(cache, DATA, 0, 1, 2, 4)
        subprocess.run(["sync", "-f", str(journaled.point)], check=True)
        Path(f"/sys/fs/ext4/{Path(journaled.device).name}/trigger_fs_error").write_text("test")
        assert cache.recheck(blob, 1)
        assert blob.read(0, 3 * MIB) == DATA[: 3 * MIB]
        assert cache.stats()["rechecked_chunks"] == cache.stats()["rotten_chunks"] == 0
        assert cache.begin(blob, 3)
        with pytest.raises(OSError, match=r"/0: file cannot be written .*: Read-only file system") as refused:
            cache.store(blob, 3, DATA[3 * MIB : SEGMENT])
        assert refused.value.errno == errno.EROFS
        assert blob.states(0, 4) == bytes([PRESENT, PRESENT, PRESENT, ABSENT])
