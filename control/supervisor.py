"""``bootplane up``: one region and one rack as two supervised processes on one data directory.

The idea: this process serves nothing and imports little, so that there is little in it that could fall over. It starts
the region, issues the local rack's token, starts the rack, says ``ready`` and then only watches: a child that dies is
started again with growing pauses, on the addresses it had, and both end when this process ends, however it ends
(PR_SET_PDEATHSIG).

Invariants: one supervisor for one directory; a child that cannot start at all ends ``up`` with exit status 1, after its
own sentence. Left to others: what a region and a rack do.
"""

from __future__ import annotations

import ctypes
import errno
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bootplane.control import config, datadir
from bootplane.control.errors import BootplaneError, StartError
from bootplane.dataplane import activation
from bootplane.dataplane.activation import ActivationError
from bootplane.dataplane.notify import Manager

READY_S = 60.0
DRAIN_S = 10.0  # for what machines fetch; who must not wait for that either tells us twice
STOP_S = 20.0  # a child's own grace is shorter
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_S = 60.0  # a child that lived this long begins again at the first pause
LOCAL_RACK = "local"
PR_SET_PDEATHSIG = 1
_CDLL = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The command line of ``up``; None where it said nothing."""

    data: Path
    listen: str | None = None
    bulk: str | None = None
    http: str | None = None
    tftp: str | None = None
    https: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cache_size: str | None = None
    share: bool = True


def run_up(options: UpOptions) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status."""
    try:
        activation.refuse("`bootplane up` opens its own; leave its socket unit out (docs/howto/systemd.md)")
        settings = config.load(
            options.data,
            listen=options.listen,
            bulk=options.bulk,
            http=options.http,
            tftp=options.tftp,
            https=options.https,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            cache_size=options.cache_size,
            share=None if options.share else False,  # sharing is the default: the file may still say otherwise
        )
        datadir.prepare(settings.data)
        lock = datadir.Lock(settings.data / "up.lock", "`bootplane up`")
        try:
            Supervisor(settings).run()
        finally:
            lock.release()
    except (BootplaneError, ActivationError) as error:
        print(f"bootplane up: {error}", file=sys.stderr)
        return 1
    return 0


