"""A real PostgreSQL of the tests' own: made in a temporary directory, reached by a UNIX socket, gone afterwards.

PostgreSQL refuses to run as root, so root's tests run it as ``nobody``. Nothing on the machine is touched, and one that
runs here already is left alone.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

USER = "bootplane"
START_S = 60.0
POLL_S = 0.05
FREE_BYTES = 512 << 20  # a cluster, its write-ahead log, what tests put into it


def program(name: str) -> str | None:
    """Where Debian has it: the newest version's, which is not on PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ.get("PATH", "")]))


class Postgres:
    """A running server. ``database()`` makes a new, empty database and gives its URL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@/{name}?host={quote(str(self.folder), safe='')}"

    def connect(self, name: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(name), autocommit=True)

    def make(self) -> str:
        """The name of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        return name

    def drop(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    @contextmanager
    def database(self) -> Iterator[str]:
        name = self.make()
        try:
            yield self.url(name)
        finally:
            self.drop(name)


@contextmanager
def running() -> Iterator[Postgres]:
    """Skips the test where PostgreSQL is not installed, but in CI."""
    initdb, server = program("initdb"), program("postgres")
    if initdb is None or server is None:
        assert "CI" not in os.environ, "PostgreSQL is missing, and CI must have it"
        pytest.skip("PostgreSQL is not on this machine")
    assert shutil.disk_usage(tempfile.gettempdir()).free > FREE_BYTES, "too little room for a PostgreSQL"
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="bp-pg-") as made:
        folder = Path(made)
        if as_user:
            os.chown(folder, as_user["user"], as_user["group"])
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [initdb, "-D", str(folder / "data"), *options], check=True, capture_output=True, cwd="/", **as_user
        )
        settings = {
            "listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off", "full_page_writes": "off",
            "shared_buffers": "32MB", "max_wal_size": "256MB", "max_connections": "60",
        }  # fmt: skip
        argv = [server, "-D", str(folder / "data"), *(f"-c{key}={value}" for key, value in settings.items())]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", **as_user)
        try:
            found = Postgres(folder)
            _await(found, process)
            yield found
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                process.wait(START_S)
            finally:
                process.kill()


def _await(server: Postgres, process: subprocess.Popen[bytes]) -> None:
    tick = threading.Event()
    for _ in range(int(START_S / POLL_S)):
        try:
            server.connect().close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, (server.folder / "log").read_text()
            tick.wait(POLL_S)
    raise AssertionError(
        f"PostgreSQL: expected it to answer within {START_S:.0f} s; {(server.folder / 'log').read_text()}"
    )
