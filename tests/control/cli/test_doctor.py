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
from bootplane.core.tls import Tls
from tests.fakes.ports import quiet_port
from tests.fakes.tls import tls_rack, write_pair


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


def test_an_ipv6_port_of_this_directory_s_own_bootplane_is_ok() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as held:
        port = held.getsockname()[1]
        assert checks.check_port("http", ("::1", port), {f"[::1]:{port}"}).state == "ok"
        assert checks.check_port("http", ("::1", port), set()).state == "fail"


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


def certificate(bootplane, tmp_path: Path, *options: str) -> tuple[str, str, str]:
    result = bootplane("doctor", "--json", "--data", tmp_path / "site", *free_ports(), *options)
    (found,) = [item for item in json.loads(result.stdout)["items"] if item["check"] == "certificate"]
    assert (result.exit_code == 1) is (found["state"] == "fail"), result.stderr
    return found["state"], found["found"], found["remedy"]


def https(port: int | None = None) -> list[str]:
    return ["--https", f"127.0.0.1:{port or quiet_port()}"]


def test_doctor_knows_a_certificate_that_serves(bootplane, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, days=(-1, 90))
    state, found, remedy = certificate(bootplane, tmp_path, *https(), "--tls-cert", pair[0], "--tls-key", pair[1])
    assert (state, remedy) == ("ok", "") and found.startswith(f"{pair[0]}: for 127.0.0.1, until 20")


def test_doctor_reads_the_settings_that_up_would_go_by(bootplane, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, days=(-1, 13))
    data = tmp_path / "site"
    data.mkdir()
    lines = [f'https = "127.0.0.1:{quiet_port()}"', f'tls_cert = "{pair[0]}"', f'tls_key = "{pair[1]}"']
    (data / "bootplane.toml").write_text("\n".join(lines))
    state, found, remedy = certificate(bootplane, tmp_path)
    assert (state, remedy) == ("warn", "renew it, then send the rack a SIGHUP") and "it expires at" in found
    (data / "bootplane.toml").write_text("cash_size = 1")
    result = bootplane("doctor", "--data", data, *free_ports())
    assert result.exit_code == 1 and "checks failed: settings." in result.stderr and "cash_size" in result.stdout


@pytest.mark.parametrize(
    ("days", "names", "state", "words"),
    [
        ((-9, -1), ("127.0.0.1",), "fail", "it has expired at"),
        ((1, 90), ("127.0.0.1",), "fail", "it is valid from"),
        ((-1, 90), (), "warn", "it has no subjectAltName"),
    ],
)
def test_doctor_says_what_machines_hold_against_a_certificate(
    bootplane, tmp_path: Path, days: tuple[float, float], names: tuple[str, ...], state: str, words: str
) -> None:
    pair = write_pair(tmp_path, days=days, names=names)
    told = certificate(bootplane, tmp_path, *https(), "--tls-cert", pair[0], "--tls-key", pair[1])
    assert told[0] == state and words in told[1]


def test_doctor_says_which_file_is_missing_or_does_not_fit(bootplane, tmp_path: Path) -> None:
    one, other = write_pair(tmp_path, "one"), write_pair(tmp_path, "other")
    assert certificate(bootplane, tmp_path, *https())[0] == "fail"
    for pair, words in (
        (("/nowhere", one[1]), "/nowhere: expected a readable file, got No such file or directory"),
        ((one[0], other[1]), f"{other[1]}: expected the key of {one[0]} in PEM"),
    ):
        state, found, _ = certificate(bootplane, tmp_path, *https(), "--tls-cert", pair[0], "--tls-key", pair[1])
        assert state == "fail" and words in found


def test_doctor_sees_that_a_rack_serves_another_certificate_than_the_file(tmp_path: Path) -> None:
    served, renewed = write_pair(tmp_path, "served", days=(-1, 90)), write_pair(tmp_path, "renewed", days=(-1, 90))
    with tls_rack({}, tls={"tls": Tls(*served)}) as rack:
        address = ("127.0.0.1", rack.port)
        assert checks.check_certificate(Path(served[0]), Path(served[1]), address).state == "ok"
        finding = checks.check_certificate(Path(renewed[0]), Path(renewed[1]), address)
        assert (finding.state, "is not the one that the rack serves" in finding.found) == ("warn", True)
