"""Records boots of real firmware that nothing else makes: losses, a dead link, answers that come late, a typed prompt.

    python -m tests.spec.record                       what there is to record
    python -m tests.spec.record uefi-pxe-lossy ...    a minute each; root, the packages of `.ci/setup vm`, and Debian's
                                                      shim-signed grub-efi-amd64-signed pxelinux ipxe u-boot-qemu

Each boots in QEMU on a wire of the VM lab against one bare reactor, is caught on the bridge, and is written to
captures/NAME.txt. The files are Debian's loaders and stand-ins for kernel and initrd: what a kernel does afterwards is
the VM lab's to show, and its captures (BOOTPLANE_VM_CAPTURE) become tests by ``python -m tests.fakes.pcap``.

Left to others: the wire and the machines (tests.vm), from packets to text (tests.fakes.pcap).
"""

from __future__ import annotations

import os
import pathlib
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table
from tests.fakes.capture import render
from tests.fakes.http_client import cold, fill
from tests.fakes.pcap import capture_of
from tests.vm.guests import BIOS, UEFI, UEFI_HTTP, Firmware, argv
from tests.vm.net import RACK, Lease, Network

FOLDER = pathlib.Path(__file__).parent / "captures"
LEASE = Lease("52:54:00:77:00:01", "10.77.0.101")
LIMIT_S = 180.0
QUIET_S = 45.0  # a boot of which nothing has come for so long is over
IMAGES = "images/0123456789abcdef/debian/amd64/generic/bookworm/stable"
KERNEL, INITRD = f"{IMAGES}/boot-kernel", f"{IMAGES}/boot-initrd"
LINUX = f"console=ttyS0 bootplane=http://{RACK}:5248/MAAS/metadata/boot/t1"
ST_UNKNOWN = 10

SHIM = "/usr/lib/shim/shimx64.efi.signed"
GRUB = "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
SYSLINUX = "/usr/lib/syslinux/modules/bios"
U_BOOT = Firmware(
    "U-Boot",
    ("-machine", "virt", "-cpu", "cortex-a57", "-m", "1024", "-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"),
    qemu="qemu-system-aarch64",
    nic=",romfile=",
)


