"""Clients that others wrote, each in the ways its users call it: curl, wget, aria2c; tftp-hpa, atftp, busybox tftp.

Every file is compared byte for byte. What curl does with entity tags is in test_rfc9110_conditionals.py, how files of a
whole site are fetched in tests/control/test_whole_path.py.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bootplane.core.blob import Blob
from tests.fakes import http_client, tftp_client
from tests.fakes.http_client import Rack

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = random.Random(6).randbytes(20 * MIB + 7)
SMALL = BIG[:100_003]
#: at 512 bytes a block, the number 65535 is followed by 0
ROLLING = BIG + BIG[: 14 * MIB]
SIZES = (0, 1, 511, 512, 513, 3 * 512, 1428, 2 * 1428, 100_003)
NAMES = {"big": BIG, "images/x/small": SMALL, "empty": b""}
TIMEOUT_S = 100


def command(name: str, *arguments: str) -> list[str]:
    """Its command line. Skips the test, by its name, where it is missing."""
    program = name.partition(" ")[0]
    if shutil.which(program) is None:
        assert "CI" not in os.environ, f"{program} is missing, and CI must have it"
        pytest.skip(f"{program} is not on this machine")
    return [*name.split(), *arguments]


def environment() -> dict[str, str]:
    """Without the sanitizer that this process may run under, and in one language."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | {"LC_ALL": "C"}


def run(name: str, *arguments: str, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(name, *arguments), cwd=folder, env=environment(), capture_output=True, timeout=TIMEOUT_S, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == status, f"{done.args}: status {done.returncode}, {done.stdout}{done.stderr}"
    return done


def cut(name: str, *arguments: str, folder: Path, file: str) -> int:
    """Ends the command in the middle of *file*, as a user does. How many bytes are there."""
    process = subprocess.Popen(
        command(name, *arguments), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not (folder / file).exists() or (folder / file).stat().st_size == 0:
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{process.args} wrote nothing"
            select.select([], [], [], 0.01)
        process.send_signal(signal.SIGINT)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT_S)
    return (folder / file).stat().st_size


# -- HTTP --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs() -> dict[str, Blob]:
    return {name: Blob.memory(data, dynamic=False) for name, data in NAMES.items()}


@pytest.fixture(params=["127.0.0.1", "::1"])
def served(request: pytest.FixtureRequest, blobs: dict[str, Blob]) -> Iterator[Rack]:
    with http_client.rack(blobs, host=request.param) as rack:
        yield rack


def url(rack: Rack, name: str) -> str:
    host = f"[{rack.host}]" if ":" in rack.host else rack.host
    return f"http://{host}:{rack.port}/{name}"


@pytest.mark.parametrize(
    "client", [("curl", "-sS", "-g", "-f", "-O"), ("wget", "-q"), ("aria2c", "-q")], ids=lambda c: c[0]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_file(served: Rack, tmp_path: Path, client: tuple[str, ...], name: str) -> None:
    run(*client, url(served, name), folder=tmp_path)
    assert (tmp_path / name.rpartition("/")[2]).read_bytes() == NAMES[name]


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("0-0", 0, 1),
        ("1000-1999", 1000, 2000),
        ("-500", len(BIG) - 500, len(BIG)),
        (f"{len(BIG) - 1}-", len(BIG) - 1, len(BIG)),
    ],
)
def test_curl_reads_a_range(served: Rack, tmp_path: Path, asked: str, first: int, end: int) -> None:
    done = run(
        "curl", "-sS", "-g", "-r", asked, "-o", "part", "-w", "%{http_code}", url(served, "big"), folder=tmp_path
    )
    assert (done.stdout, (tmp_path / "part").read_bytes()) == ("206", BIG[first:end])


def test_curl_outside_of_the_file_is_told_so(served: Rack, tmp_path: Path) -> None:
    done = run(
        "curl",
        "-sS",
        "-g",
        "-r",
        f"{len(BIG)}-",
        "-o",
        "part",
        "-w",
        "%{http_code}",
        url(served, "big"),
        folder=tmp_path,
    )
    assert done.stdout == "416"


@pytest.mark.parametrize(("is_same", "status"), [(True, "206"), (False, "200")])
def test_curl_gets_a_part_of_the_same_file_only(
    served: Rack, blobs: dict[str, Blob], tmp_path: Path, is_same: bool, status: str
) -> None:
    tag = f'"{blobs["big" if is_same else "empty"].sha256}"'
    arguments = ("-H", f"If-Range: {tag}", "-r", "5-9", "-o", "part", "-w", "%{http_code}")
    done = run("curl", "-sS", "-g", *arguments, url(served, "big"), folder=tmp_path)
    assert done.stdout == status
    assert (tmp_path / "part").read_bytes() == (BIG[5:10] if is_same else BIG)


def test_curl_saves_a_tag_and_asks_again_with_it(served: Rack, tmp_path: Path) -> None:
    arguments = ("--etag-save", "tag", "--etag-compare", "tag", "-o", "file", "-w", "%{http_code}")
    (tmp_path / "tag").touch()
    answers = [run("curl", "-sS", "-g", *arguments, url(served, "big"), folder=tmp_path).stdout for _ in range(2)]
    assert answers == ["200", "304"]
    assert (tmp_path / "file").read_bytes() == BIG


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
def test_curl_asks_for_the_head_alone(served: Rack, tmp_path: Path, version: str) -> None:
    done = run("curl", "-sS", "-g", "-I", version, url(served, "big"), folder=tmp_path)
    assert f"Content-Length: {len(BIG)}\n" in done.stdout
    assert served.count("http_body_bytes") == 0


