"""The real rack as a process of its own, for integration tests. Loopback only, any free port, stopped at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.request import urlopen

from bootplane.dataplane.addresses import HostPort, parse
from tests.fakes.activation import Opened
from tests.fakes.region import FakeRegion

READY_S = 60.0


class RackProcess:
    """``with RackProcess(tmp_path / "rack", region) as rack: rack.http, rack.tftp, rack.log()``"""

    def __init__(self, directory: Path, region: FakeRegion, *options: str, data: Path | None = None) -> None:
        self.directory = directory
        self.data = data or directory / "data"
        directory.mkdir(exist_ok=True)
        token = directory / "token"
        token.write_text(region.token.line() + "\n")
        self.command = [sys.executable, "-m", "bootplane.dataplane.rack", "--data", str(self.data)]
        self.command += ["--region", region.url, "--token-file", str(token), "--http", "127.0.0.1:0"]
        self.command += ["--tftp", "127.0.0.1:0", "--cache-size", "256MiB", "--drain-limit", "5", *options]
        self.opened: Opened | None = None  # sockets it inherits
        self.environment: dict[str, str] = {}  # beside ours
        self._log = directory / "log"
        self.process: subprocess.Popen[str] | None = None
        self.http = HostPort("", 0)
        self.tftp = HostPort("", 0)
        self.https = HostPort("", 0)
        self.scrapes = 0  # requests of metrics(), which the rack counts like any other

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self.opened.command(self.command) if self.opened else self.command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.environment},
                pass_fds=self.opened.fds if self.opened else (),
            )
        lines: list[str] = []
        assert self.process.stdout is not None
        reading = threading.Thread(target=lambda: lines.append(self.process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reading.start()
        reading.join(timeout=READY_S)
        if not lines or not lines[0].startswith("ready "):
            self.stop()
            raise AssertionError(f"the rack did not become ready: {lines}\n{self.log()}")
        words = dict(word.split("=", 1) for word in lines[0].split()[1:])
        self.http, self.tftp = parse(words["http"]), parse(words["tftp"])
        if "https" in words:
            self.https = parse(words["https"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it and returns its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=READY_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def log(self) -> str:
        return self._log.read_text()

    def metrics(self) -> dict[str, float]:
        """Every series without labels, and those with labels under their full name."""
        self.scrapes += 1
        with urlopen(f"http://{self.http}/metrics", timeout=READY_S) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}

    def settled(self, transfers: int) -> dict[str, float]:
        """``metrics()`` once so many transfers have ended for the rack, too: a client has its last byte before it is
        counted."""
        ends = [f"bootplane_{name}_total" for name in ("hits", "misses", "coalesced")]
        deadline = time.monotonic() + READY_S
        while sum((found := self.metrics())[name] for name in ends) < transfers:
            assert time.monotonic() < deadline, f"expected {transfers} transfers, got {[found[name] for name in ends]}"
            threading.Event().wait(0.02)
        return found

    def __enter__(self) -> RackProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
