"""`migrate-maas` as a process, killed ten times at random points, is right in the end: no byte lost, none doubled."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bootplane.control.legacy import state
from bootplane.control.storage.database import Database
from bootplane.control.storage.settings import SettingsRepository
from tests.fakes.maas import UPLOADED, Maas
from tests.fakes.regions import running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[3]
PIECE = 3_000_000  # bytes of a kernel
IMAGES = 3
KILLS, KILLS_AT_THE_END = 8, 2
POLL_S = 0.001
RUN_S = 60.0


def command(maas: Maas, data: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "bootplane", "migrate-maas", "--database", maas.url, "--data", str(data), *words,
    ]  # fmt: skip


def run_until(argv: list[str], is_enough: Callable[[], bool]) -> int:
    """The exit status; killed with SIGKILL as soon as it *is_enough*."""
    tick = threading.Event()
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(int(RUN_S / POLL_S)):
            if process.poll() is not None:
                break
            if is_enough():
                process.send_signal(signal.SIGKILL)
                break
            tick.wait(POLL_S)
        return process.wait(RUN_S)


def written(data: Path) -> int:
    """Bytes in the store, files on their way included."""
    found = 0
    for path in (*(data / "image-storage").glob("*"), *(data / "image-storage/.partial").glob("*")):
        try:
            found += path.stat().st_size if len(path.name) == 64 else 0
        except FileNotFoundError:
            continue
    return found


def test_killed_ten_times_on_the_way_it_is_right_in_the_end(maas: Maas, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(IMAGES):
        maas.image("noble", architecture=f"amd64/ga-{number}.04", version=f"2024050{number}", size=PIECE // 2)
    maas.resource("web", "amd64/generic", {"root-tgz": maas.put("upload", PIECE)}, rtype=UPLOADED)
    contents = maas.connection.execute("select sha256, total_size from maasserver_largefile").fetchall()
    total = sum(size for _, size in contents)
    chance = random.Random(6)
    killed = 0
    for at in sorted(chance.randrange(4 * total // 5) for _ in range(KILLS)):
        status = run_until(command(maas, data, "--unlink"), lambda at=at: written(data) > at)
        if status != -signal.SIGKILL:  # it was done before this process had its turn to look
            continue
        killed += 1
        settings = Database(f"sqlite:///{data / 'region.sqlite'}")
        assert state.is_pending(SettingsRepository(settings)) or written(data) == total
        settings.close()
        assert maas.objects() == len(contents) or written(data) == total, "an object went before everything was here"
    for left in sorted((chance.randrange(1, len(contents)) for _ in range(KILLS_AT_THE_END)), reverse=True):
        status = run_until(command(maas, data, "--unlink"), lambda left=left: maas.objects() <= left)
        killed += status == -signal.SIGKILL
    last = command(maas, data, "--unlink", "--json")
    done = subprocess.run(last, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["succeeded"] and report["remarks"] == [] and len(report["rows"]) == IMAGES + 1
    assert maas.objects() == 0
    files = {path.name: path for path in (data / "image-storage").iterdir() if path.is_file() and len(path.name) == 64}
    assert {name: path.stat().st_size for name, path in files.items()} == dict(contents)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    assert not list((data / "image-storage/.partial").iterdir())
    assert killed >= KILLS // 2, f"expected {KILLS + KILLS_AT_THE_END} runs to be killed, got {killed}"
    with running(data) as (region, client):
        assert not state.is_pending(region.settings_rows)
        images = client.get("/api/v1/images").json()["items"]
        assert len(images) == IMAGES + 1 and all(image["complete"] for image in images)
