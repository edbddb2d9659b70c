"""The command line and the pages against a real region and rack, as processes: `bootplane up` to SIGTERM."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[3]
ANY = "127.0.0.1:0"


class Up(NamedTuple):
    process: subprocess.Popen[str]
    data: Path
    ready: dict[str, str]

    def bootplane(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bootplane", *arguments]
        env = {**os.environ, "BOOTPLANE_DATA": str(self.data)}
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60, check=False)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    data = tmp_path_factory.mktemp("up") / "data"
    options = [part for name in ("listen", "bulk", "http", "tftp") for part in (f"--{name}", ANY)]
    command = [sys.executable, "-m", "bootplane", "up", "--data", str(data), "--cache-size", "64MiB", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            word, *places = process.stdout.readline().split()
            assert word == "ready"
            yield Up(process, data, dict(place.split("=") for place in places))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert not (data / "run.json").exists()
        finally:
            if process.poll() is None:
                process.kill()


def test_status_finds_the_region_by_its_data_directory(up: Up) -> None:
    status = json.loads(up.bootplane("status", "--json").stdout)
    assert status["region"]["listen"] == up.ready["region"]
    assert [rack["name"] for rack in status["racks"]] == ["local"]


def test_a_remote_region_is_reached_by_url_and_token(up: Up) -> None:
    env = {
        **os.environ,
        "BOOTPLANE_URL": f"http://{up.ready['region']}",
        "BOOTPLANE_TOKEN": (up.data / "admin-token").read_text(),
    }
    env.pop("BOOTPLANE_DATA", None)
    command = [sys.executable, "-m", "bootplane", "source", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60, check=True)
    assert json.loads(done.stdout) == {"items": [], "next": None}


def test_a_selection_can_be_added_and_removed(up: Up) -> None:
    added = json.loads(up.bootplane("select", "add", "ubuntu", "noble", "--arch", "amd64", "--json").stdout)
    assert up.bootplane("select", "list").stdout.splitlines()[1].split()[0] == str(added["id"])
    assert up.bootplane("select", "remove", str(added["id"])).returncode == 0
    assert json.loads(up.bootplane("select", "list", "--json").stdout)["items"] == []


def test_a_source_that_nobody_serves_is_refused_in_one_sentence_and_not_kept(up: Up, tmp_path: Path) -> None:
    keyring = tmp_path / "keys.gpg"
    keyring.write_bytes(b"no keyring at all")
    done = up.bootplane("source", "add", "http://127.0.0.1:9/", "--keyring", str(keyring))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert json.loads(up.bootplane("source", "list", "--json").stdout)["items"] == []


def test_an_empty_sync_is_complete(up: Up) -> None:
    done = up.bootplane("sync", "--wait")
    assert (done.returncode, done.stdout.splitlines()[-1].endswith("nothing new.")) == (0, True), done


def test_a_second_up_on_the_directory_is_one_sentence_and_exit_1(up: Up) -> None:
    done = up.bootplane("up", "--listen", ANY)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(up.data) in done.stderr and str(up.process.pid) in done.stderr


def test_doctor_takes_the_running_bootplane_for_its_own(up: Up) -> None:
    found = json.loads(up.bootplane("doctor", "--json").stdout)["items"]
    assert {item["state"] for item in found if item["check"].startswith("port ")} == {"ok"}


def test_the_link_of_bootplane_web_opens_the_pages_and_their_events(up: Up) -> None:
    link = up.bootplane("web").stdout.strip()
    base, _, path = link.partition("/login")
    assert base == f"http://{up.ready['region']}"

    def get(where: str, cookie: str = "") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(up.ready["region"], timeout=60)
        connection.request("GET", where, headers={"Cookie": cookie} if cookie else {})
        return connection.getresponse()

    arrival = get(f"/login{path}")
    cookie = arrival.getheader("Set-Cookie", "").partition(";")[0]
    assert (arrival.status, arrival.getheader("Location")) == (303, "/")
    overview = get("/", cookie).read().decode()
    assert "First steps" in overview and up.ready["region"] in overview
    assert get("/images", cookie).status == 200
    events = get("/api/v1/events", cookie)
    assert [events.readline() for _ in range(3)][2] == b"event: sync\n"
    events.close()
    assert get(f"/login{path}").status == 403  # it worked once
    assert get("/").status == 303  # nothing without the cookie
