"""A crowd of connections in a process with descriptors of its own: ``python -m bench.crowd PORT PATH``.

It connects, prints one line of JSON, holds until its standard input is closed, and prints another line.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.meter import LOAD_CPU
from bootplane.core.http_crowd import Crowd

HOST = "127.0.0.1"
RECEIVE_BUFFER = 16384  # little of what is measured is to be on the readers' side
ADDRESSES = 50  # a rack lets one address have 1024 connections
SLICE_S = 0.1
CONNECT_S = 120.0
END_S = 60.0


@dataclass
class Held:
    """A crowd that is there. *there*: connections that were answered; *after*: of them at its end, with *errors*."""

    process: subprocess.Popen[str]
    there: int
    first_error: str
    after: int = 0
    errors: int = 0


@contextmanager
def held(port: int, path: str, connections: int, rate_bytes_s: int = 0, cpu: int = LOAD_CPU) -> Iterator[Held]:
    """*connections* on a server while the context lasts; ``after`` and ``errors`` are there when it is left."""
    argv = ["taskset", "-c", str(cpu), sys.executable, "-m", "bench.crowd", str(port), path]
    argv += ["--connections", str(connections), "--rate", str(rate_bytes_s)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = _said(process, CONNECT_S + END_S)
            crowd = Held(process, said["there"], said["first_error"])
            yield crowd
            assert process.stdin is not None
            process.stdin.close()
            said = _said(process, END_S)
            crowd.after, crowd.errors, crowd.first_error = said["there"], said["errors"], said["first_error"]
            process.wait(END_S)
        finally:
            if process.poll() is None:
                process.kill()


def _said(process: subprocess.Popen[str], within_s: float) -> dict[str, Any]:
    out = process.stdout
    line = out.readline() if out is not None and select.select([out], [], [], within_s)[0] else ""
    if not line:
        raise SystemExit(f"bench: the crowd did not answer within {within_s:.0f} s")
    found: dict[str, Any] = json.loads(line)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.crowd", description="Holds connections until its input is closed.")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--rate", type=int, default=0, help="bytes a second of each; 0: idle after one answer")
    options = parser.parse_args()
    sources = [f"127.0.1.{1 + n}" for n in range(ADDRESSES)]
    crowd = Crowd(
        HOST,
        options.port,
        options.path,
        connections=options.connections,
        rate_bytes_s=options.rate,
        sources=sources,
        receive_buffer=RECEIVE_BUFFER,
    )
    with crowd:
        crowd.connect(CONNECT_S)
        _say(crowd)
        while not select.select([sys.stdin], [], [], 0)[0]:
            crowd.hold(SLICE_S)
        crowd.hold(SLICE_S)
        _say(crowd)
    return 0


def _say(crowd: Crowd) -> None:
    text = {"there": crowd.there, "errors": crowd.errors, "bytes": crowd.bytes, "first_error": crowd.first_error}
    print(json.dumps(text), flush=True)


if __name__ == "__main__":
    sys.exit(main())