class Child:
    """One supervised process. ``command`` is asked anew at each start; ``waits`` is called while one is waited for."""

    def __init__(
        self, name: str, command: Callable[[], Sequence[str]], waits: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self._command = command
        self._waits = waits
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._failures = 0
        self.due_at: float | None = None  # monotonic; when to start it again

    def start(self) -> dict[str, str]:
        """Start it and wait until it says ready; returns where it listens. Raises StartError."""
        ours, theirs = os.pipe()
        try:
            argv = [*self._command(), "--ready-fd", str(theirs)]
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs],
                preexec_fn=_end_with_parent,
                process_group=0,  # Ctrl-C is for the supervisor, which tells the others once
            )
            self._started_at = time.monotonic()
            self.due_at = None
        finally:
            os.close(theirs)
        try:
            return self._ready(ours)
        finally:
            os.close(ours)

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def plan_restart(self) -> float:
        """It died: when to try again. Returns the pause in seconds."""
        if time.monotonic() - self._started_at >= HEALTHY_S:
            self._failures = 0
        pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self.due_at = time.monotonic() + pause_s
        return pause_s

    def describe_end(self) -> str:
        status = self.process.returncode if self.process else None
        if status is not None and status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def terminate(self) -> None:
        self.tell(signal.SIGTERM)

    def tell(self, number: signal.Signals) -> None:
        if not self.ended():
            assert self.process is not None
            self.process.send_signal(number)

    def wait(self, deadline: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            _say(f"the {self.name} did not end within {STOP_S:.0f} s and is killed")
            self.process.kill()
            self.process.wait()

    def _ready(self, fd: int) -> dict[str, str]:
        deadline = time.monotonic() + READY_S
        seen = b""
        while not seen.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise StartError(f"{self.name}: expected it to be ready within {READY_S:.0f} s, got no word from it")
            self._waits()
            if not select.select([fd], [], [], min(left_s, 0.5))[0]:
                continue
            block = os.read(fd, 4096)
            if not block:  # its end of the pipe is closed: it has ended
                assert self.process is not None
                self.process.wait()
                raise StartError(f"the {self.name} {self.describe_end()} before it was ready")
            seen += block
        return dict(word.partition("=")[::2] for word in seen.decode().split()[1:])


class Stop(Exception):
    """SIGTERM or SIGINT."""


class Supervisor:
    def __init__(self, settings: config.Settings) -> None:
        self._settings = settings
        self._where = {
            "region": settings.listen,
            "bulk": settings.bulk,
            "http": settings.http,
            "tftp": _tftp_address(settings.tftp) if settings.tftp else "",
        }
        if settings.https is not None:
            self._where["https"] = settings.https
        self._manager = Manager()  # before any child could take its variables for its own
        self._region = Child("region", self._region_command, self._manager.alive)
        self._rack = Child("rack", self._rack_command, self._manager.alive)
        self._token_file = settings.data / datadir.RACK_TOKEN

    def run(self) -> None:
        """Start both, say so, watch. Returns when told to end; raises StartError when one cannot start at all."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        if "https" in self._where:
            signal.signal(signal.SIGHUP, lambda *_: self._rack.tell(signal.SIGHUP))  # it reads its certificate again
        try:
            self._where |= self._region.start()
            self._issue_token()
            self._where |= self._rack.start()
            self._write_run_json()
            print(" ".join(["ready", *(f"{key}={value}" for key, value in self._where.items() if value)]), flush=True)
            self._manager.ready(f"serves machines over HTTP at {self._where['http']}")
            self._watch()
        except Stop:
            pass
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._rack.terminate())  # once more: it finishes nothing then
            self._manager.stopping("finishes what machines fetch")
            self._end()

    def _watch(self) -> None:
        while True:
            self._manager.alive()
            self._wait_for_change()
            for child in (self._region, self._rack):
                if child.due_at is None and child.ended():
                    pause_s = child.plan_restart()
                    _say(f"the {child.name} {child.describe_end()}; starting it again in {pause_s} s")
                elif child.due_at is not None and child.due_at <= time.monotonic():
                    try:
                        self._where |= child.start()
                        self._write_run_json()
                        _say(f"the {child.name} runs again")
                    except StartError as error:
                        _say(str(error))
                        child.terminate()

    def _wait_for_change(self) -> None:
        """Until a child ends, a restart is due or a manager wants to hear that this process lives."""
        due = [child.due_at for child in (self._region, self._rack) if child.due_at is not None]
        if self._manager.watchdog_s is not None:
            due.append(time.monotonic() + self._manager.watchdog_s / 4)
        alive = [c.process.pid for c in (self._region, self._rack) if c.process is not None and not c.ended()]
        fds = [os.pidfd_open(pid) for pid in alive]
        try:
            timeout = max(min(due) - time.monotonic(), 0.0) if due else None
            select.select(fds, [], [], timeout)
        finally:
            for fd in fds:
                os.close(fd)

    def _end(self) -> None:
        """The rack first: the region is there for what machines still fetch, and takes the last of the timeline."""
        (self._settings.data / datadir.RUN_JSON).unlink(missing_ok=True)
        for child in (self._rack, self._region):
            child.terminate()
            child.wait(time.monotonic() + STOP_S)

    def _region_command(self) -> list[str]:
        command = [sys.executable, "-m", "bootplane.control.region", "--data", str(self._settings.data)]
        command += ["--listen", self._where["region"], "--bulk", self._where["bulk"]]
        return command + (["--database", self._settings.database] if self._settings.database else [])

    def _rack_command(self) -> list[str]:
        settings = self._settings
        command = [sys.executable, "-m", "bootplane.dataplane.rack", "--data", str(settings.data / "rack")]
        command += ["--region", f"http://{_reachable(self._where['region'])}", "--token-file", str(self._token_file)]
        command += ["--http", self._where["http"], "--tftp", self._where["tftp"]]
        https = {"--https": self._where.get("https"), "--tls-cert": settings.tls_cert, "--tls-key": settings.tls_key}
        command += [word for option, value in https.items() if value is not None for word in (option, str(value))]
        command += ["--cache-size", f"{settings.cache_bytes}B", "--drain-limit", str(DRAIN_S)]
        return command + (["--shared-store", str(settings.data)] if settings.share else [])

    def _issue_token(self) -> None:
        """The local rack's token, kept over restarts; a new one when the region does not know it (any more)."""
        if self._token_file.exists():
            secret = self._token_file.read_text(encoding="ascii", errors="replace").strip().split(".")
            if len(secret) == 4 and self._call("GET", "/rack/v1/catalogue", secret[2])[0] in (200, 304):
                return
        admin = (self._settings.data / datadir.ADMIN_TOKEN).read_text(encoding="ascii").strip()
        status, document = self._call("POST", "/api/v1/rack-tokens", admin, {"name": LOCAL_RACK})
        if status != 201:
            raise StartError(f"region {self._where['region']}: expected a rack token, got status {status}")
        datadir.write_secret(self._token_file, document["token"])

    def _call(self, method: str, path: str, token: str, body: Any = None) -> tuple[int, Any]:
        host, port = config.split_address(_reachable(self._where["region"]))
        connection = http.client.HTTPConnection(host, port, timeout=15)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise StartError(f"region {self._where['region']}: expected an answer to {path}, got: {error}") from None
        finally:
            connection.close()
        return answer.status, json.loads(raw) if "json" in answer.getheader("Content-Type", "") else None

    def _write_run_json(self) -> None:
        pids = {f"{c.name}_pid": c.process.pid for c in (self._region, self._rack) if c.process is not None}
        files = {"tls_cert": self._settings.tls_cert, "tls_key": self._settings.tls_key}
        tls = {name: str(path.absolute()) for name, path in files.items() if path is not None}
        started = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        document = {"pid": os.getpid(), **pids, **self._where, **tls, "started": started}
        datadir.write_json(self._settings.data / datadir.RUN_JSON, document)


def _stop(_number: int, _frame: object) -> None:
    raise Stop


def _end_with_parent() -> None:
    """In the child, before exec: SIGTERM when the supervisor dies without a word."""
    _CDLL.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _tftp_address(address: str) -> str:
    """*address*, or its unprivileged stand-in when binding it is not allowed here."""
    host, port = config.split_address(address)
    if port != config.TFTP_PORT:
        return address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                return address  # the rack says what is wrong with it
            instead = config.join_address(host, config.TFTP_PORT_UNPRIVILEGED)
            _say(f"TFTP {address}: no right to bind port {port} here; using {instead} (firmware asks for {port})")
            return instead
    return address


def _reachable(address: str) -> str:
    """A wildcard is a place to listen at; the same host answers on loopback."""
    host, port = config.split_address(address)
    return config.join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


def _say(sentence: str) -> None:
    print(f"bootplane up: {sentence}", file=sys.stderr, flush=True)
