"""Machines as QEMU command lines: what firmware they have is data, what they say on their serial port is a file.

``-accel tcg`` unless BOOTPLANE_KVM=1: /dev/kvm may open and a stock kernel still crawl on it. A guest ends by itself
(``-no-reboot``, the initrd powers off) or is ended. Left to others: what it is told to boot, and by whom.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.net import LabUnavailable, Lease, Network

_ESCAPES = re.compile(
    r"\x1b\[[0-9;=?]*[A-Za-z]|[^\x09-\x0d\x20-\x7e]"
)  # colours and cursor movements of a serial console
OVMF, AAVMF = "/usr/share/OVMF", "/usr/share/AAVMF"
IPXE_ROM = "/usr/lib/ipxe/qemu/efi-virtio.rom"
PACKAGES = ("qemu-system-x86", "ovmf", "ipxe-qemu", "qemu-system-arm", "qemu-efi-aarch64")


@dataclass(frozen=True)
class Firmware:
    """``code``/``variables``: pflash images; ``nic``: appended to the network device; ``arguments``: the machine."""

    name: str
    arguments: tuple[str, ...]
    qemu: str = "qemu-system-x86_64"
    code: str = ""
    variables: str = ""
    nic: str = ""
    console: str = "ttyS0"


BIOS = Firmware("SeaBIOS with iPXE's ROM", ("-machine", "pc,graphics=off", "-m", "512"))
SMALL_BIOS = Firmware("SeaBIOS with iPXE's ROM, 128 MiB", ("-machine", "pc,graphics=off", "-m", "128"))
# romfile= : the EFI driver in iPXE's ROM would come before the firmware's own and wait 17 s for IPv6
UEFI = Firmware(
    "OVMF",
    ("-machine", "q35", "-m", "1024"),
    code=f"{OVMF}/OVMF_CODE_4M.fd",
    variables=f"{OVMF}/OVMF_VARS_4M.fd",
    nic=",romfile=",
)
SECURE = Firmware(
    "OVMF, Secure Boot",
    ("-machine", "q35,smm=on", "-m", "1024", "-global", "driver=cfi.pflash01,property=secure,value=on"),
    code=f"{OVMF}/OVMF_CODE_4M.secboot.fd",
    variables=f"{OVMF}/OVMF_VARS_4M.ms.fd",
    nic=",romfile=",
)
UEFI_HTTP = Firmware(
    "OVMF, HTTP boot",
    (
        "-machine", "q35", "-m", "1024",
        "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n",
        "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
    ),
    code=f"{OVMF}/OVMF_CODE_4M.fd",
    variables=f"{OVMF}/OVMF_VARS_4M.fd",
    nic=",romfile=",
)  # fmt: skip
ARM64 = Firmware(
    "AAVMF",
    ("-machine", "virt", "-cpu", "cortex-a57", "-m", "1024", "-device", "virtio-rng-pci"),
    qemu="qemu-system-aarch64",
    code=f"{AAVMF}/AAVMF_CODE.fd",
    variables=f"{AAVMF}/AAVMF_VARS.fd",
    nic=",romfile=",
    console="ttyAMA0",
)


class Guest:
    """One machine, switched on. ``console`` is what it has said so far."""

    def __init__(
        self, network: Network, work: Path, number: int, lease: Lease, firmware: Firmware, name: str = ""
    ) -> None:
        self.mac, self.address, self.name, self.firmware = lease.mac, lease.address, name, firmware
        self._network = network
        self._serial = work / f"guest{number}.log"
        self._variables = work / f"guest{number}.vars"
        self._tap = network.tap(f"tap{number}")
        self.process = network.start(network.switch, argv(firmware, self._variables, self._tap, self.mac), self._serial)

    @property
    def console(self) -> str:
        return _ESCAPES.sub("", self._serial.read_text(errors="replace")).replace("\r", "")

    @property
    def is_on(self) -> bool:
        return self.process.poll() is None

    def wait_off(self, timeout_s: float) -> bool:
        """Whether it has switched itself off within *timeout_s*."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def pss_bytes(self) -> int:
        """Host memory of the process, pages shared with others counted in parts."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise ValueError("smaps_rollup: expected a line Pss:, got none")

    def off(self) -> None:
        self._network.stop(self.process)
        self._network.remove_tap(self._tap)
        self._variables.unlink(missing_ok=True)


def argv(firmware: Firmware, variables: Path, tap: str, mac: str) -> list[str]:
    accel = "kvm" if os.environ.get("BOOTPLANE_KVM") == "1" else "tcg,thread=multi"
    words = [
        firmware.qemu, "-accel", accel, "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none",
        "-serial", "stdio", "-no-reboot", *firmware.arguments,
        "-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=n0,mac={mac},bootindex=1{firmware.nic}",
        "-uuid", f"7e57ab1e-0000-4000-8000-{mac.replace(':', '')}",
    ]  # fmt: skip
    if firmware.code:
        shutil.copyfile(firmware.variables, variables)
        words += [
            "-drive", f"if=pflash,format=raw,readonly=on,file={firmware.code}",
            "-drive", f"if=pflash,format=raw,file={variables}",
        ]  # fmt: skip
    return words


def check() -> None:
    """Raises LabUnavailable when QEMU or a firmware image is not there."""
    wanted = [BIOS, UEFI, SECURE, ARM64]
    paths = [path for firmware in wanted for path in (firmware.code, firmware.variables) if path]
    paths.append(IPXE_ROM)
    gone = [path for path in paths if not Path(path).is_file()]
    gone += sorted({firmware.qemu for firmware in wanted if shutil.which(firmware.qemu) is None})
    if gone:
        raise LabUnavailable(
            f"{', '.join(gone)} not here: apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        )
