"""``bootplane doctor``: each check against a machine made good and made bad."""

from __future__ import annotations

import copy
import json
import resource
import socket
from pathlib import Path

import pytest

from bootplane.control.cli import checks, doctor
from bootplane.control.cli.failure import CliError
from tests.fakes.ports import quiet_port


def listening(kind: int = socket.SOCK_STREAM) -> socket.socket:
    """On a port that nobody else is given once it is closed."""
    held = socket.socket(socket.AF_INET, kind)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)  # as every server sets it
    held.bind(("127.0.0.1", quiet_port(kind)))
    if kind == socket.SOCK_STREAM:
        held.listen()
    return held


def test_python_older_than_3_11_fails() -> None:
    assert checks.check_python((3, 10, 12)).state == "fail"
    assert checks.check_python((3, 11, 0)).state == "ok"


def test_a_missing_gpgv_fails_and_names_the_package() -> None:
    finding = checks.check_gpgv(lambda name: None)
    assert (finding.state, "apt install gpgv" in finding.remedy) == ("fail", True)


def test_a_gpgv_that_does_not_run_fails(tmp_path: Path) -> None:
    broken = tmp_path / "gpgv"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert checks.check_gpgv(lambda name: str(broken)).state == "fail"


def test_a_missing_or_empty_keyring_warns(tmp_path: Path) -> None:
    path = tmp_path / "keys.gpg"
    assert checks.check_keyring(path).state == "warn"
    path.touch()
    assert checks.check_keyring(path).state == "warn"
    path.write_bytes(b"\x99")
    assert checks.check_keyring(path).state == "ok"


