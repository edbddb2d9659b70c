"""The lab: a signed source, a region and a rack as processes of their own, worked by the command line, and machines.

Everything an operator would do is done by ``bootplane ...``; what the lab knows of a boot it learns from the machine's
timeline, from /metrics, and from what the machine itself has reported. By hand:

    python -m tests.vm.lab a d          boots scenarios (a) and (d) one after another and prints what was seen
    python -m tests.vm.lab --shell      region, rack and wire, until Ctrl-C; prints how to look at them

Left to others: the wire (net), the machines (guests), what they boot (content), what must have happened (expect).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bootplane.control.demo.packages import ContentUnavailable
from bootplane.control.demo.processes import Child, python
from tests.vm import content, guests, scenarios
from tests.vm.guests import Firmware, Guest
from tests.vm.net import RACK, LabUnavailable, Lease, Network
from tests.vm.scenarios import Scenario

HTTP, TFTP, REGION, BULK = f"{RACK}:5248", f"{RACK}:69", "127.0.0.1:5240", "127.0.0.1:5241"
READY_S = 120.0
FREE_BYTES = 1_500_000_000  # source, region's store, rack's cache and the machines' variables, three times over
PREFIX, LOCK = "bootplane-vm-", "lock"
CAPTURE = "BOOTPLANE_VM_CAPTURE"  # a folder that keeps a capture and the console of every scenario


class Lab:
    """A place to boot machines in; ``close`` leaves nothing of it.

    *leases* are those of all machines to come; *syslinux* names the archive of PXELINUX that the source offers.
    """

    def __init__(self, leases: Iterable[Lease], say: Callable[[str], None] = print, syslinux: str = "syslinux") -> None:
        self.work, self._lock = _work_folder()
        self.data = self.work / "data"
        self._children: list[Child] = []
        self._guests: list[Guest] = []
        self._captures: dict[str, subprocess.Popen[bytes]] = {}
        self._keep = Path(os.environ[CAPTURE]).resolve() if os.environ.get(CAPTURE) else None
        self._numbers = 0
        self._network: Network | None = None
        try:
            guests.check()
            self._network = Network(self.work, scenarios.dhcp(), leases)
            free = shutil.disk_usage(self.work).free
            if free < FREE_BYTES:
                raise LabUnavailable(f"{self.work}: expected {FREE_BYTES} free bytes, got {free}")
            try:
                self.content = content.prepare(content.cache_dir(), say)
            except ContentUnavailable as error:
                raise LabUnavailable(f"boot files cannot be had: {error}") from None
            self.source = content.publish_source(self.work / "source", self.content, syslinux)
        except BaseException:
            self.close()
            raise

    @property
    def network(self) -> Network:
        assert self._network is not None
        return self._network

    # -- the processes --

    def up(self) -> None:
        """Region and rack as ``bootplane up`` runs them, the rack with a cache of its own."""
        listen = ("--listen", REGION, "--bulk", BULK, "--http", HTTP, "--tftp", TFTP)
        self._child("bootplane up", "up", "--no-share", *listen)

    def apart(self) -> Child:
        """Region and rack as two processes; returns the region, which can then go while the rack stays."""
        region = self.region()
        token = self.work / "rack.token"
        token.write_text(json.loads(self.cli("rack-token", "new", "lab", "--json"))["token"] + "\n")
        words = ("--region", f"http://{REGION}", "--token-file", str(token), "--http", HTTP, "--tftp", TFTP)
        self._child("bootplane rack", "rack", *words, data=self.work / "rack")
        return region

    def region(self) -> Child:
        return self._child("bootplane region", "region", "--listen", REGION, "--bulk", BULK)

    def _child(self, name: str, *words: str, data: Path | None = None) -> Child:
        argv = python("bootplane", *words, "--data", str(data or self.data))
        child = Child(name, self.network.rack.argv(argv, end="TERM"), self.work / f"{name.replace(' ', '-')}.log")
        self._children.append(child)
        child.ready(READY_S)
        return child

    def end(self, child: Child) -> None:
        child.stop()
        self._children.remove(child)

    def cli(self, *words: str) -> str:
        """``bootplane WORDS`` on the rack's host; what it printed."""
        return self.network.rack.run(*python("bootplane", *words, "--data", str(self.data)))

    def mirror(self, image: bool = True) -> None:
        """Adds the source and mirrors Debian and the boot loaders; without *image* the boot loaders alone can boot."""
        serve = python("bootplane.control.demo.source_server", str(self.source.root))
        source = Child("source", self.network.rack.argv(serve), self.work / "source.log", stdin=subprocess.PIPE)
        self._children.append(source)
        address = source.ready(READY_S)[""]
        self.cli("source", "add", f"http://{address}/", "--keyring", str(self.source.keyring), "--name", "lab")
        if image:
            self.select(content.OS, content.RELEASE, "amd64,arm64")
        else:
            self.select("centos", "8", "amd64")

    def select(self, os: str, release: str, arches: str) -> None:
        self.cli("select", "add", os, release, "--arch", arches)
        self.cli("sync", "--wait")

    # -- machines --

    def boot(self, firmware: Firmware, lease: Lease, name: str = "") -> Guest:
        """Switches a machine on; *name* is that of its capture, when captures are kept."""
        self._numbers += 1
        if self._keep and name:
            self._keep.mkdir(parents=True, exist_ok=True)
            self._captures[lease.mac] = self.network.capture(self._keep / f"{name}.pcap", lease.address)
        guest = Guest(self.network, self.work, self._numbers, lease, firmware, name)
        self._guests.append(guest)
        return guest

    def off(self, guest: Guest) -> None:
        guest.off()
        self._guests.remove(guest)
        capture = self._captures.pop(guest.mac, None)
        if self._keep and capture is not None:
            self.network.stop(capture)
            (self._keep / f"{guest.name}.console.txt").write_text(guest.console)

    # -- what is known of them --

    def metrics(self, address: str = HTTP) -> dict[str, float]:
        """/metrics of the rack (or of another address): series with its labels -> value."""
        found: dict[str, float] = {}
        for line in self.get(f"http://{address}/metrics").decode().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                found[series] = float(value)
        return found

    def get(self, url: str, token: str = "") -> bytes:
        def fetch() -> bytes:
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
            with urllib.request.urlopen(request, timeout=30) as reply:
                return bytes(reply.read())

        return self.network.rack.call(fetch)

    def timeline(self, mac: str) -> list[dict[str, Any]]:
        """The events of a machine, oldest first; none when nothing is known of it yet."""
        token = (self.data / "admin-token").read_text().strip()
        try:
            found = self.get(f"http://{REGION}/api/v1/machines/{mac}/timeline", token)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
            return []
        return list(json.loads(found)["events"])

    def logs(self, lines: int = 15) -> str:
        """The last words of every process of ours, for a failure's message."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for path in sorted(self.work.glob("bootplane-*.log"))
        )

    def close(self) -> None:
        """May be called twice."""
        for guest in self._guests.copy():
            self.off(guest)
        while self._children:
            self._children.pop().stop()
        if self._network is not None:
            self._network.close()
            self._network = None
        if self._keep and self.work.exists():
            for path in self.work.glob("*.log"):
                shutil.copy(path, self._keep)
        shutil.rmtree(self.work, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _work_folder() -> tuple[Path, int]:
    """A folder of this lab's own and the descriptor of its lock; what killed runs have left goes."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{PREFIX}*/{LOCK}"):
        with left.open() as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    lock = os.open(work / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return work, lock


def boot_by_hand(lab: Lab, scenario: Scenario) -> None:
    start = time.monotonic()
    guest = lab.boot(scenario.firmware, scenario.lease, scenario.letter)
    ended = guest.wait_off(300)
    print(f"({scenario.letter}) {scenario.title}: {'off' if ended else 'STILL ON'}, {time.monotonic() - start:.0f} s")
    print("\n".join(f"    {line}" for line in guest.console.splitlines()[-20:]))
    lab.off(guest)
    time.sleep(2)  # the rack tells its region once a second
    print(lab.cli("machine", "timeline", scenario.mac))


def main(words: list[str]) -> None:
    chosen = [scenarios.by_letter(word) for word in words if word != "--shell"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab = Lab([scenario.lease for scenario in scenarios.ALL + scenarios.LOSS])
    try:
        lab.up()
        lab.mirror()
        for scenario in chosen:
            boot_by_hand(lab, scenario)
        if "--shell" in words:
            inside = " ".join(lab.network.rack.argv([])[3:])
            print(f"rack: {HTTP}, tftp {TFTP}; data {lab.data}; any command on the rack's host: {inside} COMMAND")
            signal.pause()
    except KeyboardInterrupt:
        print("stopped")
    finally:
        print(lab.logs())
        lab.close()


if __name__ == "__main__":
    main(sys.argv[1:] or ["--shell"])
