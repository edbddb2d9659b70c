"""Real file systems for a test: small sparse images, mounted through a loop device with direct I/O; and what they hold.

``mounted("xfs", directory)`` makes, mounts and removes one; a mount that is still busy at the end fails the test, since
then somebody has kept a descriptor or a mapping. ``on_disk`` is the same with the device in hand: Disk.spoil() makes
bytes of a file unreadable, Disk.snapshot() keeps what a power cut would leave at this instant.

``Meter`` samples how much a cache directory takes on the disk, by the
file system's own count (st_blocks), and never claims more than was there at one moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

MIB = 1 << 20
BLOCK = 512  # unit of st_blocks, whatever the file system
KINDS = ("ext4", "xfs", "btrfs")
LOG_IN_FRONT = {"ext4": ["-O", "^has_journal"], "xfs": ["-l", "agnum=0"], "btrfs": []}
FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
IMAGE_BYTES = 320 * MIB  # the least mkfs.xfs takes is 300 MiB; sparse, so it costs what is written
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],  # no blocks kept back for root
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class CannotMountError(Exception):
    """This machine or this user cannot have that file system; the text says why."""


def _run(*command: str) -> str:
    program = shutil.which(command[0], path=SYSTEM_PATH)
    if program is None:
        raise CannotMountError(f"{command[0]} is not on this machine")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise CannotMountError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def _unmount(point: Path) -> None:
    """Leaves no mount behind, and says so when somebody still had a file of it."""
    try:
        _run("umount", str(point))
    except CannotMountError as error:
        _run("umount", "--lazy", str(point))
        raise AssertionError(f"{point}: a descriptor or a mapping was kept") from error


class Disk:
    """A file system of *kind* in *image*, mounted at *point* from *device*."""

    def __init__(self, kind: str, image: Path, device: str, point: Path) -> None:
        self.kind, self.image, self.device, self.point = kind, image, device, point

    def spoil(self, path: Path, at: int) -> None:
        """From now on the 4 KiB at *at* of the file cannot be read. btrfs finds a wrong checksum there; to ext4 and xfs
        the device ends there until somebody writes behind, and what lay behind is lost, too: make these two with
        their log in front (LOG_IN_FRONT), and read at once."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
            wanted = os.pread(file.fileno(), 4096, at)
            with self.image.open("r+b") as image:
                with mmap.mmap(image.fileno(), 0, prot=mmap.PROT_READ) as view:
                    place = view.find(wanted)
                assert place >= 0 and len(wanted) == 4096, f"{path}: its bytes at {at} are not in {self.image}"
                if self.kind == "btrfs":
                    os.pwrite(image.fileno(), bytes([wanted[0] ^ 1]), place)
                    os.fsync(image.fileno())
                else:
                    image.truncate(place)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def run(self, *command: str) -> str:
        return _run(*command)

    def snapshot(self, copy: Path) -> None:
        """What the device has got up to one instant. The image must lie where files share blocks (xfs, btrfs)."""
        with self.image.open("rb") as source, copy.open("wb") as target:
            fcntl.ioctl(target.fileno(), FICLONE, source.fileno())


@contextlib.contextmanager
def attached(kind: str, image: Path, point: Path, options: str = "defaults", *, direct: bool = True) -> Iterator[Disk]:
    """The file system that *image* holds, mounted at *point*, a new directory. A clone cannot be read by *direct* I/O
    in the sectors of 512 bytes that its file system was made for. Raises CannotMountError."""
    with contextlib.ExitStack() as undo:
        device = _run("losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}", str(image))
        undo.callback(_run, "losetup", "--detach", device)
        point.mkdir()
        undo.callback(point.rmdir)
        _run("mount", "-t", kind, "-o", options, device, str(point))
        undo.callback(_unmount, point)
        yield Disk(kind, image, device, point)


@contextlib.contextmanager
def on_disk(
    kind: str, directory: Path, size: int = IMAGE_BYTES, options: str = "defaults", mkfs: Sequence[str] = ()
) -> Iterator[Disk]:
    """A new file system of *kind*, made with further options *mkfs*. Raises CannotMountError."""
    if os.geteuid() != 0:
        raise CannotMountError("only root can mount")
    image = directory / f"{kind}.img"
    with contextlib.ExitStack() as undo:
        undo.callback(image.unlink)
        with image.open("wb") as file:
            file.truncate(size)
        _run(*MKFS[kind], *mkfs, str(image))
        yield undo.enter_context(attached(kind, image, directory / kind, options))


@contextlib.contextmanager
def mounted(kind: str, directory: Path, size: int = IMAGE_BYTES) -> Iterator[Path]:
    """A new file system of *kind*; its mount point. Raises CannotMountError."""
    with on_disk(kind, directory, size) as disk:
        yield disk.point


def leave_room(directory: Path, free: int) -> None:
    """Takes all of the file system but *free* bytes, by a file that is allocated and never written."""
    now = os.statvfs(directory)
    taken = now.f_bavail * now.f_frsize - free
    assert taken > 0, f"{directory} has {now.f_bavail * now.f_frsize} bytes free and not {free}"
    with (directory / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, taken)


def files_in(directory: Path) -> dict[tuple[str, int], int]:
    """(path, inode) -> bytes on the disk, of each segment file in a cache's *directory*."""
    found = {}
    for folder in directory.glob("*.d"):
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    seen = entry.stat(follow_symlinks=False)
                    found[entry.path, seen.st_ino] = seen.st_blocks * BLOCK
    return found


def bytes_on_disk(directory: Path) -> int:
    return sum(files_in(directory).values())


class Meter:
    """Samples *directory* until it is left. *most* is the largest amount that was there at one moment.

    A scan takes a while, and a file evicted behind it and one made ahead of it were never there together. Counted are
    the files that a second scan still finds, with what the first one saw: a file only grows, so this is never too much.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.most = 0
        self.samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            first, second = files_in(self.directory), files_in(self.directory)
            self.most = max(self.most, sum(size for key, size in first.items() if key in second))
            self.samples += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