@pytest.mark.parametrize(
    ("present", "remedy"),
    [({"apt-get", "dpkg-deb", "gpg"}, ""), ({"apt-get", "dpkg-deb"}, "apt install gnupg"), ({"gpg"}, "generates")],
)
def test_the_demos_tools(present: set[str], remedy: str) -> None:
    finding = checks.check_demo_tools(lambda name: name if name in present else None)
    assert (finding.state == "ok") == (remedy == "")
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("hard", "state"), [(64, "fail"), (1024, "warn"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_the_hard_limit_of_open_files_counts(hard: int, state: str) -> None:
    assert checks.check_open_files((64, hard)).state == state


@pytest.mark.parametrize(("free", "state"), [(1 << 20, "fail"), (5 << 30, "warn"), (50 << 30, "ok")])
def test_the_room_on_disk(free: int, state: str) -> None:
    assert checks.check_disk(Path("/srv"), free).state == state


def test_a_data_directory_yet_to_be_made_is_checked_where_it_will_stand(tmp_path: Path) -> None:
    first, _ = checks.check_data(tmp_path / "a" / "b")
    assert (first.state, f"under {tmp_path}" in first.found) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_data_directory_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = checks.check_data(tmp_path / "file")
    assert (finding.state, "is not a directory" in finding.found) == ("fail", True)


def test_an_unwritable_data_directory_fails() -> None:
    first, _ = checks.check_data(Path("/proc"))  # refuses files even for root
    assert first.state == "fail"


def test_a_free_port_is_ok_and_a_held_one_names_its_holder() -> None:
    held = listening()
    port = held.getsockname()[1]
    finding = checks.check_port("bulk", ("127.0.0.1", port), set())
    assert finding.state == "fail"
    assert "pid" in finding.found
    assert finding.remedy == "stop it, or choose another with --bulk HOST:PORT"
    assert checks.check_port("bulk", ("127.0.0.1", port), {f"127.0.0.1:{port}"}).state == "ok"
    held.close()
    assert checks.check_port("bulk", ("127.0.0.1", port), set()).state == "ok"


def test_a_port_whose_last_connection_lingers_is_free() -> None:
    held = listening()
    address = held.getsockname()
    with socket.create_connection(address) as client:
        server, _ = held.accept()
        server.close()  # the side that closes first keeps the port in TIME_WAIT
        assert client.recv(1) == b""
    held.close()
    assert checks.check_port("http", address, set()).state == "ok"


def test_another_bootplane_on_the_port_is_told_by_its_own_word(region) -> None:
    host, port = region.address.split(":")
    finding = checks.check_port("listen", (host, int(port)), set())
    assert (finding.state, finding.found) == ("fail", f"in use on {host}: another bootplane region answers")


def test_a_held_tftp_port_fails_and_the_privileged_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    held = listening(socket.SOCK_DGRAM)
    address = ("127.0.0.1", held.getsockname()[1])
    finding = checks.check_tftp(address, set())
    assert (finding.state, "pid" in finding.found) == ("fail", True)
    held.close()
    assert checks.check_tftp(address, set()).state == "ok"
    monkeypatch.setattr(checks, "_bind", lambda kind, where: PermissionError(13, "Permission denied"))
    assert checks.check_tftp(("127.0.0.1", 69), set()).state == "warn"


def test_a_host_that_does_not_resolve_fails() -> None:
    assert checks.check_port("http", ("no-such-host.invalid", 5248), set()).state == "fail"


@pytest.mark.parametrize("text", ["5240", "host:", "host:x", ":1", "h:70000"])
def test_an_address_that_is_none_is_named(text: str) -> None:
    with pytest.raises(CliError, match=r"--listen: expected HOST:PORT"):
        doctor.address("listen", text)


def free_ports() -> list[str]:
    ports = {"--tftp": quiet_port(socket.SOCK_DGRAM)}
    while len(ports) < 4:
        port = quiet_port()
        if port not in ports.values():
            ports[("--listen", "--bulk", "--http")[len(ports) - 1]] = port
    return [part for name in ("--listen", "--bulk", "--http", "--tftp") for part in (name, f"127.0.0.1:{ports[name]}")]


def test_doctor_exits_1_when_a_check_fails_and_names_it(bootplane, tmp_path: Path) -> None:
    held = listening()
    ports = [*free_ports(), "--bulk", f"127.0.0.1:{held.getsockname()[1]}"]
    result = bootplane("doctor", "--data", tmp_path, *ports)
    held.close()
    assert result.exit_code == 1
    assert "1 of" in result.stderr and "(bulk)" in result.stderr
    assert result.stdout.splitlines()[0].split() == ["CHECK", "STATE", "FOUND", "REMEDY"]


def test_doctor_looks_where_a_running_region_listens(bootplane, region, data) -> None:
    result = bootplane("doctor", "--json", *free_ports()[2:])
    (found,) = [item for item in json.loads(result.stdout)["items"] if "(listen)" in item["check"]]
    assert (found["state"], region.address.split(":")[1] in found["check"]) == ("ok", True)


def test_doctor_with_a_running_region_shows_its_banners(bootplane, region, data) -> None:
    status = dict(region.answers["GET /status"])
    status["banners"] = [{"id": "disk", "text": "/srv is low", "since": None, "remedy": "make room"}]
    region.answers["GET /status"] = status
    result = bootplane("doctor", "--json", *free_ports())
    found = json.loads(result.stdout)["items"]
    assert result.exit_code == 0
    assert found[-1] == {"check": "region", "state": "warn", "found": "/srv is low", "remedy": "make room"}


def test_doctor_names_what_was_set_aside_and_what_the_audit_found(bootplane, region, data) -> None:
    def store() -> list[tuple[str, str]]:
        items = json.loads(bootplane("doctor", "--json", *free_ports()).stdout)["items"]
        return [(item["state"], item["found"]) for item in items if item["check"] == "store"]

    assert store() == [("ok", "hashed: all since 2026-11-20T10:00:00Z")]
    status = copy.deepcopy(region.answers["GET /status"])
    status["store"]["aside"] |= {"files": 1, "bytes": 1 << 20, "until": None}
    status["store"]["audit"]["rotten"] = 1
    region.answers["GET /status"] = status
    assert store() == [
        ("warn", "hashed: all since 2026-11-20T10:00:00Z, 1 damaged since the start"),
        ("warn", "set aside: 1 file, 1.0 MiB in /srv/image-storage/.aside, until you remove them"),
    ]
