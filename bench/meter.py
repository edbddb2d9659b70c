"""CPU seconds of a server, whatever it forks: read from a control group of its own.

tftpd-hpa forks a process per transfer whose time never reaches its parent's account, so /proc/PID/stat would say that
nothing was spent. Where no control group can be made (no root, no cgroup file system) the process tree's own accounts
are summed, and ``exact`` is False.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

SERVER_CPU, LOAD_CPU = 0, 1

_ROOT = Path("/sys/fs/cgroup")
_TICK = os.sysconf("SC_CLK_TCK")


class Group:
    """A control group for one server. ``cpu_s()`` is the time of everything that ever ran in it."""

    def __init__(self, name: str) -> None:
        self.v2 = (_ROOT / "cgroup.controllers").exists()
        self.path: Path | None = (_ROOT if self.v2 else _ROOT / "cpuacct") / f"bench-{os.getpid()}-{name}"
        self.pid = 0
        try:
            self.path.mkdir()
        except OSError:
            self.path = None

    @property
    def exact(self) -> bool:
        return self.path is not None

    def enter(self) -> None:
        """For preexec_fn: the child joins before it becomes the server."""
        if self.path is not None:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_s(self) -> float:
        if self.path is None:
            return _tree_cpu_s(self.pid)
        if self.v2:
            first = (self.path / "cpu.stat").read_text().splitlines()[0]
            return int(first.split()[1]) / 1e6
        return int((self.path / "cpuacct.usage").read_text()) / 1e9

    def members(self) -> list[int]:
        if self.path is None:
            return [self.pid] if self.pid else []
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def close(self) -> None:
        """Ends whatever is left in the group, then removes it."""
        for _ in range(100):
            left = self.members() if self.path is not None else []
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def _tree(pid: int) -> list[int]:
    """*pid* and whatever lives that it or its children have started."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with contextlib.suppress(OSError):  # it may have ended
            for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                todo.extend(int(child) for child in children.read_text().split())
    return found


def _tree_cpu_s(pid: int) -> float:
    total = 0.0
    for one in _tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(value) for value in fields[11:15]) / _TICK  # utime stime cutime cstime
    return total


def _anonymous_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


class Server:
    """A server process on one CPU, in a group of its own; a context manager that leaves nothing behind."""

    def __init__(self, name: str, argv: list[str], *, cpu: int, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.group = Group(name)

        def before_exec() -> None:
            os.sched_setaffinity(0, {cpu})
            self.group.enter()

        self.process = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            preexec_fn=before_exec, start_new_session=True,
        )  # fmt: skip
        self.group.pid = self.process.pid

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.group.close()
        if self.process.stdout:
            self.process.stdout.close()

    def cpu_s(self) -> float:
        return self.group.cpu_s()

    def anonymous_bytes(self) -> int:
        """Anonymous memory of the server's processes together: what it holds besides files' pages."""
        return sum(_anonymous_bytes(pid) for pid in _tree(self.process.pid))
