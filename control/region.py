"""The region process: reads its settings, binds, serves, says ``ready``, ends in order on SIGTERM.

Whatever hinders it is one sentence on standard error and exit status 1; a traceback is a bug. Under ``bootplane up``
the ready line goes to a pipe (``--ready-fd``) and the supervisor writes run.json; alone it does both itself.

Sockets may be inherited (activation, names region and bulk) in place of those of --listen or --bulk; one of each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from bootplane.control import config, datadir
from bootplane.control.errors import BootplaneError, StartError
from bootplane.dataplane import activation, logs
from bootplane.dataplane.activation import ActivationError
from bootplane.dataplane.notify import Manager
from bootplane.dataplane.openfiles import raise_file_limit

GRACE_S = 5  # for requests under way once the process is told to end
KEEP_ALIVE_S = 75


def main(
    *,
    data: Path,
    listen: str | None = None,
    bulk: str | None = None,
    database: str | None = None,
    ready_fd: int | None = None,
) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status. None leaves an option to environment, file and default."""
    logs.install()
    manager = Manager()
    raise_file_limit()  # every blob the bulk port serves is a descriptor
    try:
        settings = config.load(data, listen=listen, bulk=bulk, database=database)
        return _serve(settings, ready_fd, manager)
    except (BootplaneError, ActivationError) as error:
        print(f"bootplane region: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"bootplane region: data directory {data}: {where}{error.strerror or error}", file=sys.stderr)
    return 1


def _serve(settings: config.Settings, ready_fd: int | None, manager: Manager) -> int:
    given = activation.inherited({"region": socket.SOCK_STREAM, "bulk": socket.SOCK_STREAM})
    for name, sockets in given.items():
        if len(sockets) > 1:
            raise ActivationError(
                f"inherited sockets: expected at most one for {name}, got {len(sockets)} "
                "(systemd: FileDescriptorName=region and =bulk, each in a unit of its own)"
            )
    listener = given["region"][0] if given["region"] else _listen(settings.listen)
    try:
        from bootplane.control.app import Region  # after the port is ours: it imports for a second

        region = Region(settings, bulk_socket=given["bulk"][0] if given["bulk"] else None)
        region.listen = config.join_address(*listener.getsockname()[:2])
        server = _Server(
            uvicorn.Config(
                region.app,
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whose X-Forwarded-For is believed is decided in metadata.py
                timeout_graceful_shutdown=GRACE_S,
                timeout_keep_alive=KEEP_ALIVE_S,
            ),
            region,
            ready_fd,
            manager,
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has ended
            uvloop.run(server.serve(sockets=[listener]))
    finally:
        listener.close()
    if not region.is_quiet:  # a download waits for a source that says nothing: the interpreter would wait for it, too
        logging.shutdown()
        os._exit(0)
    if not server.was_ready:
        if not region.failure:
            print("bootplane region: it could not start; the lines above say why", file=sys.stderr)
        return 1
    return 0


class _Server(uvicorn.Server):
    """Says when it is ready, and ends long polls and event streams before it waits for connections."""

    def __init__(self, settings: uvicorn.Config, region: Any, ready_fd: int | None, manager: Manager) -> None:
        super().__init__(settings)
        self.was_ready = False
        self._region = region
        self._ready_fd = ready_fd
        self._manager = manager
        self._run_json = region.settings.data / datadir.RUN_JSON
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._region.failure:
            print(f"bootplane region: {self._region.failure}", file=sys.stderr)
            self.should_exit = True
        if not self.started or self.should_exit:
            return
        self.was_ready = True
        where = {"region": self._region.listen, "bulk": self._region.bulk.address}
        line = " ".join(["ready", *(f"{key}={value}" for key, value in where.items())])
        if self._ready_fd is not None:
            os.write(self._ready_fd, line.encode() + b"\n")
            os.close(self._ready_fd)
        else:
            datadir.write_json(self._run_json, {"pid": os.getpid(), **where})
            print(line, flush=True)
        self._manager.ready(f"serves at {self._region.listen}")
        self._watch = asyncio.create_task(self._tell_alive())

    async def _tell_alive(self) -> None:
        """To a manager that wants to know: this loop turns, and so does the thread that sends files."""
        while self._manager.watchdog_s is not None:
            if self._region.bulk.is_turning():
                self._manager.alive()
            await asyncio.sleep(self._manager.watchdog_s / 4)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._manager.stopping("finishes what runs")
        self._region.end_waits()
        await super().shutdown(sockets)
        if self._ready_fd is None:
            await asyncio.to_thread(self._run_json.unlink, missing_ok=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """As uvicorn's, but a signal that ended us is not raised again: ending on SIGTERM is exit status 0."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def _listen(address: str) -> socket.socket:
    host, port = config.split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"--listen {address}: expected an address of this host, got: {error.strerror}") from None
    family, kind, proto, _, where = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = "somebody else listens there" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise StartError(f"--listen {address}: cannot listen: {why}") from None
    return listener


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bootplane.control.region")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--listen")
    parser.add_argument("--bulk")
    parser.add_argument("--database")
    parser.add_argument("--ready-fd", type=int)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(**vars(_arguments(None))))
