"""Simulated machines: each a process of its own that boots as firmware does and hashes every byte it is given.

A UEFI machine asks shim, GRUB and its configuration by TFTP with the options its firmware sends (OVMF: size probe, then
windowsize 4; shim: blksize 512; GRUB: blksize 1024), a BIOS machine PXELINUX in lockstep; kernel, initrd and squashfs
come by HTTP from where the configuration says. What a file must hash to is told by who made the boot source, not by who
serves it. Firmware tries again: so does this, a few times.

The parent shares one array with its machines (`Board`): stage, bytes, times, verdict. ``python -m
bootplane.control.demo.machines`` forks them after its imports, so that 64 cost what one costs.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootplane.core import http_load, tftp_load
from bootplane.core.client import Fetch
from bootplane.core.status import CoreError

STAGES = ("off", "loader", "config", "kernel", "initrd", "squashfs", "booted", "failed")
WAITING, LOADER, CONFIGURATION, KERNEL, INITRD, SQUASHFS, BOOTED, FAILED = range(len(STAGES))
TRIES = 3
_SLOT = struct.Struct("<IIQQQQd120s")  # stage, wrong, tftp bytes, http bytes, files, retries, seconds, message


@dataclass
class Machine:
    """One row of the board. ``wrong`` counts files that ended well but were not what the boot source holds."""

    stage: int = WAITING
    wrong: int = 0
    tftp_bytes: int = 0
    http_bytes: int = 0
    files: int = 0
    retries: int = 0
    seconds: float = 0.0
    message: str = ""


class Board:
    """Machines' progress in shared memory: each writes its own row, the parent reads them all."""

    def __init__(self, path: Path, count: int, create: bool = False) -> None:
        self.count = count
        if create:
            path.write_bytes(bytes(_SLOT.size * count))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SLOT.size * count)

    def write(self, index: int, m: Machine) -> None:
        row = (m.stage, m.wrong, m.tftp_bytes, m.http_bytes, m.files, m.retries, m.seconds, m.message.encode()[:120])
        _SLOT.pack_into(self._map, index * _SLOT.size, *row)

    def read(self, index: int) -> Machine:
        stage, wrong, tftp, http, files, retries, seconds, message = _SLOT.unpack_from(self._map, index * _SLOT.size)
        return Machine(
            stage, wrong, tftp, http, files, retries, seconds, message.rstrip(b"\0").decode(errors="replace")
        )

    def rows(self) -> Iterator[Machine]:
        return (self.read(i) for i in range(self.count))


@dataclass(frozen=True)
class Rack:
    http: tuple[str, int]
    tftp: tuple[str, int]


class BootFailed(Exception):
    """This machine does not boot; the message is what it would print on its console."""


