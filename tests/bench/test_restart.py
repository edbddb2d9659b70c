"""The small form of ``make bench-restart``: a full cache and the real rack, without a look at the clock."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.restart import MIB, Disk, files_of, one

pytestmark = pytest.mark.integration


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Full to the last byte: five files of two segments each, used in the order of their numbers."""
    disk = Disk(tmp_path, files_of(40 * MIB, 8 * MIB), 40 * MIB)
    disk.fill()
    return disk


def test_a_full_cache_is_served_after_a_restart_and_the_order_of_eviction_is_the_old_one(disk: Disk) -> None:
    with disk.region:
        one(disk, disk.files[1], signal.SIGTERM)  # its first segment; ends the test if a byte is fetched
    used = (disk.files[1].sha256, 0)
    before = [(file.sha256, index) for file in disk.files for index in range(2)]
    before.remove(used)
    assert disk.order(10) == [*before, used]


def test_so_it_is_after_kill_9_each_chunk_checked_before_it_is_sent(disk: Disk) -> None:
    with disk.region:
        one(disk, disk.files[1], signal.SIGKILL)
        one(disk, disk.files[3], signal.SIGKILL)
        one(disk, disk.files[3], signal.SIGTERM)
        one(disk, disk.files[0], signal.SIGTERM)
