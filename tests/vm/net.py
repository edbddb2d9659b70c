"""The lab's wire: a switch and a rack's stack in network namespaces without names, and dnsmasq for addresses only.

    lab namespace                                    rack namespace
      br0 10.77.0.1, fd77::1 (dnsmasq: DHCP, RA)       eth0 10.77.0.2
      ├── tap per guest                                  │
      └── uplink ────────────────veth────────────────────┘

The namespaces live as long as this process holds them open, and every process started here dies with the thread that
started it (PR_SET_PDEATHSIG): a test run that is killed leaves no process, bridge, tap or namespace behind. Start
processes from the main thread.

Left to others: what runs on either side of the wire.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x40000000
SWITCH, RACK = "10.77.0.1", "10.77.0.2"
PREFIX_V6 = "fd77::"
DNSMASQ_S = 30.0  # until it has read its settings
SNAPLEN = 700  # DHCP is cut below 600
TOOLS = {
    "ip": "iproute2", "nft": "nftables", "ethtool": "ethtool", "dnsmasq": "dnsmasq-base", "nsenter": "util-linux",
    "setpriv": "util-linux",
}  # fmt: skip

_LIBC = ctypes.CDLL(None, use_errno=True)
Result = TypeVar("Result")


class LabUnavailable(Exception):
    """This machine cannot hold the lab; the message says what is missing in one sentence."""


class CommandFailed(LabUnavailable):
    """A command in the lab has ended with an error; the message has its last line."""


@dataclass(frozen=True)
class Lease:
    """What DHCP tells one machine: its address, and tags that the DHCP rules of a scenario match on."""

    mac: str
    address: str
    tags: tuple[str, ...] = ()


class Namespace:
    """A network namespace that lives while this object is open."""

    def __init__(self) -> None:
        ready, made = os.pipe()
        go, done = os.pipe()
        child = os.fork()
        if child == 0:  # only system calls here: other threads of pytest do not exist on this side
            error = 0 if _LIBC.unshare(CLONE_NEWNET) == 0 else ctypes.get_errno()
            os.write(made, bytes([error & 0xFF]))
            os.close(done)
            os.read(go, 1)
            os._exit(0)
        os.close(go)
        try:
            error = os.read(ready, 1)[0]
            if error:
                raise LabUnavailable(f"no network namespace to be had: {os.strerror(error)} (the lab needs root)")
            self.fd = os.open(f"/proc/{child}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            for fd in (ready, made, done):
                os.close(fd)
            os.waitpid(child, 0)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def argv(self, argv: Iterable[str], end: str = "KILL") -> list[str]:
        """*argv* run in this namespace, ended by signal *end* when the thread that starts it ends."""
        return ["setpriv", "--pdeathsig", end, "nsenter", f"--net={self.path}", *argv]

    def run(self, *argv: str, text: str | None = None) -> str:
        """Runs a command to its end and returns what it wrote. Raises CommandFailed."""
        result = subprocess.run(self.argv(argv), input=text, capture_output=True, text=True, timeout=60)
        if result.returncode:
            said = (result.stderr.strip() or result.stdout.strip() or "it said nothing").splitlines()[-1]
            raise CommandFailed(f"`{' '.join(argv)}` ended with {result.returncode}: {said}")
        return result.stdout

    def call(self, function: Callable[[], Result]) -> Result:
        """*function* in a thread that stands in this namespace: sockets it makes belong here."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                if _LIBC.setns(self.fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        os.close(self.fd)


