"""Real file systems for a test: small sparse images, mounted through a loop device with direct I/O; and what they hold.

``mounted("xfs", directory)`` makes, mounts and removes one; a mount that is still busy at the end fails the test, since
then somebody has kept a descriptor or a mapping. ``on_disk`` is the same with the device in hand: Disk.spoil() makes
bytes of a file unreadable, Disk.snapshot() keeps what a power cut would leave at this instant. ``or_skip`` enters one
of them, or skips the test when the machine cannot have it.

What a machine cannot have is asked for first (CannotMountError); a command that fails after that is a failure. Mounts
and loop devices end with this process, however it ends: it has a mount namespace of its own from the first one on.

``Meter`` samples how much a cache directory takes on the disk, by the file system's own count (st_blocks), and never
claims more than was there at one moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import mmap
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pytest

MIB = 1 << 20
BLOCK = 512  # unit of st_blocks, whatever the file system
PAGE = 4096
KINDS = ("ext4", "xfs", "btrfs")
LOG_IN_FRONT = {"ext4": ["-O", "^has_journal"], "xfs": ["-l", "agnum=0"], "btrfs": []}
FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
IMAGE_BYTES = 320 * MIB  # the least mkfs.xfs takes is 300 MiB; sparse, so it costs what is written
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],  # no blocks kept back for root
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
ALL_USERS = ["0", "0", str(2**32 - 1)]  # user_namespaces(7): the first namespace, whose root is the machine's
CAP_SYS_ADMIN = 21  # linux/capability.h
CLONE_NEWNS = 0x20000  # linux/sched.h
LOOP_CTL_GET_FREE = 0x4C82  # linux/loop.h
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class CannotMountError(Exception):
    """This machine or this user cannot have that file system; the text says why."""


def _program(name: str) -> str | None:
    return shutil.which(name, path=SYSTEM_PATH)


def _run(*command: str) -> str:
    program = _program(command[0])
    assert program is not None, f"{command[0]} is not on this machine"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"
    return done.stdout.strip()


def lacking(kind: str) -> str:
    """What this machine or this user lacks for a file system of *kind*, in a few words; "": nothing."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != ALL_USERS:
        return "only root can mount"
    capabilities = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff:"))
    if not int(capabilities.split()[1], 16) >> CAP_SYS_ADMIN & 1:
        return "this root may not mount"
    for name in (MKFS[kind][0], "losetup", "mount", "umount"):
        if _program(name) is None:
            return f"{name} is not on this machine"
    try:
        with Path("/dev/loop-control").open("rb") as control:
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
        Path(f"/dev/loop{number}").open("rb").close()
    except OSError as error:
        return f"no loop devices: {error.filename or 'LOOP_CTL_GET_FREE'}: {error.strerror}"
    return ""


def _is_in_kernel(kind: str) -> bool:
    """Whether the kernel has *kind*; one that is a module is loaded by the first attempt to mount it."""
    return kind in Path("/proc/filesystems").read_text().split()


@functools.cache
def _mounts_of_our_own() -> None:
    """From now on what this thread and its children mount is seen by them alone, and goes when they have ended. Raises
    CannotMountError where all mounting is refused, as in some containers."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise CannotMountError(f"this root may not mount: unshare(CLONE_NEWNS): {os.strerror(ctypes.get_errno())}")
    try:
        _run("mount", "--make-rprivate", "/")
    except AssertionError as error:
        raise CannotMountError(f"this root may not mount: {error}") from None


def _unmount(point: Path) -> None:
    """Leaves no mount behind, and says so when somebody still had a file of it."""
    try:
        _run("umount", str(point))
    except AssertionError as error:
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

    def sync(self) -> bool:
        """Whether the disk has taken everything."""
        return subprocess.run(["sync", "-f", str(self.point)], capture_output=True).returncode == 0

    def snapshot(self, copy: Path) -> None:
        """What the device has got up to one instant. The image must lie where files share blocks (xfs, btrfs)."""
        with self.image.open("rb") as source, copy.open("wb") as target:
            fcntl.ioctl(target.fileno(), FICLONE, source.fileno())


@contextlib.contextmanager
def attached(kind: str, image: Path, point: Path, options: str = "defaults", *, direct: bool = True) -> Iterator[Disk]:
    """The file system that *image* holds, mounted at *point*, a new directory. A clone cannot be read by *direct* I/O
    in the sectors of 512 bytes that its file system was made for. Raises CannotMountError when nothing may be mounted,
    or the kernel has none of its *kind*."""
    _mounts_of_our_own()
    point.mkdir()
    try:
        device = _run("losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}", str(image))
        try:
            _run("mount", "-t", kind, "-o", options, device, str(point))
        except AssertionError:
            if not _is_in_kernel(kind):
                raise CannotMountError(f"the kernel has no {kind}") from None
            raise
        finally:
            _run("losetup", "--detach", device)  # mounted: once that has ended
        try:
            yield Disk(kind, image, device, point)
        finally:
            _unmount(point)
    finally:
        point.rmdir()


@contextlib.contextmanager
def on_disk(
    kind: str, directory: Path, size: int = IMAGE_BYTES, options: str = "defaults", mkfs: Sequence[str] = ()
) -> Iterator[Disk]:
    """A new file system of *kind*, made with further options *mkfs*. Raises CannotMountError."""
    if why := lacking(kind):
        raise CannotMountError(why)
    image = directory / f"{kind}.img"
    try:
        with image.open("wb") as file:
            file.truncate(size)
        _run(*MKFS[kind], *mkfs, str(image))
        with attached(kind, image, directory / kind, options) as disk:
            yield disk
    finally:
        image.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(kind: str, directory: Path, size: int = IMAGE_BYTES) -> Iterator[Path]:
    """A new file system of *kind*; its mount point. Raises CannotMountError."""
    with on_disk(kind, directory, size) as disk:
        yield disk.point


@contextlib.contextmanager
def in_memory(point: Path, size: int) -> Iterator[Path]:
    """A tmpfs of *size* bytes at *point*, a new directory: a disk that is soon full. Raises CannotMountError."""
    if os.geteuid() != 0:
        raise CannotMountError("only root can mount")
    _mounts_of_our_own()
    point.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point))
        try:
            yield point
        finally:
            _unmount(point)
    finally:
        point.rmdir()


T = TypeVar("T")


@contextlib.contextmanager
def or_skip(making: AbstractContextManager[T]) -> Iterator[T]:
    """What *making* makes: ``with or_skip(on_disk("xfs", tmp_path)) as disk``. Skips the test, and says why, when this
    machine or this user cannot have it."""
    with contextlib.ExitStack() as undo:
        try:
            made = undo.enter_context(making)
        except CannotMountError as error:
            pytest.skip(str(error))
        yield made


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


def charge_of(directory: Path) -> int:
    """What a cache charges for the segment files in its *directory*: their lengths, in whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in directory.glob("*.d/*"))


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
        self._pool = ThreadPoolExecutor(1)

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            first, second = files_in(self.directory), files_in(self.directory)
            self.most = max(self.most, sum(size for key, size in first.items() if key in second))
            self.samples += 1

    def __enter__(self) -> Self:
        self._sampling = self._pool.submit(self._sample)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._sampling.result()  # one that has ended early has missed the most
