"""A warm hit by the kernel's own account: sendfile, a pipe or sendmsg for the bytes, and no read of the file."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bootplane.core import http_load, tftp_load
from bootplane.core.digest import sha256_hex

pytestmark = pytest.mark.integration
SERVER = """
import signal, socket, sys
from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table
tcp = socket.create_server(("127.0.0.1", 0)); tcp.setblocking(False)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0)); udp.setblocking(False)
path, digest, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
reactor = Reactor(http=[tcp.fileno()], tftp=[udp.fileno()])
reactor.publish(Table({"file": Blob.open_file(path, digest, size)}, 1))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
reactor.start()
print(tcp.getsockname()[1], udp.getsockname()[1], flush=True)
signal.sigwait({signal.SIGTERM})
reactor.stop()
"""
READS = {"read", "readv", "pread64", "preadv", "preadv2", "copy_file_range"}


@pytest.fixture
def traced(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs *load(http port, tftp port, digest)* against a traced server; returns the calls as (name, arguments)."""
    if shutil.which("strace") is None:
        assert "CI" not in os.environ, "strace is missing, and CI must have it"
        pytest.skip("strace is not on this machine")

    def run(size: int, load):  # type: ignore[no-untyped-def]
        path, trace = tmp_path / "blob", tmp_path / "trace"
        data = os.urandom(size)
        path.write_bytes(data)
        digest = sha256_hex(data)
        argv = [sys.executable, "-c", SERVER, str(path), digest, str(size)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                http, tftp = map(int, server.stdout.readline().split())
                load(http, tftp, digest)  # warm, and untraced
                strace = ["strace", "-f", "-y", "-o", str(trace), "-p", str(server.pid)]
                with subprocess.Popen(strace, stderr=subprocess.PIPE, text=True) as tracer:
                    assert tracer.stderr is not None
                    assert select.select([tracer.stderr], [], [], 30)[0]
                    assert "attached" in tracer.stderr.readline()
                    load(http, tftp, digest)
                    tracer.send_signal(signal.SIGINT)
                    tracer.stderr.read()
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(30)
        return re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$", trace.read_text(), re.MULTILINE)

    return run


def file_reads(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, arguments) for name, arguments in calls if name in READS and "/blob>" in arguments]


def splices(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """From what to what, each by the last part of its name."""
    pairs = [re.match(r"\d+<([^>]*)>.*?, \d+<([^>]*)>", arguments) for name, arguments in calls if name == "splice"]
    kinds = [[re.sub(r":\[\d+\]", "", end).rpartition("/")[2] for end in pair.groups()] for pair in pairs if pair]
    return [(source, sink) for source, sink in kinds]


def test_a_large_file_goes_by_sendfile_or_through_a_pipe(traced) -> None:  # type: ignore[no-untyped-def]
    def load(http: int, tftp: int, digest: str) -> None:
        assert http_load.fetch("127.0.0.1", http, "/file").sha256 == digest

    calls = traced(5_000_000, load)
    assert [1 for name, arguments in calls if name in ("sendfile", "splice") and "/blob>" in arguments]
    assert file_reads(calls) == []
    assert {*splices(calls)} <= {("blob", "pipe"), ("pipe", "socket"), ("pipe", "null")}  # what a socket does not take


def test_a_small_file_goes_with_its_head_in_one_sendmsg(traced) -> None:  # type: ignore[no-untyped-def]
    def load(http: int, tftp: int, digest: str) -> None:
        assert http_load.fetch("127.0.0.1", http, "/file").sha256 == digest

    calls = traced(4096, load)
    sent = [arguments for name, arguments in calls if name == "sendmsg" and "HTTP/1.1 200" in arguments]
    assert len(sent) == 1
    assert sent[0].count("iov_len=") == 2
    assert file_reads(calls) == []
    assert not [1 for name, _ in calls if name in ("sendfile", "splice")]


@pytest.mark.parametrize("windowsize", [1, 16])
def test_tftp_gathers_from_the_mapping(traced, windowsize: int) -> None:  # type: ignore[no-untyped-def]
    def load(http: int, tftp: int, digest: str) -> None:
        assert tftp_load.fetch("127.0.0.1", tftp, "file", windowsize=windowsize).sha256 == digest

    calls = traced(300_000, load)
    assert [1 for name, _ in calls if name in ("sendmsg", "sendmmsg")]
    assert file_reads(calls) == splices(calls) == []


def test_the_search_sees_a_read_of_the_file() -> None:
    assert file_reads([("pread64", "5</tmp/x/blob>, ..."), ("read", "7<anon_inode:[eventfd]>")])


def test_the_search_sees_from_where_to_where_a_splice_goes() -> None:
    into, out = (
        "19</tmp/x/blob>, [51], 9<pipe:[4]>, NULL, 10, 0) = 10",
        "8<pipe:[4]>, NULL, 7<socket:[51]>, NULL, 10, 0) = 10",
    )
    assert splices([("splice", into), ("splice", out), ("splice", ") = 10"), ("read", out)]) == [
        ("blob", "pipe"), ("pipe", "socket"),
    ]  # fmt: skip
