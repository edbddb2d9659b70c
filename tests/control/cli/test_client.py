"""The command line's REST client: which region it calls, and the one sentence for each way a call can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootplane.control.cli.client import Client, Endpoint, Event, Problem, Unreachable, find_endpoint, parse_events
from bootplane.control.cli.failure import CliError
from tests.fakes.ports import quiet_port


def data_directory(path: Path, address: str = "127.0.0.1:5240") -> Path:
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text(json.dumps({"region": address, "bulk": "127.0.0.1:5241"}))
    (path / "admin-token").write_text("secret\n")
    return path


def test_the_data_directory_on_the_command_line_wins_over_the_environment(tmp_path: Path) -> None:
    chosen = data_directory(tmp_path / "chosen")
    env = {"BOOTPLANE_URL": "http://far:5240", "BOOTPLANE_TOKEN": "t", "BOOTPLANE_DATA": "/elsewhere"}
    assert find_endpoint(chosen, env) == Endpoint("http://127.0.0.1:5240", "secret", str(chosen))


def test_a_url_in_the_environment_wins_over_a_directory_in_the_environment(tmp_path: Path) -> None:
    env = {
        "BOOTPLANE_URL": "http://far:5240/",
        "BOOTPLANE_TOKEN": "t\n",
        "BOOTPLANE_DATA": str(data_directory(tmp_path)),
    }
    assert find_endpoint(None, env) == Endpoint("http://far:5240", "t", "BOOTPLANE_URL")


@pytest.mark.parametrize(
    ("listens", "called"),
    [("0.0.0.0:5240", "http://127.0.0.1:5240"), ("[::]:1", "http://[::1]:1"), ("10.1.2.3:9", "http://10.1.2.3:9")],
)
def test_a_wildcard_address_is_called_on_loopback(tmp_path: Path, listens: str, called: str) -> None:
    assert find_endpoint(data_directory(tmp_path, listens), {}).url == called


def test_without_a_named_region_the_sentence_lists_the_ways_to_name_one() -> None:
    with pytest.raises(CliError, match=r"--data DIR, or set BOOTPLANE_DATA, or BOOTPLANE_URL"):
        find_endpoint(None, {})


def test_a_url_without_a_token_names_the_missing_variable() -> None:
    with pytest.raises(CliError, match="BOOTPLANE_TOKEN is not"):
        find_endpoint(None, {"BOOTPLANE_URL": "http://far"})


def test_a_directory_without_run_json_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=rf"{tmp_path}/run.json does not exist.*bootplane up --data {tmp_path}"):
        find_endpoint(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[]", "expected a JSON object, got list"), ("{}", 'HOST:PORT under "region", got None'), ("{", "cannot be read")],
)
def test_a_broken_run_json_is_named_with_what_was_expected(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CliError, match=sentence):
        find_endpoint(tmp_path, {})


def test_a_missing_and_an_empty_admin_token_are_named(tmp_path: Path) -> None:
    token = data_directory(tmp_path) / "admin-token"
    token.write_text("\n")
    with pytest.raises(CliError, match=f"{token} is empty"):
        find_endpoint(tmp_path, {})
    token.unlink()
    with pytest.raises(CliError, match=f"{token} does not exist"):
        find_endpoint(tmp_path, {})


def test_the_token_is_in_no_repr() -> None:
    assert "secret" not in repr(Endpoint("http://far", "secret", "BOOTPLANE_URL"))


def test_a_token_that_http_cannot_carry_is_refused_without_being_quoted() -> None:
    with pytest.raises(CliError, match="HTTP cannot carry") as caught:
        Client(Endpoint("http://127.0.0.1:9", "se\ncret", "BOOTPLANE_URL")).get("/status")
    assert "cret" not in str(caught.value)


def test_an_unreachable_region_is_one_sentence_with_url_and_command() -> None:
    url = f"http://127.0.0.1:{quiet_port()}"
    with pytest.raises(Unreachable) as caught:
        Client(Endpoint(url, "t", "/srv/boot")).get("/status")
    assert str(caught.value) == (
        f"No region answers at {url} (Connection refused): start it with `bootplane up --data /srv/boot`."
    )


@pytest.mark.parametrize("url", ["ftp://far:1", "far:5240", "http://far:port", "http://far/path", "http://"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(CliError, match=r"BOOTPLANE_URL.*(expected http://HOST:PORT|not a number)"):
        Client(Endpoint(url, "t", "BOOTPLANE_URL")).get("/status")


def test_a_problem_becomes_its_detail_and_keeps_its_status(region, data) -> None:
    region.problem("POST /sources", 422, "index.sjson: signature is of 0xBAD, expected a key of the keyring")
    with pytest.raises(Problem, match=r"^index.sjson: signature is of 0xBAD, expected a key of the keyring$") as caught:
        Client(find_endpoint(data, {})).post("/sources", {})
    assert caught.value.status == 422


def test_a_refused_token_names_the_file_it_came_from(region, data) -> None:
    (data / "admin-token").write_text("wrong")
    with pytest.raises(Problem, match=f"refused the token in {data}/admin-token") as caught:
        Client(find_endpoint(data, {})).get("/status")
    assert "wrong" not in str(caught.value)


def test_html_in_place_of_json_asks_whether_that_is_a_region(region, data) -> None:
    region.answers["GET /status"] = (200, "text/html", b"<html>router login</html>")
    with pytest.raises(CliError, match="status 200 and text/html, expected JSON: is that a bootplane region"):
        Client(find_endpoint(data, {})).get("/status")


def test_an_error_without_detail_still_names_call_and_status(region, data) -> None:
    region.answers["GET /sync"] = (502, "application/json", b"[]")
    with pytest.raises(Problem, match="answered GET /api/v1/sync with 502 Bad Gateway"):
        Client(find_endpoint(data, {})).get("/sync")


def test_an_empty_answer_is_none(region, data) -> None:
    region.answers["DELETE /sources/1"] = (204, "text/plain", b"")
    assert Client(find_endpoint(data, {})).delete("/sources/1") is None


def test_the_token_travels_in_the_authorization_header_only(region, data) -> None:
    Client(find_endpoint(data, {})).post("/sync")
    (call,) = region.calls
    token = (data / "admin-token").read_text().strip()
    assert call.headers["Authorization"] == f"Bearer {token}"
    assert token not in call.path + json.dumps(call.body)


def test_server_sent_events_are_split_at_empty_lines_and_comments_are_skipped() -> None:
    lines = [
        b": ping\r\n", b"\r\n",
        b"event: sync\r\n", b'data: {"state":\r\n', b'data: "idle"}\r\n', b"\r\n",
        b"id: 3\n", b"data: plain\n", b"\n",
        b"event: images\n", b"data: cut off before its empty line\n",
    ]  # fmt: skip
    assert list(parse_events(iter(lines))) == [Event("sync", {"state": "idle"}), Event("message", "plain")]