def test_curl_speaks_http_1_0_and_the_connection_ends(served: Rack, tmp_path: Path) -> None:
    run("curl", "-sS", "-g", "--http1.0", "-O", "-O", url(served, "big"), url(served, "empty"), folder=tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert served.count("http_connections") == 2


@pytest.mark.parametrize("client", [("curl", "-sS", "-g", "--remote-name-all"), ("wget", "-q")], ids=lambda c: c[0])
def test_several_files_come_over_one_connection(served: Rack, tmp_path: Path, client: tuple[str, ...]) -> None:
    run(*client, *(url(served, name) for name in NAMES), folder=tmp_path)
    for name, data in NAMES.items():
        assert (tmp_path / name.rpartition("/")[2]).read_bytes() == data
    assert served.count("http_connections") == 1


@pytest.mark.parametrize(
    ("client", "slowly", "again"),
    [
        ("curl -sS -g -o big", ("--limit-rate", "2M"), ("-C", "-")),
        ("wget -q -O big", ("--limit-rate=2m",), ("-c",)),
        ("aria2c -q -o big --file-allocation=none", ("--max-download-limit=2M",), ("-c",)),
    ],
    ids=["curl", "wget", "aria2c"],
)  # fmt: skip
def test_a_download_that_was_cut_goes_on_where_it_was(
    served: Rack, tmp_path: Path, client: str, slowly: tuple[str, ...], again: tuple[str, ...]
) -> None:
    here = cut(client, *slowly, url(served, "big"), folder=tmp_path, file="big")
    assert 0 < here < len(BIG)
    run(client, *again, url(served, "big"), folder=tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert served.count("http_partial") >= 1


def test_wget_does_not_fetch_what_is_whole_already(served: Rack, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    run("wget", "-q", "-c", url(served, "big"), folder=tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert served.count("http_body_bytes") < 1000


def test_wget_looks_whether_a_file_is_there(served: Rack, tmp_path: Path) -> None:
    run("wget", "-q", "--spider", url(served, "big"), folder=tmp_path)
    run("wget", "-q", "--spider", url(served, "nobody"), folder=tmp_path, status=8)
    assert served.count("http_body_bytes") == 0


def test_aria2c_reads_eight_ranges_at_once(served: Rack, blobs: dict[str, Blob], tmp_path: Path) -> None:
    checksum = f"--checksum=sha-256={blobs['big'].sha256}"
    run("aria2c", "-q", "-x8", "-s8", "-k1M", checksum, url(served, "big"), folder=tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert served.count("http_connections") >= 8
    assert served.count("http_partial") >= 7


# -- TFTP --------------------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a client fetches {name} from {host} {port} into {file}, its words with "|" between them, and what it is
    granted."""

    words: str
    blksize: int
    windowsize: int


TFTP = {
    "tftp-hpa": Way("tftp|-m|binary|{host}|{port}|-c|get|{name}|{file}", 512, 1),
    "atftp": Way("atftp|-g|-r|{name}|-l|{file}|{host}|{port}", 512, 1),
    "atftp, window of 16": Way(
        "atftp|--option|windowsize 16|--option|blksize 1428|-g|-r|{name}|-l|{file}|{host}|{port}", 1428, 16
    ),
    "atftp, timeout and tsize": Way(
        "atftp|--option|timeout 3|--option|tsize 0|-g|-r|{name}|-l|{file}|{host}|{port}", 512, 1
    ),
    "busybox": Way("busybox|tftp|-g|-r|{name}|-l|{file}|{host}|{port}", 512, 1),
    "busybox, 1428 bytes": Way("busybox|tftp|-b|1428|-g|-r|{name}|-l|{file}|{host}|{port}", 1428, 1),
    "busybox, 128 bytes": Way("busybox|tftp|-b|128|-g|-r|{name}|-l|{file}|{host}|{port}", 128, 1),
    "busybox, 65464 bytes": Way(
        "busybox|tftp|-b|65464|-g|-r|{name}|-l|{file}|{host}|{port}", 8192, 1
    ),  # the most there is here
}


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def tftp(request: pytest.FixtureRequest) -> Iterator[tftp_client.Rack]:
    files = {f"images/{size}": BIG[:size] for size in SIZES} | {"rolling": ROLLING}
    with tftp_client.serving(files, bind=request.param) as rack:
        yield rack


def fetch(rack: tftp_client.Rack, client: str, name: str, folder: Path) -> bytes:
    host, port = rack.address
    way = TFTP[client]
    program, *words = (
        word.format(host=host, port=port, name=name, file=folder / "file") for word in way.words.split("|")
    )
    rack.reactor.records()
    run(program, *words, folder=folder)
    rack.settle()
    transfer = next(record for record in rack.reactor.records() if record.name == name)
    assert (transfer.outcome, transfer.sent) == ("complete", transfer.size)
    assert (transfer.blksize, transfer.windowsize) == (way.blksize, way.windowsize)
    return (folder / "file").read_bytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("client", TFTP)
def test_a_file_by_tftp(tftp: tftp_client.Rack, tmp_path: Path, client: str, size: int) -> None:
    assert fetch(tftp, client, f"images/{size}", tmp_path) == BIG[:size]


@pytest.mark.parametrize("client", ["tftp-hpa", "atftp, window of 16", "busybox"])
def test_block_numbers_that_roll_over(tftp: tftp_client.Rack, tmp_path: Path, client: str) -> None:
    assert fetch(tftp, client, "rolling", tmp_path) == ROLLING
