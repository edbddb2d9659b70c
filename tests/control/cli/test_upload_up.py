"""`image upload` against a real region, as processes: killed on either side, changed, refused, two at once, large.

A relay between the two holds the bytes where the test wants them, so that nothing here depends on who is faster.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import archives
from tests.fakes.filesystems import leave_room, mounted, or_skip
from tests.fakes.relay import Relay, relay

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 90.0
MIB = 1 << 20
BYTES = 24 * MIB
HELD = 10 * MIB
UNWRITTEN = 3 * MIB  # what may be on its way when somebody is killed: a batch, a gather, the sockets
RSS_BYTES = 64 * MIB


class Server:
    """`bootplane region` on *data*."""

    def __init__(self, data: Path, log: Path, listen: str = "127.0.0.1:0") -> None:
        argv = [sys.executable, "-m", "bootplane", "region", "--data", str(data)]
        self.data = data
        with log.open("ab") as told:
            self.process = subprocess.Popen(
                [*argv, "--listen", listen, "--bulk", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=told, cwd=ROOT
            )
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], WAIT_S)[0], log.read_text()
        words = self.process.stdout.readline().decode().split()
        assert words[:1] == ["ready"], (words, log.read_text())
        self.address = dict(word.partition("=")[::2] for word in words[1:])["region"]

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(WAIT_S)


@contextmanager
def server(folder: Path, data: Path | None = None) -> Iterator[Server]:
    made = Server(data or folder / "data", folder / "log")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path) as made:
        yield made


@pytest.fixture
def between(region: Server) -> Iterator[Relay]:
    with relay(region.address) as made:
        yield made


def start(address: str, data: Path, *words: object) -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "BOOTPLANE_URL": f"http://{address}",
        "BOOTPLANE_TOKEN": (data / "admin-token").read_text(),
    }
    env.pop("BOOTPLANE_DATA", None)
    argv = [sys.executable, "-m", "bootplane", *map(str, words)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def run(address: str, data: Path, *words: object) -> Any:
    status, out, err = ended(start(address, data, *words, "--json"))
    assert status == 0, err
    return json.loads(out)


def upload(name: str, file: Path, *options: object) -> Sequence[object]:
    return ("image", "upload", name, file, "--arch", "amd64", *options)


def large_tgz(folder: Path, name: str = "large.tgz", nbytes: int = BYTES) -> Path:
    """A root archive and noise behind it: no two pieces of it are alike."""
    path = folder / name
    noise = hashlib.shake_128(name.encode()).digest(MIB)
    with path.open("wb") as out:
        out.write(archives.archive(folder, "tgz").read_bytes())
        while out.tell() < nbytes:
            out.write(noise[: nbytes - out.tell()])
            noise = noise[1:] + noise[:1]
    return path


def sha(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def blobs(data: Path) -> list[str]:
    return sorted(each.name for each in (data / "image-storage").iterdir() if not each.name.startswith("."))


def partials(data: Path) -> dict[str, int]:
    return {each.name: each.stat().st_size for each in (data / "image-storage" / ".partial").iterdir()}


def until_arrived(data: Path, nbytes: int) -> None:
    """The region has written *nbytes* of something: what the relay has passed on, it takes its time for."""
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        if sum(partials(data).values()) >= nbytes:
            return
        tick.wait(0.05)
    raise AssertionError(f"expected {nbytes} bytes within {WAIT_S:.0f} s, got {partials(data)}")


def test_a_killed_client_goes_on_where_the_regions_bytes_end(region: Server, between: Relay, tmp_path: Path) -> None:
    file = large_tgz(tmp_path)
    between.hold_at = HELD
    client = start(between.address, region.data, *upload("web", file))
    assert between.held.wait(WAIT_S)
    client.send_signal(signal.SIGKILL)
    ended(client)
    between.cut()
    document = run(between.address, region.data, *upload("web", file))
    assert (document["state"], document["image"]) == ("complete", "custom/web/amd64/generic")
    assert BYTES - HELD <= between.total < BYTES - HELD + UNWRITTEN
    assert blobs(region.data) == [sha(file)] and partials(region.data) == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_region_that_is_killed_or_stopped_is_waited_for_and_goes_on_with_what_it_has(
    tmp_path: Path, number: signal.Signals
) -> None:
    file = large_tgz(tmp_path)
    first = Server(tmp_path / "data", tmp_path / "log")
    with relay(first.address) as between:
        between.hold_at = HELD
        client = start(between.address, first.data, *upload("web", file, "--json"))
        try:
            assert between.held.wait(WAIT_S)
            until_arrived(first.data, HELD - UNWRITTEN)
            first.end(number)
            between.release.set()
            between.hold_at = None
            before = between.total
            second = Server(tmp_path / "data", tmp_path / "log", first.address)
            try:
                status, out, err = ended(client)
                assert status == 0, err
                assert "Waiting for it." in err and "The region answers again." in err
                assert json.loads(out)["state"] == "complete"
                assert between.total - before < BYTES - HELD + UNWRITTEN
                assert blobs(second.data) == [sha(file)]
            finally:
                assert second.end() == 0
        finally:
            client.kill()


def test_a_file_that_changes_in_mid_upload_is_refused_and_nothing_of_it_kept(
    region: Server, between: Relay, tmp_path: Path
) -> None:
    file = large_tgz(tmp_path)
    between.hold_at = HELD
    client = start(between.address, region.data, *upload("web", file))
    assert between.held.wait(WAIT_S)
    with file.open("r+b") as opened:
        opened.seek(BYTES - 100)
        opened.write(b"other bytes")
    between.release.set()
    status, _, err = ended(client)
    assert status == 1 and len(err.splitlines()) == 1
    assert "expected the file that was hashed, but it has changed since" in err
    assert (blobs(region.data), partials(region.data)) == ([], {})
    listed = run(region.address, region.data, "image", "list")
    assert listed["items"] == []
    assert run(region.address, region.data, *upload("web", file))["state"] == "complete"  # as it is now


def test_ctrl_c_says_that_what_has_arrived_is_kept(region: Server, between: Relay, tmp_path: Path) -> None:
    between.hold_at = HELD
    client = start(between.address, region.data, *upload("web", large_tgz(tmp_path)))
    assert between.held.wait(WAIT_S)
    client.send_signal(signal.SIGINT)
    status, out, err = ended(client)
    assert status == 130 and "the same command goes on" in err
    assert any("sending, " in line and " left" in line for line in out.splitlines())
    between.release.set()


def test_two_clients_with_the_same_content_send_it_once(region: Server, between: Relay, tmp_path: Path) -> None:
    file = large_tgz(tmp_path)
    between.hold_at = HELD
    first = start(between.address, region.data, *upload("web", file, "--json"))
    assert between.held.wait(WAIT_S)
    with relay(region.address) as other:
        second = start(other.address, region.data, *upload("twin", file, "--json"))
        tick = threading.Event()
        for _ in range(int(WAIT_S / 0.05)):
            if len(other.sent) > 2:  # it was told to wait, and asks again
                break
            tick.wait(0.05)
        assert second.poll() is None
        between.release.set()
        for client, name in ((first, "web"), (second, "twin")):
            status, out, err = ended(client)
            assert (status, err) == (0, "")
            assert json.loads(out)["image"] == f"custom/{name}/amd64/generic"
        assert other.total < MIB
    assert blobs(region.data) == [sha(file)]


REFUSED: dict[str, tuple[str, ...]] = {
    "expected an arch": ("noble3", "FILE", "--arch", "x86"),
    "name of an operating system": ("ubuntu", "FILE", "--arch", "amd64"),
    "did you mean --type tgz": ("web", "FILE", "--arch", "amd64", "--type", "ddraw"),
    "expected a base image": ("web", "FILE", "--arch", "amd64", "--base-image", "windows/11"),
    "expected a file, got none": ("web", "MISSING", "--arch", "amd64"),
}


def test_a_refusal_is_one_sentence_and_exit_1(region: Server, tmp_path: Path) -> None:
    paths = {"FILE": str(archives.archive(tmp_path, "tgz")), "MISSING": str(tmp_path / "missing")}
    for said, words in REFUSED.items():
        argv = ("image", "upload", *(paths.get(word, word) for word in words))
        status, out, err = ended(start(region.address, region.data, *argv))
        assert (status, len(err.splitlines())) == (1, 1), err
        assert said in err and "Traceback" not in out + err


def test_a_disk_without_room_refuses_before_the_first_byte_and_one_that_fills_keeps_what_came(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with or_skip(mounted("ext4", tmp_path / "disk")) as point, server(tmp_path, point / "data") as region:
        file = large_tgz(tmp_path)
        leave_room(point, 100 * MIB + BYTES // 2)  # the region's own reserve, and half of what comes
        ballast = point / "ballast"
        status, _, err = ended(start(region.address, region.data, *upload("web", file)))
        assert status == 1 and f"{point}/data/image-storage: expected {BYTES} bytes free" in err
        assert run(region.address, region.data, "image", "list")["items"] == [] and partials(region.data) == {}
        ballast.unlink()
        with relay(region.address) as between:
            between.hold_at = HELD
            client = start(between.address, region.data, *upload("web", file))
            assert between.held.wait(WAIT_S)
            until_arrived(region.data, HELD - UNWRITTEN)
            subprocess.run(["sync", "-f", str(point)], check=True)
            leave_room(point, 6 * MIB)  # somebody else fills the disk
            between.release.set()
            status, _, err = ended(client)
            assert status == 1 and "what has arrived is kept" in err and str(point) in err
            (kept,) = partials(region.data).values()
            assert kept >= HELD - UNWRITTEN
            ballast.unlink()
            between.forget()
            assert run(between.address, region.data, *upload("web", file))["state"] == "complete"
            assert between.total < BYTES - kept + UNWRITTEN


def peak_rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def test_two_gib_pass_through_both_processes_in_bounded_memory(region: Server, tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    if disk.f_bavail * disk.f_frsize < 6 << 30:
        pytest.skip("less than 6 GiB are free")
    file, small = tmp_path / "disk.img", tmp_path / "small.img"
    for path, size in ((small, MIB), (file, 2 << 30)):
        with path.open("wb") as out:
            out.seek(510)
            out.write(b"\x55\xaa")
            out.truncate(size)
    run(region.address, region.data, *upload("small", small, "--type", "ddraw"))  # everything has been imported
    client = start(region.address, region.data, *upload("small", small, "--type", "ddraw", "--json"))
    idle_bytes = _ended_rss(client)
    before = peak_rss(region.process.pid)
    client = start(region.address, region.data, *upload("disk", file, "--type", "ddraw", "--json"))
    used_bytes = _ended_rss(client)
    assert peak_rss(region.process.pid) - before < RSS_BYTES
    assert used_bytes - idle_bytes < RSS_BYTES
    shown = run(region.address, region.data, "image", "show", "disk")
    assert (shown["size"], shown["files"][0]["ftype"]) == (2 << 30, "root-dd.raw")


def _ended_rss(client: subprocess.Popen[str]) -> int:
    """Peak resident bytes of a client that succeeds."""
    assert client.stdout is not None and client.stderr is not None
    told = client.stdout.read()
    _, status, usage = os.wait4(client.pid, 0)
    client.returncode = os.waitstatus_to_exitcode(status)
    assert client.returncode == 0, client.stderr.read()
    assert json.loads(told)["state"] == "complete"
    client.stdout.close()
    client.stderr.close()
    return usage.ru_maxrss << 10
