"""The server under test: reactors with the rack's defaults over a folder of files, and nothing else in the process.

A rack that holds these files serves them by the same code from the same structures; what it does besides (catalogue,
fills, metrics) runs on other threads and not per request. ``python -m bench.serve ROOT`` prints ``ready HTTP TFTP``.
Each file is there by its digest as well (``/blob/<sha256>``), so that this is also what a rack fills from.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import socket
import sys
from pathlib import Path

from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table

SO_MAX_PACING_RATE = 47  # <asm-generic/socket.h>; the socket module does not have it


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.serve")
    parser.add_argument("root", type=Path)
    parser.add_argument("--pace", type=int, metavar="BYTES_S", help="each connection sends at most this much a second")
    options = parser.parse_args()
    names = {}
    for path in sorted(options.root.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        names[path.name] = names[f"blob/{digest}"] = Blob.open_file(str(path), digest, path.stat().st_size)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    if options.pace:
        listener.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, options.pace)  # who is accepted inherits it
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    datagrams.setblocking(False)
    reactor = Reactor(http=[listener.fileno()], tftp=[datagrams.fileno()])
    reactor.publish(Table(names, 1))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    reactor.start()
    print(f"ready {listener.getsockname()[1]} {datagrams.getsockname()[1]}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    reactor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
