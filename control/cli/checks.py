"""What ``bootplane doctor`` looks at, without a running region: each check looks once and says what it found.

A check changes nothing that stays: it binds a port and lets go of it, and writes one file and removes it. What stands
in its arguments (paths, ports, limits) stands there so that a test can give other ones. Printing and the exit status
are ``doctor``'s.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bootplane.control.cli.figures import size
from bootplane.control.cli.source import DEFAULT_KEYRING

PYTHON_MIN = (3, 11)
NOFILE_LOW = 4096  # a boot storm of a large rack holds thousands of connections
NOFILE_MIN = 256
DISK_LOW_BYTES = 10 << 30  # one release for one architecture takes about 1 GiB, the rack's cache 4 GiB
DISK_MIN_BYTES = 1 << 30


class Finding(NamedTuple):
    """*state* is ok, warn or fail; *remedy* is empty when there is nothing to do."""

    check: str
    state: str
    found: str
    remedy: str = ""


def check_python(version: tuple[int, int, int] | None = None) -> Finding:
    got = version or sys.version_info[:3]
    text = ".".join(str(part) for part in got)
    if got[:2] < PYTHON_MIN:
        return Finding("python", "fail", text, "install Python 3.11 or newer")
    return Finding("python", "ok", text)


def check_gpgv(which: Callable[[str], str | None] = shutil.which) -> Finding:
    path = which("gpgv")
    if path is None:
        return Finding(
            "gpgv", "fail", "not on PATH", "apt install gpgv: no signed boot source can be verified without it"
        )
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpgv", "fail", f"{path} does not run: {error}", "apt install --reinstall gpgv")
    return Finding("gpgv", "ok", f"{path}, {answer.stdout.splitlines()[0] if answer.stdout else 'no version'}")


def check_keyring(path: Path = DEFAULT_KEYRING) -> Finding:
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        return Finding(
            "keyring",
            "warn",
            f"{path} does not exist",
            "install ubuntu-cloudimage-keyring, or name a keyring with `source add --keyring FILE`",
        )
    except OSError as error:
        return Finding("keyring", "warn", f"{path}: {error.strerror}", "make it readable, or use --keyring FILE")
    if not first:
        return Finding("keyring", "warn", f"{path} is empty", "reinstall ubuntu-cloudimage-keyring")
    return Finding("keyring", "ok", f"{path}")


def check_demo_tools(which: Callable[[str], str | None] = shutil.which) -> Finding:
    missing = [tool for tool in ("apt-get", "dpkg-deb", "gpg") if which(tool) is None]
    if "gpg" in missing:
        return Finding(
            "demo tools", "warn", f"missing: {', '.join(missing)}", "apt install gnupg: the demo signs its source"
        )
    if missing:
        return Finding(
            "demo tools",
            "warn",
            f"missing: {', '.join(missing)}",
            "none needed: the demo generates its boot files instead of taking Debian's",
        )
    return Finding("demo tools", "ok", "apt-get, dpkg-deb, gpg")


def check_open_files(limits: tuple[int, int] | None = None) -> Finding:
    """The hard limit counts: a rack raises its own soft limit to it."""
    soft, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"hard limit {_limit(hard)}, soft limit {_limit(soft)}"
    remedy = "raise the hard limit (systemd: LimitNOFILE=65536, else /etc/security/limits.conf)"
    if _below(hard, NOFILE_MIN):
        return Finding("open files", "fail", text, remedy)
    if _below(hard, NOFILE_LOW):
        return Finding("open files", "warn", text, f"{remedy}: each machine takes one or two")
    return Finding("open files", "ok", text)


def _limit(value: int) -> str:
    return "none" if value == resource.RLIM_INFINITY else str(value)


def _below(value: int, limit: int) -> bool:
    return value != resource.RLIM_INFINITY and value < limit


def check_data(directory: Path) -> Iterator[Finding]:
    """Whether *directory*, or where it would be made, can be written, and how much room there is."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    verb = "" if place == directory else f" (will be made under {place})"
    if not place.is_dir():
        yield Finding("data directory", "fail", f"{place} is not a directory", "name another one with --data DIR")
        return
    probe = place / f".bootplane-doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"doctor")
        probe.unlink()
    except OSError as error:
        remedy = f"chown it to the user who runs bootplane (uid {os.getuid()} now), or name another one with --data DIR"
        if error.errno == errno.ENOSPC:
            remedy = "make room"
        elif error.errno == errno.EROFS:
            remedy = "mount it to be written on, or name another one with --data DIR"
        yield Finding("data directory", "fail", f"{place}: {error.strerror}", remedy)
    else:
        yield Finding("data directory", "ok", f"{directory} can be written{verb}")
    yield check_disk(place, shutil.disk_usage(place).free)


def check_disk(place: Path, free_bytes: int) -> Finding:
    text = f"{size(free_bytes)} free on {place}"
    if free_bytes < DISK_MIN_BYTES:
        return Finding(
            "disk", "fail", text, f"make room: at least {size(DISK_MIN_BYTES)}, better {size(DISK_LOW_BYTES)}"
        )
    if free_bytes < DISK_LOW_BYTES:
        return Finding("disk", "warn", text, "an image takes about 1 GiB, the rack's cache up to --cache-size")
    return Finding("disk", "ok", text)