class Network:
    """The wire of one lab. *dhcp* is dnsmasq's configuration of what to boot, as docs/howto/dhcp.md shows it."""

    def __init__(self, work: Path, dhcp: str, leases: Iterable[Lease]) -> None:
        missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
        if missing:
            raise LabUnavailable(f"install these first: apt-get install --no-install-recommends {' '.join(missing)}")
        self._work = work
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()
        try:
            self.switch, self.rack = Namespace(), Namespace()
            self._stack.callback(self.switch.close)
            self._stack.callback(self.rack.close)
            self._wire()
            self._dnsmasq(dhcp, list(leases))
        except BaseException:
            self.close()
            raise

    def _wire(self) -> None:
        ip = self.switch.run
        for words in (
            "link set lo up",
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"address add {SWITCH}/24 dev br0",
            f"address add {PREFIX_V6}1/64 dev br0 nodad",
            "link set br0 up",
            f"link add uplink type veth peer name eth0 netns {self.rack.path}",
            "link set uplink master br0 up",
        ):
            ip("ip", *words.split())
        for words in ("link set lo up", f"address add {RACK}/24 dev eth0", "link set eth0 up"):
            self.rack.run("ip", *words.split())
        self.remove_tap(self.tap("probe"))  # no tap to be had: better said now than at the first machine
        # The rack's segmented sends become single packets here, so that a rule on the bridge can lose one of them.
        self.rack.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off")

    def _dnsmasq(self, dhcp: str, leases: list[Lease]) -> None:
        config = self._work / "dnsmasq.conf"
        hosts = "\n".join(
            f"dhcp-host={lease.mac},{''.join(f'set:{tag},' for tag in lease.tags)}{lease.address}" for lease in leases
        )
        config.write_text(
            "port=0\ninterface=br0\nbind-interfaces\nno-resolv\nno-hosts\nno-ping\n"  # no DNS
            f"dhcp-range={SWITCH.rpartition('.')[0]}.0,static,10m\ndhcp-authoritative\n"
            # iPXE's BIOS ROM waits 13 s for a router advertisement on a link that has none.
            f"enable-ra\ndhcp-range={PREFIX_V6},ra-only\n"
            f"dhcp-leasefile={self._work}/leases\npid-file={self._work}/dnsmasq.pid\n"
            f"log-dhcp\nlog-facility={self._work}/dnsmasq.log\n{hosts}\n{dhcp}\n"
        )
        log = self._work / "dnsmasq.out"
        words = ["dnsmasq", "--keep-in-foreground", "--user=root", "--group=root", f"--conf-file={config}"]
        process = self.start(self.switch, words, log)
        said, deadline = self._work / "dnsmasq.log", time.monotonic() + DNSMASQ_S
        while not (said.is_file() and "started" in said.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LabUnavailable(f"dnsmasq does not start: {log.read_text().strip() or 'it said nothing'}")
            time.sleep(0.02)

    def start(
        self, namespace: Namespace, argv: Iterable[str], log: Path | None = None, end: str = "KILL"
    ) -> subprocess.Popen[bytes]:
        """A process in *namespace*, ended at the latest by ``close``; what it writes goes to *log*."""
        with (log or Path(os.devnull)).open("wb") as out:
            process = subprocess.Popen(
                namespace.argv(argv, end), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace_s)
        if process in self._processes:
            self._processes.remove(process)

    def tap(self, name: str) -> str:
        """A tap on the bridge for one guest. Raises LabUnavailable."""
        self.switch.run("ip", "tuntap", "add", name, "mode", "tap")
        self.switch.run("ip", "link", "set", name, "master", "br0", "up")
        return name

    def remove_tap(self, name: str) -> None:
        self.switch.run("ip", "link", "delete", name)

    def capture(self, file: Path, address: str, packets: int = 200_000) -> subprocess.Popen[bytes]:
        """tcpdump of what *address* and the rack, or DHCP, say to one another; the heads of *packets* packets."""
        if shutil.which("tcpdump") is None:
            raise LabUnavailable("captures are asked for and tcpdump is not here: apt-get install tcpdump")
        return self.start(
            self.switch,
            ["tcpdump", "-i", "br0", "-U", "-n", "-Z", "root", "-s", str(SNAPLEN), "-c", str(packets), "-w", str(file),
             f"host {address} or port 67 or port 68"],
        )  # fmt: skip

    def lose_data(self, every: int) -> None:
        """From now on each *every*-th TFTP DATA packet from the rack is dropped on the bridge."""
        self.switch.run(
            "nft",
            "-f",
            "-",
            text=f"""
            table bridge loss {{
                counter data {{ }}
                counter lost {{ }}
                chain forward {{
                    type filter hook forward priority 0;
                    ip saddr {RACK} meta l4proto udp @th,64,16 3 jump data
                }}
                chain data {{
                    counter name data
                    numgen inc mod {every} == {every - 1} counter name lost drop
                }}
            }}""",
        )

    def losses(self) -> tuple[int, int]:
        """(DATA packets seen, of these dropped) since ``lose_data``."""
        found = json.loads(self.switch.run("nft", "-j", "list", "counters", "table", "bridge", "loss"))["nftables"]
        count = {entry["counter"]["name"]: entry["counter"]["packets"] for entry in found if "counter" in entry}
        return count["data"], count["lost"]

    def lose_nothing(self) -> None:
        self.switch.run("nft", "delete", "table", "bridge", "loss")

    def close(self) -> None:
        for process in reversed(self._processes.copy()):
            self.stop(process)
        self._stack.close()