class Booting:
    """One machine on its way up. ``expected``: role -> SHA-256 of what the boot source holds."""

    def __init__(self, index: int, rack: Rack, expected: Mapping[str, str], board: Board) -> None:
        self.index, self.rack, self.expected, self.board = index, rack, expected, board
        self.mac = f"52:54:00:77:{index >> 8:02x}:{index & 255:02x}"
        self.row = Machine()

    def boot(self) -> None:
        started = time.monotonic()
        try:
            config = self._bios() if self.index % 4 == 3 else self._uefi()
            for stage, role, pattern in (
                (KERNEL, "boot-kernel", r"boot-kernel"),
                (INITRD, "boot-initrd", r"boot-initrd"),
                (SQUASHFS, "squashfs", r"squashfs"),
            ):
                self._enter(stage)
                self._http(role, self._location(config, pattern))
            self.row.stage = BOOTED
        except BootFailed as failure:
            self.row.stage, self.row.message = FAILED, str(failure)
        self.row.seconds = time.monotonic() - started
        self.board.write(self.index, self.row)

    def _enter(self, stage: int) -> None:
        self.row.stage = stage
        self.board.write(self.index, self.row)

    def _uefi(self) -> str:
        self._enter(LOADER)
        self._tftp("bootx64.efi", "bootx64.efi", blksize=1468, windowsize=4)
        self._tftp("grubx64.efi", "grubx64.efi", blksize=512, windowsize=4)
        self._enter(CONFIGURATION)
        self._tftp(None, "/grub/x86_64-efi/command.lst", blksize=1024)
        first = self._tftp(None, "/grub/grub.cfg", blksize=1024, keep=True)
        if "grub.cfg-" not in first:
            return first
        return self._tftp(None, f"/grub/grub.cfg-{self.mac}", blksize=1024, keep=True)

    def _bios(self) -> str:
        self._enter(LOADER)
        self._tftp("lpxelinux.0", "lpxelinux.0", blksize=1432)
        self._tftp("ldlinux.c32", "ldlinux.c32", blksize=1408)
        self._enter(CONFIGURATION)
        return self._tftp(None, f"pxelinux.cfg/01-{self.mac.replace(':', '-')}", blksize=1408, keep=True)

    def _location(self, config: str, role: str) -> tuple[str, int, str]:
        """Where the configuration says that a file is: a URL, GRUB's (http,H:P)/path, or a path on this rack."""
        found = re.search(
            rf"(?:https?://|\(https?,)([\d.]+):(\d+)\)?(/\S*?{role})(?=[\s;'\",]|$)", config, re.MULTILINE
        )
        if found:
            return found[1], int(found[2]), found[3]
        found = re.search(rf"(?:^|[\s=,(])(?:\(tftp[^)]*\))?(/?images/\S*?{role})(?=[\s;'\",]|$)", config, re.MULTILINE)
        if not found:
            raise BootFailed(f"configuration names no {role}: {config.strip()[-80:]!r}")
        return (*self.rack.http, "/" + found[1].lstrip("/"))

    def _tftp(self, role: str | None, name: str, blksize: int, windowsize: int = 1, keep: bool = False) -> str:
        host, port = self.rack.tftp
        got = self._tried(
            role, name, lambda: tftp_load.fetch(host, port, name, blksize=blksize, windowsize=windowsize, keep=keep)
        )
        self.row.tftp_bytes += got.size
        return got.body.decode(errors="replace")

    def _http(self, role: str, where: tuple[str, int, str]) -> None:
        host, port, path = where

        def once() -> Fetch:
            result = http_load.fetch(host, port, path)
            if result.status != 200:
                raise BootFailed(f"http://{host}:{port}{path}: expected 200, got {result.status}")
            return result

        self.row.http_bytes += self._tried(role, path, once).size

    def _tried(self, role: str | None, name: str, once: Callable[[], Fetch]) -> Fetch:
        for attempt in range(TRIES):
            try:
                got = once()
            except (CoreError, OSError, BootFailed) as error:
                failure = str(error)
                self.row.retries += 1
                time.sleep(0.2 * (attempt + 1))
                continue
            self.row.files += 1
            if role is not None and got.sha256 != self.expected[role]:
                self.row.wrong += 1
                raise BootFailed(f"{name}: WRONG BYTES: expected {self.expected[role]}, got {got.sha256}")
            return got
        raise BootFailed(failure)


def main() -> int:
    """Forks the machines, lets them start at once, waits for all of them."""
    parser = argparse.ArgumentParser(prog="bootplane-demo-machines")
    parser.add_argument("--board", type=Path, required=True)
    parser.add_argument("--machines", type=int, required=True)
    parser.add_argument("--expected", type=Path, required=True)
    parser.add_argument("--http", required=True)
    parser.add_argument("--tftp", required=True)
    options = parser.parse_args()
    board = Board(options.board, options.machines)
    expected = json.loads(options.expected.read_text())
    addresses = []
    for address in (options.http, options.tftp):
        host, _, port = address.rpartition(":")
        addresses.append((host.strip("[]"), int(port)))
    rack = Rack(*addresses)
    read_end, write_end = os.pipe()
    children = []
    for index in range(options.machines):
        pid = os.fork()
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)  # power-on: the parent closes its end
            Booting(index, rack, expected, board).boot()
            os._exit(0)
        children.append(pid)
    os.close(read_end)
    os.close(write_end)
    for pid in children:
        os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