def bytes_of(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def bzimage() -> bytes:
    """Something that boot loaders take for a kernel of x86; it stops at once."""
    head = bytearray(5 * 512)
    size = 1_300_000
    for at, form, value in [
        (0x1F1, "<B", 4), (0x1F4, "<I", size // 16), (0x1FE, "<H", 0xAA55), (0x200, "<H", 0x6AEB),
        (0x202, "<I", 0x53726448), (0x206, "<H", 0x20F), (0x211, "<B", 1), (0x214, "<I", 0x100000),
        (0x22C, "<I", 0x7FFFFFFF), (0x230, "<I", 0x200000), (0x234, "<B", 1), (0x235, "<B", 21), (0x238, "<I", 2047),
        (0x258, "<Q", 0x1000000), (0x260, "<I", 4 << 20),
    ]:  # fmt: skip
        struct.pack_into(form, head, at, value)
    return bytes(head) + b"\xfa\x0f\x0b" + bytes_of("kernel", size - 3)


def read(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()


def uefi_files() -> dict[str, bytes]:
    return {
        "bootx64.efi": read(SHIM),
        "grubx64.efi": read(GRUB),
        KERNEL: bzimage(),
        INITRD: bytes_of("initrd", 1 << 18),
    }


def uefi_http_files() -> dict[str, bytes]:
    with tempfile.NamedTemporaryFile() as image:
        modules = ["http", "tftp", "efinet", "net", "linux", "normal", "configfile", "echo", "test", "sleep"]
        prefix = f"(http,{RACK}:5248)/grub"
        subprocess.run(["grub-mkimage", "-O", "x86_64-efi", "-o", image.name, "-p", prefix, *modules], check=True)
        return {**uefi_files(), "bootx64.efi": read(image.name)}


def bios_files() -> dict[str, bytes]:
    files = {name: read(f"/usr/lib/PXELINUX/{name}") for name in ("pxelinux.0", "lpxelinux.0")}
    files |= {"ldlinux.c32": read(f"{SYSLINUX}/ldlinux.c32"), KERNEL: bzimage(), INITRD: bytes_of("initrd", 1 << 18)}
    return {**files, **{f"bios/{name}": content for name, content in files.items()}}


def u_boot_files() -> dict[str, bytes]:
    return {KERNEL: b"MZ\0\0" + bytes(52) + b"ARM\x64" + bytes(700_000), INITRD: bytes_of("initrd", 1 << 18)}


def grub(device: str = "") -> dict[str, str]:
    kernel = f"linux {device}/{KERNEL} {LINUX}\ninitrd {device}/{INITRD}\nboot\n"
    return {
        "grub/grub.cfg": f"configfile {device}/grub/grub.cfg-${{net_default_mac}}\n",
        f"grub/grub.cfg-{LEASE.mac}": f"set timeout=0\n{kernel}",
    }


def pxelinux(prefix: str, folder: str = "") -> dict[str, str]:
    text = f"DEFAULT boot\nLABEL boot\n  KERNEL {prefix}{KERNEL}\n  INITRD {prefix}{INITRD}\n  APPEND {LINUX}\n"
    return {f"{folder}pxelinux.cfg/default": text}


UEFI_DHCP = f"dhcp-boot=bootx64.efi,,{RACK}"
HTTP_DHCP = (
    f"dhcp-vendorclass=set:http,HTTPClient\ndhcp-option-force=tag:http,60,HTTPClient\n"
    f"dhcp-boot=tag:http,http://{RACK}:5248/bootx64.efi"
)
MINE = "Kernel and initrd are stand-ins; recorded on the bridge by python -m tests.spec.record."


@dataclass(frozen=True)
class Scenario:
    """*last*: the file after which the boot is over. Times in seconds, losses as one of so many."""

    note: str
    firmware: Firmware
    dhcp: str
    files: Callable[[], dict[str, bytes]]
    configs: dict[str, str]
    last: str = INITRD
    lose_data: int = 0
    lose_acks: int = 0
    dead: tuple[int, float] = (0, 0.0)  # after so many DATA no more of them arrives, for so long
    slow: dict[str, float] = field(default_factory=dict)  # name -> until its first bytes, or its answer
    typed: tuple[str, ...] = ()


SLOW_KERNEL = {KERNEL: 8.0}
# By hand: of a virtio card's address U-Boot reads the first byte six times, and DHCP here knows machines by theirs.
ADDRESS = (f"setenv ipaddr {LEASE.address}", "setenv netmask 255.255.255.0", f"setenv serverip {RACK}")
SCENARIOS = {
    "uefi-pxe-closed": Scenario(
        "OVMF, shim and GRUB: on a quiet machine GRUB ends empty lists with an ERROR in place of an ACK.",
        UEFI, UEFI_DHCP, uefi_files, grub(),
    ),
    "uefi-pxe-lossy": Scenario(
        "OVMF, shim and GRUB, every 997th DATA and every 601st ACK lost. Lost DATA are in it, lost ACKs are not.",
        UEFI, UEFI_DHCP, uefi_files, grub(), lose_data=997, lose_acks=601,
    ),
    "uefi-pxe-slow-config": Scenario(
        "OVMF, shim and GRUB: the answer for grub/grub.cfg takes 31 s.",
        UEFI, UEFI_DHCP, uefi_files, grub(), slow={"grub/grub.cfg": 31.0},
    ),
    "uefi-pxe-slow-file": Scenario(
        "OVMF, shim and GRUB: the first bytes of grubx64.efi take 5 s, the kernel's 12 s.",
        UEFI, UEFI_DHCP, uefi_files, grub(), slow={"grubx64.efi": 5.0, KERNEL: 12.0},
    ),
    "uefi-http-shim": Scenario(
        "OVMF and shim by HTTP boot. GRUB (grubnetx64.efi.signed) has no HTTP and asks for nothing.",
        UEFI_HTTP, HTTP_DHCP, uefi_files, {}, last="grubx64.efi",
    ),
    "uefi-http-grub": Scenario(
        "OVMF and a GRUB of our own (grub-mkimage with http) by HTTP boot.",
        UEFI_HTTP, HTTP_DHCP, uefi_http_files, grub(f"(http,{RACK}:5248)"),
    ),
    "bios-pxelinux": Scenario(
        "SeaBIOS, iPXE's ROM, PXELINUX, all by TFTP.",
        BIOS, f"dhcp-boot=pxelinux.0,,{RACK}", bios_files, pxelinux("/"),
    ),
    "bios-pxelinux-subdirectory": Scenario(
        "SeaBIOS, iPXE's ROM, PXELINUX from the folder bios/, all by TFTP.",
        BIOS, f"dhcp-boot=bios/pxelinux.0,,{RACK}", bios_files, pxelinux("/", "bios/"), last=f"bios/{INITRD}",
    ),
    "bios-pxelinux-lossy": Scenario(
        "SeaBIOS, iPXE's ROM, PXELINUX, every 300th DATA lost; it is in the recording.",
        BIOS, f"dhcp-boot=pxelinux.0,,{RACK}", bios_files, pxelinux("/"), lose_data=300,
    ),
    "bios-pxelinux-dead-link": Scenario(
        "SeaBIOS, iPXE's ROM, PXELINUX; somewhere in the kernel no DATA arrives for 3 s.",
        BIOS, f"dhcp-boot=pxelinux.0,,{RACK}", bios_files, pxelinux("/"), dead=(300, 3.0),
    ),
    "bios-pxelinux-slow-file": Scenario(
        "SeaBIOS, iPXE's ROM, PXELINUX: the kernel's first bytes take 8 s.",
        BIOS, f"dhcp-boot=pxelinux.0,,{RACK}", bios_files, pxelinux("/"), slow=SLOW_KERNEL,
    ),
    "bios-lpxelinux": Scenario(
        "SeaBIOS, iPXE's ROM, lpxelinux; kernel and initrd by HTTP.",
        BIOS, f"dhcp-boot=lpxelinux.0,,{RACK}", bios_files, pxelinux(f"http://{RACK}:5248/"),
    ),
    "u-boot": Scenario(
        "U-Boot (qemu_arm64): tftpboot with windowsize 8, then pxe get and pxe boot, typed at its prompt.",
        U_BOOT, "", u_boot_files, pxelinux("/"),
        typed=(
            *ADDRESS, "setenv tftpwindowsize 8", "setenv tftptimeout 2000",
            f"tftpboot ${{loadaddr}} {KERNEL}", "setenv tftpblocksize 512", f"tftpboot ${{loadaddr}} /{KERNEL}",
            "setenv tftpblocksize 1468", "tftpboot ${loadaddr} nobody", "pxe get", "pxe boot",
        ),
    ),
    "u-boot-lossy": Scenario(
        "U-Boot (qemu_arm64): tftpboot with windowsize 8 and without, every 127th DATA lost; it is in the recording.",
        U_BOOT, "", u_boot_files, {}, lose_data=127,
        typed=(
            *ADDRESS, "setenv tftpwindowsize 8", "setenv tftptimeout 1000",
            f"tftpboot ${{loadaddr}} {KERNEL}", "setenv tftpwindowsize 1", f"tftpboot ${{loadaddr}} /{INITRD}",
        ),
    ),
}  # fmt: skip


class Server:
    """One reactor in the rack's namespace, and a thread that gives what it asks for, late where the scenario says."""

    def __init__(self, network: Network, scenario: Scenario, work: pathlib.Path) -> None:
        self.scenario = scenario
        self.cache = Cache(str(work / "cache"), 64 << 20)
        files = scenario.files()
        blobs = {
            name: cold(self.cache, content) if name in scenario.slow else Blob.memory(content, dynamic=False)
            for name, content in files.items()
        }
        self.slow = {blobs[name].id: (name, blobs[name], files[name]) for name in scenario.slow if name in files}
        self.begun: set[int] = set()
        self.udp, self.tcp, self.reactor = network.rack.call(listen)
        self.reactor.publish(Table(blobs, 1))
        self.reactor.start()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while not self.over.is_set():
            select.select([self.reactor.fileno()], [], [], 0.1)
            for mail in self.reactor.take():
                if mail[0] == "ask":
                    text = self.scenario.configs.get(mail[3])
                    blob = Blob.memory(text.encode()) if text is not None else None
                    wait = self.scenario.slow.get(mail[3], 0.0)
                    threading.Timer(wait, self.reactor.answer, (mail[1], blob, 0 if blob else ST_UNKNOWN)).start()
                elif mail[0] == "miss":
                    name, blob, content = self.slow[mail[1]]
                    wait = 0.0 if mail[1] in self.begun else self.scenario.slow[name]
                    self.begun.add(mail[1])
                    threading.Timer(wait, self.give, (blob, content, mail[2])).start()
                elif mail[0] == "handover":
                    os.close(mail[1])

    def give(self, blob: Blob, content: bytes, chunk: int) -> None:
        fill(self.cache, blob, content, chunk)
        self.reactor.chunk(blob, chunk)

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        self.reactor.stop()
        self.udp.close()
        self.tcp.close()


def listen() -> tuple[socket.socket, socket.socket, Reactor]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((RACK, 69))
    tcp = socket.create_server((RACK, 5248), backlog=64)
    for each in (udp, tcp):
        each.setblocking(False)
    return udp, tcp, Reactor(http=[tcp.fileno()], tftp=[udp.fileno()], park_limit_s=60.0)


def lose(network: Network, data: int = 0, acks: int = 0) -> None:
    """DATA are lost behind the capture, ACKs before it. One of so many; 1: all."""
    rules = ["table bridge loss {", " chain before { type filter hook prerouting priority 0;"]
    if acks:
        rules.append(f"  ip daddr {RACK} meta l4proto udp @th,64,16 4 numgen inc mod {acks} {acks - 1} drop")
    rules += [" }", " chain behind { type filter hook forward priority 0;"]
    if data:
        rules.append(f"  ip saddr {RACK} meta l4proto udp @th,64,16 3 numgen inc mod {data} {data // 2} drop")
    network.switch.run("nft", "-f", "-", text="\n".join([*rules, " }", "}"]))


def console(path: pathlib.Path, typed: tuple[str, ...]) -> None:
    """Reads what the machine says, and types a line at each prompt of U-Boot."""
    with socket.socket(socket.AF_UNIX) as serial, path.with_suffix(".log").open("wb", buffering=0) as log:
        for _ in range(100):
            try:
                serial.connect(str(path))
                break
            except OSError:
                time.sleep(0.1)
        seen, lines = b"", list(typed)
        while said := serial.recv(4096):
            log.write(said)
            seen = (seen + said)[-4096:]
            if lines and b"Hit any key" in seen:
                serial.sendall(b"\n")
                seen = b""
            elif lines and seen.rstrip(b" ").endswith(b"\n=>"):
                serial.sendall(lines.pop(0).encode() + b"\n")
                seen = b""


def watch(network: Network, server: Server, scenario: Scenario, guest: subprocess.Popen[bytes]) -> None:
    """Until the last file has been fetched, or nothing has happened for long; the link dies and comes back."""
    reactor, end, dead_until = server.reactor, time.monotonic() + LIMIT_S, 0.0
    busy, before, fetched = time.monotonic(), -1, 0
    left = 1 + sum(scenario.last in line for line in scenario.typed)
    while time.monotonic() < end and guest.poll() is None:
        counters = reactor.counters()
        if scenario.dead[0] and not dead_until and counters["tftp_data"] > scenario.dead[0]:
            lose(network, data=1)
            dead_until = time.monotonic() + scenario.dead[1]
        elif dead_until and time.monotonic() > dead_until:
            network.lose_nothing()
            dead_until = float("inf")
        work = counters["tftp_data"] + counters["tftp_requests"] + counters["http_requests"] + counters["lookups"]
        if work != before:
            before, busy = work, time.monotonic()
        fetched += sum(record.name == scenario.last and record.outcome == "complete" for record in reactor.records())
        over = fetched and (not scenario.typed or fetched >= left or time.monotonic() - busy > 5)
        if over or (work and time.monotonic() - busy > QUIET_S):
            break
        time.sleep(0.05)
    time.sleep(3)  # connections end, and tcpdump reads what it has caught once a second


def record(name: str) -> None:
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory(prefix="bootplane-record-") as folder:
        work = pathlib.Path(folder)
        network = Network(work, scenario.dhcp, [LEASE])
        server = None
        try:
            server = Server(network, scenario, work)
            if scenario.lose_data or scenario.lose_acks:
                lose(network, scenario.lose_data, scenario.lose_acks)
            catch = network.capture(work / "boot.pcap", LEASE.address)
            time.sleep(1)
            words = argv(scenario.firmware, work / "vars.fd", network.tap("tap0"), LEASE.mac)
            words[words.index("stdio")] = f"unix:{work}/serial,server=on,wait=off"
            guest = network.start(network.switch, words, work / "qemu.log")
            threading.Thread(target=console, args=(work / "serial", scenario.typed), daemon=True).start()
            watch(network, server, scenario, guest)
            network.stop(guest)
            network.stop(catch)
        finally:
            if server:
                server.close()
            network.close()
        boot = capture_of(work / "boot.pcap")
        boot.notes = [scenario.note, MINE]
        (FOLDER / f"{name}.txt").write_text(render(boot))
        print(f"{name}: {len(boot.events)} lines", flush=True)


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not names:
        print(*(f"{name:28} {scenario.note}" for name, scenario in SCENARIOS.items()), sep="\n")
        return 2 if unknown else 0
    for name in names:
        record(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