def check_port(what: str, address: tuple[str, int], own: set[str]) -> Finding:
    """Whether *address* can be listened on (TCP). *own* holds the addresses of run.json: those may answer."""
    host, port = address
    label = f"port {port} ({what})"
    outcome = _bind(socket.SOCK_STREAM, address)
    if outcome is None:
        return Finding(label, "ok", f"free on {host}")
    if outcome.errno == errno.EADDRINUSE:
        if _joined(address) in own:
            return Finding(label, "ok", f"this directory's own bootplane listens on {host}")
        return Finding(
            label, "fail", f"in use on {host}: {_who(address)}", f"stop it, or choose another with --{what} HOST:PORT"
        )
    return Finding(label, "fail", f"{host}: {outcome.strerror}", f"choose another with --{what} HOST:PORT")


def check_tftp(address: tuple[str, int], own: set[str]) -> Finding:
    """Whether the TFTP port (UDP) can be bound; 69 takes a privilege, and the rack falls to 6969 without it."""
    host, port = address
    label = f"port {port} (tftp)"
    outcome = _bind(socket.SOCK_DGRAM, address)
    if outcome is None:
        return Finding(label, "ok", f"free on {host}")
    if outcome.errno == errno.EACCES:
        return Finding(
            label,
            "warn",
            "no right to bind it; the rack will take 6969, which no firmware asks",
            "run as root, or `setcap cap_net_bind_service=+ep` on the interpreter, or set "
            "net.ipv4.ip_unprivileged_port_start=69",
        )
    if outcome.errno == errno.EADDRINUSE:
        if _joined(address) in own:
            return Finding(label, "ok", f"this directory's own bootplane listens on {host}")
        return Finding(
            label,
            "fail",
            f"in use on {host} by {_holder(port, 'udp') or 'another process'}",
            "stop that TFTP server, or choose another address with --tftp HOST:PORT",
        )
    return Finding(label, "fail", f"{host}: {outcome.strerror}", "choose another with --tftp HOST:PORT")


def check_certificate(
    certificate: Path | None, key: Path | None, served: tuple[str, int] | None = None, now: float | None = None
) -> Finding:
    """What machines would hold against HTTPS with this pair of files; *served*: where a rack serves it already."""
    from bootplane.core.tls import Tls, TlsError
    from bootplane.dataplane.certificate import CertificateError, day, read

    if certificate is None or key is None:
        return Finding("certificate", "fail", "--https without both of --tls-cert and --tls-key", "name both files")
    try:
        Tls(str(certificate), str(key))
        found = read(certificate)
    except (TlsError, CertificateError) as error:
        return Finding("certificate", "fail", str(error), "docs/howto/https.md says what both files have to be")
    now = time.time() if now is None else now
    text = f"{certificate}: for {', '.join(found.names) or 'nobody'}, until {day(found.ends)}"
    if complaint := found.complaint(now):
        state = "warn" if found.begins <= now < found.ends else "fail"
        return Finding("certificate", state, f"{certificate}: {complaint}", "renew it, then send the rack a SIGHUP")
    if served is not None and _served(served) not in (None, found.der):
        remedy = "send the rack (or `bootplane up`) a SIGHUP: it reads both files again"
        return Finding("certificate", "warn", f"{certificate} is not the one that the rack serves", remedy)
    return Finding("certificate", "ok", text)


def _served(address: tuple[str, int]) -> bytes | None:
    """The certificate that is served there; None: nobody answers as TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is looked at and not trusted
    try:
        with socket.create_connection(_called(address), timeout=2) as plain, context.wrap_socket(plain) as talk:
            return talk.getpeercert(binary_form=True)
    except (OSError, ValueError):
        return None


def _joined(address: tuple[str, int]) -> str:
    """As run.json has it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _called(address: tuple[str, int]) -> tuple[str, int]:
    """Where a wildcard is called on its own host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0]), address[1]


def _bind(kind: int, address: tuple[str, int]) -> OSError | None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:  # a port in TIME_WAIT is free; a listening one still refuses
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        return OSError(errno.EADDRNOTAVAIL, f"cannot be resolved ({error.strerror})")
    except OSError as error:
        return error
    return None


def _who(address: tuple[str, int]) -> str:
    """Who answers on a TCP port in use: a bootplane by its own word, else the process that holds it."""
    connection = http.client.HTTPConnection(*_called(address), timeout=2)
    server = ""
    try:
        connection.request("GET", "/api/v1/status")
        response = connection.getresponse()
        server = response.getheader("Server", "")
        if _is_bootplane(response.read(4096)):
            return "another bootplane region answers"
    except (OSError, http.client.HTTPException):
        server = ""  # it does not speak HTTP; the process table may know more
    finally:
        connection.close()
    holder = _holder(address[1], "tcp")
    return holder or (f"an HTTP server ({server}) answers" if server else "another process")


def _is_bootplane(body: bytes) -> bool:
    """A region answers a call without a token with a problem of its own type."""
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and str(document.get("type", "")).startswith("urn:bootplane:")


def _holder(port: int, protocol: str) -> str:
    """``name (pid N)`` of the process with *port* open, as far as this user may look; else empty."""
    inodes = _inodes(port, protocol)
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(fd.readlink())
        except OSError:
            continue  # not ours to read, or gone meanwhile
        if target.removeprefix("socket:[").removesuffix("]") in inodes:
            pid = fd.parts[2]
            try:
                name = Path("/proc", pid, "comm").read_text(encoding="utf-8").strip()
            except OSError:
                name = "a process"
            return f"{name} (pid {pid})"
    return ""


def _inodes(port: int, protocol: str) -> set[str]:
    """Socket inodes with local *port*, out of /proc/net: listening ones for TCP (state 0A), all for UDP."""
    found = set()
    for table in (protocol, f"{protocol}6"):
        try:
            lines = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # no IPv6, or no /proc
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and (protocol == "udp" or fields[3] == "0A"):
                found.add(fields[9])
    return found
