"""The rack of a soak: a real process that is killed, stopped and started again on the same directory, and looked into.

A ``Life`` is one run of the process. What the kernel says of it (descriptors, sockets, threads, memory, bytes on the
disk) is read while the process stands still (SIGSTOP), so that numbers belong together.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from bootplane.dataplane.addresses import HostPort, parse

READY_S = 90.0
DRAIN_S = 5.0  # readers that are stalled for longer are cut by an end
END_S = DRAIN_S + 30.0
CRASH_S = 1.0
MIB = 1 << 20
CHUNK = 1 << 20
BLOCK = 4096
SOCKET = re.compile(r"socket:\[(\d+)\]")


class RackFailed(AssertionError):
    """It did not start, or did not end."""


class Numbers(NamedTuple):
    """What the kernel says of a rack at one moment."""

    threads: int
    anonymous: int  # bytes
    files: int  # descriptors of segment files that have a name
    deleted: int  # ... and of those that have none any more
    other: tuple[str, ...]  # descriptors that are neither of these nor sockets
    sockets: tuple[str, ...]  # one word each: "listen", "udp", "to:PORT" of a region, "from" of a machine, "dead"
    disk: int  # bytes of segment files, named and deleted
    disk_files: int
    charge: int  # of the named ones: what their lengths come to


class Life:
    """One run. *ending* is set before its end is begun, so that nobody is surprised by what follows."""

    def __init__(self, number: int, process: subprocess.Popen[str], log: Path) -> None:
        self.number, self.process, self.log = number, process, log
        self.began = time.monotonic()
        self.ending: str = ""  # how: SIGKILL, SIGTERM
        self.ended_at = float("inf")
        self.http, self.tftp = HostPort("", 0), HostPort("", 0)
        self.limits: list[tuple[float, int]] = []  # (since, bytes)
        self.lock = threading.Lock()  # whoever stops, continues or kills it

    @property
    def pid(self) -> int:
        return self.process.pid

    def limit(self, now: float, lag_s: float = 8.0) -> int:
        """The largest limit of the last *lag_s*: a lower one is not reached at once."""
        ahead = [at for at, _ in self.limits if at <= now - lag_s]
        return max(limit for at, limit in self.limits if not ahead or at >= ahead[-1])

    def crash(self) -> str:
        """How it has ended by itself; "": it runs, or is being ended. Asked when something is wrong: its sockets are
        closed a moment before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(CRASH_S)
            if not self.ending:
                return f"life {self.number} of the rack has ended by itself: {status}"
        return ""

    @contextmanager
    def still(self) -> Iterator[None]:
        """Within it the process does not run."""
        with self.lock:
            if self.ending:
                raise ProcessLookupError
            os.kill(self.pid, signal.SIGSTOP)
            try:
                self._wait_stopped()
                yield
            finally:
                os.kill(self.pid, signal.SIGCONT)

    def _wait_stopped(self) -> None:
        until = time.monotonic() + 10.0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            while True:
                state = (task / "stat").read_text().rpartition(")")[2].split()[0]
                if state in "tTZX":
                    break
                if time.monotonic() > until:
                    raise RackFailed(f"task {task.name} of the rack did not stop within 10 s: state {state}")
                time.sleep(0.0005)  # /proc tells nobody when it changes

    def metrics(self) -> dict[str, float]:
        with urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


