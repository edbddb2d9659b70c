"""``region`` and ``up`` as processes: ready lines, run.json, restarts, and every way not to start in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

WAIT_S = 90.0
ANY = "127.0.0.1:0"
REGION = ["--listen", ANY, "--bulk", ANY]
UP = [*REGION, "--http", ANY, "--tftp", ANY]


class Process:
    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bootplane", *arguments], stdout=subprocess.PIPE, stderr=err
            )

    def ready(self) -> dict[str, str]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], WAIT_S)[0], self.log.read_text()
        words = self.process.stdout.readline().decode().split()
        assert words[:1] == ["ready"], (words, self.log.read_text())
        return dict(word.partition("=")[::2] for word in words[1:])

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@contextmanager
def started(arguments: Sequence[str], folder: Path) -> Iterator[Process]:
    process = Process(arguments, folder / "log")
    try:
        yield process
    finally:
        process.end(signal.SIGTERM)
        assert process.process.stdout is not None
        process.process.stdout.close()


def refused(*arguments: str) -> str:
    """What a command that cannot start says: one sentence, exit status 1, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "bootplane", *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("bootplane")]
    assert "Traceback" not in done.stderr and lines, done.stderr
    return lines[0]


def run_json(data: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((data / "run.json").read_text())
    return document


def status_of(address: str) -> int:
    with urllib.request.urlopen(f"http://{address}/healthz", timeout=WAIT_S) as answer:
        return int(answer.status)


def until(true: Any, what: str) -> None:
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.1)):
        if true():
            return
        tick.wait(0.1)
    raise AssertionError(f"expected {what} within {WAIT_S:.0f} s")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_region_says_ready_writes_run_json_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(["region", "--data", str(data), *REGION], tmp_path) as region:
        where = region.ready()
        assert set(where) == {"region", "bulk"} and run_json(data) == {"pid": region.process.pid, **where}
        assert status_of(where["region"]) == 200
        for secret in ("admin-token", "region-key"):
            assert stat.S_IMODE((data / secret).stat().st_mode) == 0o600
        with urllib.request.urlopen(f"http://{where['region']}/openapi.json", timeout=WAIT_S):
            pass
        assert region.end() == 0
        assert not (data / "run.json").exists() and "Traceback" not in region.log.read_text()


def test_an_open_event_stream_and_a_waiting_rack_do_not_delay_the_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(["region", "--data", str(data), *REGION], tmp_path) as region:
        where = region.ready()
        token = (data / "admin-token").read_text().strip()
        host, _, port = where["region"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as stream:
            stream.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            seen = b""
            while b"event: sync" not in seen:
                seen += stream.recv(4096)
            assert region.end() == 0
            while stream.recv(4096):
                pass


@pytest.mark.parametrize("command", ["region", "up"])
def test_a_port_in_use_is_one_sentence(tmp_path: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(command, "--data", str(tmp_path / "d"), "--listen", f"127.0.0.1:{port}", "--bulk", ANY)
        assert said.endswith(f"--listen 127.0.0.1:{port}: cannot listen: somebody else listens there")
        said = refused(command, "--data", str(tmp_path / "d"), "--listen", ANY, "--bulk", f"127.0.0.1:{port}")
        assert f"bulk address 127.0.0.1:{port}: cannot listen: Address already in use" in said


def test_what_is_wrong_with_the_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in ("region", "up"):
        said = refused(command, "--data", str(tmp_path / "file" / "data"), *REGION)
        assert "file/data: expected one that can be written, got: Not a directory" in said
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bootplane.toml").write_text('cash_size = "1GiB"')
    assert "cash_size" in refused("up", "--data", str(bad), *UP)
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    (spoilt / "region.sqlite").write_bytes(b"no database" * 1000)
    assert "file is not a database" in refused("region", "--data", str(spoilt), *REGION)
    key = tmp_path / "key"
    key.mkdir()
    (key / "region-key").write_text("nonsense\n")
    said = refused("region", "--data", str(key), *REGION)
    assert "region-key: expected 64 hex digits" in said and "nonsense" not in said


def test_up_runs_both_restarts_a_killed_region_on_its_address_and_takes_both_along(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(["up", "--data", str(data), *UP], tmp_path) as up:
        where = up.ready()
        assert set(where) == {"region", "bulk", "http", "tftp"}
        document = run_json(data)
        assert {key: document[key] for key in where} == where and document["pid"] == up.process.pid
        assert stat.S_IMODE((data / "rack-token").stat().st_mode) == 0o600

        said = refused("up", "--data", str(data), *UP)
        assert said.endswith(f"expected to be the only `bootplane up` here, got one already: pid {up.process.pid}")
        said = refused("region", "--data", str(data), *REGION)
        assert said.endswith(f"expected to be the only region here, got one already: pid {document['region_pid']}")

        os.kill(document["region_pid"], signal.SIGKILL)
        until(lambda: run_json(data)["region_pid"] != document["region_pid"], "the region's restart in run.json")
        again = run_json(data)
        assert {key: again[key] for key in where} == where and status_of(where["region"]) == 200
        assert again["rack_pid"] == document["rack_pid"] and alive(document["rack_pid"])
        assert "the region was ended by SIGKILL; starting it again in 0.5 s" in up.log.read_text()

        up.process.kill()  # and no chance to clean up
        up.process.wait()
        try:
            until(lambda: not alive(again["region_pid"]) and not alive(again["rack_pid"]), "both children to end")
        finally:
            for pid in (again["region_pid"], again["rack_pid"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with started(["up", "--data", str(data), *UP, "--no-share"], tmp_path) as second:
        second.ready()
        token = (data / "admin-token").read_text().strip()
        request = urllib.request.Request(
            f"http://{run_json(data)['region']}/api/v1/racks", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            assert [rack["name"] for rack in json.load(answer)["items"]] == ["local"]  # the same rack, not a second
        assert second.end(signal.SIGINT) == 0
        assert not (data / "run.json").exists()


def test_up_without_tftp_leaves_its_port_to_others(tmp_path: Path) -> None:
    with started(["up", "--data", str(tmp_path / "data"), *REGION, "--http", ANY, "--tftp", ""], tmp_path) as up:
        assert set(up.ready()) == {"region", "bulk", "http"}
        words = ["doctor", "--data", str(tmp_path / "data"), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "bootplane", *words], capture_output=True, text=True, timeout=WAIT_S
        )
        assert not any("(tftp)" in item["check"] for item in json.loads(done.stdout)["items"])


def test_a_rack_that_cannot_start_ends_up_with_its_sentence_and_leaves_no_region(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ["up", "--data", str(data), *REGION, "--tftp", ANY, "--http"]
        done = subprocess.run(
            [sys.executable, "-m", "bootplane", *arguments, f"127.0.0.1:{taken.getsockname()[1]}"],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    assert done.returncode == 1 and done.stdout == ""
    assert "bootplane rack: " in done.stderr and "the rack ended with status 1 before it was ready" in done.stderr
    assert not alive(int((data / "region.lock").read_text()))
