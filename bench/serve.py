"""A source at C speed: reactors with a rack's defaults over a folder of files, and nothing else in the process. What
racks and nginx fill from; what is measured is a whole rack (bench/racks.py).

``python -m bench.serve ROOT`` prints ``ready HTTP TFTP``. Each file is there by its path under ROOT, and by its digest
(``/blob/<sha256>``) as racks ask for it; one that is named by 64 hex digits is taken by its name for that. At SIGUSR1
its counters are printed, one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
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
    parser.add_argument("--host", default="127.0.0.1", help="where it listens; default: %(default)s")
    parser.add_argument("--pace", type=int, metavar="BYTES_S", help="each connection sends at most this much a second")
    options = parser.parse_args()
    names = {}
    for path in sorted(path for path in options.root.rglob("*") if path.is_file()):
        digest = path.name
        if not re.fullmatch("[0-9a-f]{64}", digest):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        blob = Blob.open_file(str(path), digest, path.stat().st_size)
        names[str(path.relative_to(options.root))] = names[f"blob/{digest}"] = blob
    listener = socket.create_server((options.host, 0), backlog=4096)
    listener.setblocking(False)
    if options.pace:
        listener.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, options.pace)  # who is accepted inherits it
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((options.host, 0))
    datagrams.setblocking(False)
    reactor = Reactor(http=[listener.fileno()], tftp=[datagrams.fileno()])
    reactor.publish(Table(names, 1))
    wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    reactor.start()
    print(f"ready {listener.getsockname()[1]} {datagrams.getsockname()[1]}", flush=True)
    while signal.sigwait(wanted) == signal.SIGUSR1:
        print(json.dumps(reactor.counters()), flush=True)
    reactor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