class Rack:
    """*said* hears every line of the log, with its Life."""

    def __init__(
        self,
        directory: Path,
        host: str,
        regions: str,
        token: str,
        options: list[str],
        said: Callable[[Life, str], None],
    ) -> None:
        self.directory = directory
        self.cache = directory / "data" / "cache"
        self.said = said
        directory.mkdir(exist_ok=True)
        (directory / "token").write_text(token + "\n")
        self.command = [sys.executable, "-m", "bootplane.dataplane.rack", "--data", str(directory / "data")]
        self.command += ["--region", regions, "--token-file", str(directory / "token")]
        self.command += ["--http", f"{host}:0", "--tftp", f"{host}:0", "--drain-limit", str(DRAIN_S), *options]
        self.lives = 0
        self._last: Life | None = None

    def start(self, cache_bytes: int, files: int = 0, reactors: int = 1) -> Life:
        """*files*: how many descriptors it may have; 0: as many as this process."""
        self.lives += 1
        log = self.directory / f"log-{self.lives}"
        limited = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "rack"] if files else []
        with log.open("w") as file:
            process = subprocess.Popen(
                [*limited, *self.command, "--cache-size", str(cache_bytes), "--reactors", str(reactors)],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        life = self._last = Life(self.lives, process, log)
        life.limits.append((0.0, cache_bytes))
        threading.Thread(target=self._follow, args=(life,), daemon=True).start()
        lines: list[str] = []
        assert process.stdout is not None
        reading = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reading.start()
        reading.join(READY_S)
        if not lines or not lines[0].startswith("ready "):
            self.close()
            raise RackFailed(f"the rack was not ready within {READY_S:.0f} s: {lines}: {log.read_text()[-1500:]}")
        words = dict(word.split("=", 1) for word in lines[0].split()[1:])
        life.http, life.tftp = parse(words["http"]), parse(words["tftp"])
        return life

    def end(self, life: Life, how: str) -> None:
        with life.lock:
            life.ending = how
            life.process.send_signal(getattr(signal, how))
        try:
            status = life.process.wait(END_S)
        except subprocess.TimeoutExpired:
            life.process.kill()
            life.process.wait()
            raise RackFailed(f"the rack did not end within {END_S:.0f} s of {how}") from None
        finally:
            life.ended_at = time.monotonic()
            assert life.process.stdout is not None
            life.process.stdout.close()
        expected = -signal.SIGKILL if how == "SIGKILL" else 0
        if status != expected:
            raise RackFailed(f"the rack ended with {status} after {how}, expected {expected}")

    def close(self) -> None:
        """Kills it, if it runs."""
        if self._last is not None:
            with self._last.lock:
                self._last.ending = self._last.ending or "SIGKILL"
                self._last.process.kill()
            self._last.process.wait()

    def _follow(self, life: Life) -> None:
        with life.log.open() as file:
            rest = ""
            while True:
                over = life.process.poll() is not None
                rest += file.read()
                *lines, rest = rest.split("\n")
                for line in lines:
                    self.said(life, line)
                if over:
                    return
                time.sleep(0.05)  # a file tells nobody when it grows

    # -- its disk, while it is down

    def rot(self, kinds: list[str], rng: random.Random) -> list[tuple[str, int]]:
        """Damages segment files; (sha256, index) of each. A new file takes the name: sockets may owe the old one."""
        found = sorted(path for path in self.cache.glob("*.d/*") if path.stat().st_size)
        rng.shuffle(found)
        spoilt: list[tuple[str, int]] = []
        for kind, path in zip(kinds, found, strict=False):
            data = bytearray(path.read_bytes())
            if kind == "flip":
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            elif kind == "zero":
                at = rng.randrange(0, len(data), BLOCK)
                data[at : at + BLOCK] = bytes(len(data[at : at + BLOCK]))
            elif kind == "truncate":
                del data[rng.randrange(len(data)) :]
            else:  # another segment of the same length, if there is one
                same = [other for other in found if other != path and other.stat().st_size == len(data)]
                data = bytearray(rng.choice(same).read_bytes()) if same else data[::-1]
            aside = path.with_name(f"{path.name}.rot")
            with aside.open("wb") as file:
                for at in range(0, len(data), CHUNK):
                    if any(data[at : at + CHUNK]):  # holes stay holes
                        file.seek(at)
                        file.write(data[at : at + CHUNK])
                file.truncate(len(data))
            aside.rename(path)
            spoilt.append((path.parent.name[:64], int(path.name)))
        return spoilt


def look(life: Life, cache: Path) -> Numbers:
    """Call it within ``life.still()``."""
    proc = Path(f"/proc/{life.pid}")
    files = deleted = disk = disk_files = charge = 0
    other: list[str] = []
    inodes: list[str] = []
    for fd in sorted((proc / "fd").iterdir(), key=lambda path: int(path.name)):
        try:
            target = str(fd.readlink())
        except FileNotFoundError:
            continue
        if found := SOCKET.fullmatch(target):
            inodes.append(found[1])
        elif target.startswith(f"{cache}/") and ".d/" in target:
            if target.endswith(" (deleted)"):
                deleted += 1
                disk += fd.stat().st_blocks * 512
                disk_files += 1
            else:
                files += 1
        else:
            other.append(target)
    for path in cache.glob("*.d/*"):
        status = path.lstat()
        disk += status.st_blocks * 512
        disk_files += 1
        charge += (status.st_size + BLOCK - 1) // BLOCK * BLOCK
    anonymous = re.search(r"RssAnon:\s+(\d+) kB", (proc / "status").read_text())
    return Numbers(
        threads=len(list((proc / "task").iterdir())),
        anonymous=int(anonymous[1]) * 1024 if anonymous else 0,
        files=files,
        deleted=deleted,
        other=tuple(sorted(other)),
        sockets=tuple(sorted(_sockets(inodes, life))),
        disk=disk,
        disk_files=disk_files,
        charge=charge,
    )


def _sockets(inodes: list[str], life: Life) -> list[str]:
    known: dict[str, str] = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        local, remote = int(words[1].rpartition(":")[2], 16), int(words[2].rpartition(":")[2], 16)
        state = words[3]
        word = "listen" if state == "0A" else "from" if local == life.http.port else f"to:{remote}"
        known[words[9]] = word if state in ("01", "0A") else f"{word}:{state}"
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        known[line.split()[9]] = "udp"
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        known[line.split()[6]] = "unix"
    return [known.get(inode, "dead") for inode in inodes]


def queues(host: str, readers: str) -> tuple[int, int]:
    """Connections of *readers* (the start of their addresses) to *host*: (all that are open or still owe bytes, those
    whose sender has 64 KiB or more waiting in its socket)."""
    total = full = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        local, remote = _address(words[1]), _address(words[2])
        if local == host and remote != host and remote.startswith(readers) and words[3] in ("01", "04"):
            total += 1
            full += int(words[4].partition(":")[0], 16) >= 65536
    return total, full


def _address(word: str) -> str:
    return ".".join(str(byte) for byte in bytes.fromhex(word.partition(":")[0])[::-1])
