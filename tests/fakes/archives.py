"""Small real root archives, disk images and squashfs images, made with the tools operators make them with where these
are on the machine."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
from pathlib import Path

from bootplane.control.uploads.rules import TYPES

_PACKERS = {"gz": ("gzip", gzip.compress), "bz": ("bzip2", bz2.compress), "xz": ("xz", lzma.compress)}
_OF_TYPE = {  # type -> (what is inside, packer)
    "tgz": ("tar", "gz"), "tbz": ("tar", "bz"), "txz": ("tar", "xz"),
    "ddtgz": ("dd.tar", "gz"), "ddtbz": ("dd.tar", "bz"), "ddtxz": ("dd.tar", "xz"), "ddtar": ("dd.tar", ""),
    "ddgz": ("dd", "gz"), "ddbz2": ("dd", "bz"), "ddxz": ("dd", "xz"), "ddraw": ("dd", ""),
}  # fmt: skip
assert set(_OF_TYPE) == set(TYPES)


def root(folder: Path, content: str = "one") -> Path:
    """A root file system's beginnings."""
    tree = folder / f"tree-{content}"
    if not tree.exists():
        (tree / "etc").mkdir(parents=True)
        (tree / "etc" / "hostname").write_text(content + "\n")
        (tree / "bin").mkdir()
        (tree / "bin" / "noise").write_bytes(os.urandom(200_000))
    return tree


def disk(folder: Path, nbytes: int = 1 << 20) -> Path:
    """A disk image: a master boot record with its signature, and noise."""
    path = folder / "disk.img"
    path.write_bytes(os.urandom(510) + b"\x55\xaa" + os.urandom(nbytes - 512))
    return path


def archive(folder: Path, kind: str, content: str = "one") -> Path:
    """A file of the upload type *kind*."""
    inside, packer = _OF_TYPE[kind]
    path = folder / f"{content}.{kind}"
    if inside == "tar":
        data = _run("tar", "-C", str(root(folder, content)), "-cf", "-", ".")
    elif inside == "dd.tar":
        data = _run("tar", "-C", str(folder), "-cf", "-", disk(folder).name)
    else:
        data = disk(folder).read_bytes()
    path.write_bytes(_packed(packer, data) if packer else data)
    return path


def _packed(packer: str, data: bytes) -> bytes:
    tool, module = _PACKERS[packer]
    if shutil.which(tool) is None:
        return module(data)
    return subprocess.run([tool, "-c"], input=data, capture_output=True, check=True).stdout


def squashfs(folder: Path, content: str = "one") -> Path:
    """A real one where mksquashfs is, else a file with its mark."""
    path = folder / f"{content}.squashfs"
    if shutil.which("mksquashfs"):
        _run(
            "mksquashfs",
            str(root(folder, content)),
            str(path),
            "-noappend",
            "-quiet",
            "-no-progress",
            "-processors",
            "1",
        )
    else:
        path.write_bytes(b"hsqs" + os.urandom(100_000))
    return path


def kernel(folder: Path, arch: str = "amd64") -> Path:
    path = folder / f"vmlinuz-{arch}"
    head = bytearray(os.urandom(60_000))
    mark, at = {"amd64": (b"HdrS", 0x202), "arm64": (b"ARM\x64", 0x38)}[arch]
    head[0:2] = b"MZ"
    head[at : at + len(mark)] = mark
    path.write_bytes(bytes(head))
    return path


def initrd(folder: Path) -> Path:
    tree = root(folder)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    path = folder / "initrd.img"
    if shutil.which("cpio"):
        done = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=tree, capture_output=True, check=True
        )
        path.write_bytes(done.stdout)
    else:
        path.write_bytes(b"070701" + os.urandom(50_000))
    return path


def _run(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
