"""A cache with few files open on a disk that fails: what was closed meanwhile is neither trusted nor lost for it."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.lru import Cache
from tests.core.caches import ABSENT, CLOSED, MIB, PRESENT, SEGMENT, filled, path_of
from tests.fakes.filesystems import Disk, leave_room, on_disk, or_skip

pytestmark = pytest.mark.usefixtures("nothing_leaks")

DATA = random.Random(23).randbytes(SEGMENT + MIB)  # segment 0, closed once segment 1 is open
NOW, NEVER = 0.0, 3600.0


@pytest.fixture(params=["ext4", "xfs"])
def thin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk of 320 MiB in a file on another one, which can be filled up behind its back."""
    with or_skip(on_disk("ext4", tmp_path, 700 * MIB)) as outer:
        (outer.point / "disk").mkdir()
        with or_skip(on_disk(request.param, outer.point / "disk")) as disk:
            yield disk
            (outer.point / "ballast").unlink(missing_ok=True)


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
    with or_skip(on_disk("ext4", tmp_path, options="errors=remount-ro")) as disk:
        yield disk


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


FILTERED = """
import ctypes, errno, platform, struct, sys
from bootplane.core.lru import Cache
from tests.core.caches import MIB, filled
calls = {"x86_64": (277, 75), "aarch64": (84, 83)}[platform.machine()]  # sync_file_range, fdatasync
cache = Cache(sys.argv[1], 64 * MIB)
blob = filled(cache, b"text")
refuse = 0x00050000 | getattr(errno, sys.argv[2])  # SECCOMP_RET_ERRNO
refused = [(0x15, 1, 0, calls[0]), (0x15, 0, 1, calls[1]), (0x06, 0, 0, refuse)]  # jump if it is one of them, return
steps = [(0x20, 0, 0, 0), *refused, (0x06, 0, 0, 0x7FFF0000)]  # load the number; SECCOMP_RET_ALLOW
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
print(len(cache.settle_writes(3600)), len(cache.settle_writes(0)), blob.complete)
"""


@pytest.mark.parametrize(("error", "said"), [("ENOSYS", "0 0 True"), ("EPERM", "0 0 True"), ("EIO", "1 0 False")])
def test_where_nobody_may_ask_the_disk_nothing_is_said_to_be_refused(tmp_path: Path, error: str, said: str) -> None:
    """As in a container whose filter of system calls does not know them."""
    command = [sys.executable, "-c", FILTERED, str(tmp_path), error]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (said, "")
