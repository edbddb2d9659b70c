"""The rack process: ``python -m bootplane.dataplane.rack --data DIR --region URL --token-file F``.

Order of start, because a machine that is being booted does not wait for imports: token, lock on DIR, cache, sockets,
reactor threads; then everything else (rackservice), the kept catalogue, the "ready" line.

Sockets may be inherited (activation, names http, tftp and https) in place of those of --http, --tftp or --https.

Invariants: one rack for one directory; whatever stops the start is one sentence on stderr and exit status 1, and
nothing is left listening.

Left to others: what a rack does (rackservice), supervision (control's ``up``).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bootplane.core.lru import Cache
from bootplane.core.tls import Tls, TlsError
from bootplane.dataplane import activation, addresses, limits, logs, racktoken, shares
from bootplane.dataplane.activation import ActivationError
from bootplane.dataplane.addresses import HostPort
from bootplane.dataplane.limits import Limits
from bootplane.dataplane.notify import Manager
from bootplane.dataplane.openfiles import mappings_allowed, open_segments, raise_file_limit
from bootplane.dataplane.racktoken import RackToken, TokenError
from bootplane.dataplane.reactors import ListenError, Reactors, address_of, open_http, open_https, open_tftp
from bootplane.dataplane.segments import SEGMENT_BYTES
from bootplane.dataplane.units import parse_rate, parse_size

DEFAULT_HTTP = ":5248"
DEFAULT_TFTP = ":69"
DEFAULT_MAX_BLKSIZE = 8192  # RFC 2348; what fits the path to a machine is found out for each
DEFAULT_CACHE = "4GiB"
DEFAULT_DRAIN_S = 30.0
MAX_DRAIN_S = 3600.0
FEW_FILES = 1024  # descriptors; each machine takes one or two, each fill thread some
SWITCH_INTERVAL_S = (
    0.001  # a miss waits for the loop's turn of the GIL: shorter turns for the threads that hash and parse
)


log = logging.getLogger("bootplane.rack")


class RackError(Exception):
    """The rack cannot start; one sentence."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RackError(message)


def main(argv: Sequence[str] | None = None) -> int:
    logs.install(logs.Bounded())
    try:
        _run(_options(argv))
    except (RackError, TokenError, ListenError, ActivationError, TlsError) as error:
        print(f"bootplane rack: {error}", file=sys.stderr)
        return 1
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="bootplane rack", description="Serves boot files to machines; fills its cache from a region.")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="where this rack keeps its cache")
    parser.add_argument("--region", required=True, metavar="URL[,URL]", help="the regions, http://HOST:5240")
    parser.add_argument("--token-file", required=True, type=Path, metavar="F", help="from: bootplane rack-token new")
    parser.add_argument("--http", default=DEFAULT_HTTP, metavar="H:P", help="default: %(default)s")
    parser.add_argument("--tftp", default=DEFAULT_TFTP, metavar="H:P", help='default: %(default)s; "" for none')
    parser.add_argument(
        "--tftp-max-blksize",
        type=int,
        default=DEFAULT_MAX_BLKSIZE,
        metavar="N",
        help="most bytes a block; default: %(default)s",
    )
    parser.add_argument(
        "--tftp-single-port", action="store_true", help="send every TFTP packet from the port of --tftp (firewalls)"
    )
    parser.add_argument("--https", metavar="H:P", help="needs both of: (docs/howto/https.md)")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate and its chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM; SIGHUP reads both again")
    parser.add_argument("--cache-size", default=DEFAULT_CACHE, metavar="SIZE", help="default: %(default)s")
    parser.add_argument(
        "--upstream-limit", default="none", metavar="RATE", help="what it fetches from regions, 250Mbit/s"
    )
    parser.add_argument("--shares", default="none", metavar="TEXT", help="who may have how much; docs/howto/shares.md")
    parser.add_argument("--shared-store", type=Path, metavar="DIR", help="a region's data directory on this host")
    parser.add_argument("--reactors", type=int, default=1, metavar="N", help="threads that serve; default: %(default)s")
    parser.add_argument(
        "--drain-limit",
        type=float,
        default=DEFAULT_DRAIN_S,
        metavar="S",
        help="how long it finishes what runs once it is told to end; default: %(default)s",
    )
    parser.add_argument("--park-limit", type=float, default=20.0, metavar="S", help=argparse.SUPPRESS)
    parser.add_argument("--scrub-pass", type=float, default=86400.0, metavar="S", help=argparse.SUPPRESS)
    parser.add_argument("--ready-fd", type=int, metavar="N", help="also write the ready line to this descriptor")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> None:
    try:
        cache_bytes = parse_size(options.cache_size, "--cache-size")
        upstream_bytes_s = parse_rate(options.upstream_limit, "--upstream-limit")
        shares.parse(options.shares, "--shares")
        own = limits.checked(Limits(cache_bytes, upstream_bytes_s, options.shares))
        http_address = addresses.parse(options.http, "--http")
        tftp_address = addresses.parse(options.tftp, "--tftp") if options.tftp else None
        https_address = addresses.parse(options.https, "--https") if options.https else None
    except ValueError as error:
        raise RackError(str(error)) from error
    if not options.region.strip(" ,"):
        raise RackError("--region: expected URL[,URL], got none")
    if not 1 <= options.reactors <= 64:
        raise RackError(f"--reactors: expected 1 to 64, got {options.reactors}")
    if not 512 <= options.tftp_max_blksize <= 65464:
        raise RackError(f"--tftp-max-blksize: expected 512 to 65464, got {options.tftp_max_blksize}")
    if not 0 <= options.drain_limit <= MAX_DRAIN_S:
        raise RackError(f"--drain-limit: expected 0 to {MAX_DRAIN_S:.0f} seconds, got {options.drain_limit}")
    given = activation.inherited({"http": socket.SOCK_STREAM, "tftp": socket.SOCK_DGRAM, "https": socket.SOCK_STREAM})
    tls = _certificate(options, is_wanted=bool(https_address or given["https"]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)  # until rackservice can drain: nobody has been let in
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can read a certificate again
    manager = Manager()
    token = racktoken.read(options.token_file)
    files = raise_file_limit()
    open_limit = open_segments(files, mappings_allowed())
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    lock = lock_directory(options.data)
    try:
        told = limits.kept(options.data)
        cache_bytes = cache_bytes if told.cache_bytes is None else told.cache_bytes
        try:
            cache = Cache(str(options.data / "cache"), cache_bytes, open_limit=open_limit)
        except OSError as error:
            raise RackError(error.strerror or str(error)) from error
        if files < FEW_FILES:
            log.warning("%d descriptors allowed: expected %d or more (systemd: LimitNOFILE=65536)", files, FEW_FILES)
        _tell_found(cache)
        if open_limit < max(cache.found.segments, cache_bytes // SEGMENT_BYTES):
            log.info("cache: at most %d segments open, %d descriptors allowed", open_limit, files)
        http = given["http"] or open_http(http_address, options.reactors)
        tftp = given["tftp"] or (open_tftp(tftp_address, options.reactors) if tftp_address else [])
        https = given["https"] or (open_https(https_address, options.reactors) if https_address else [])
        for word, sockets in given.items():
            if sockets:
                log.info("%s: %s, inherited", word.upper(), ", ".join(str(address_of(sock)) for sock in sockets))
        is_inherited = bool(given["http"])
        reactors = Reactors(
            http,
            tftp,
            https,
            count=options.reactors,
            http_inherited=is_inherited,
            https_inherited=bool(given["https"]),
            http_options={"hold": 1},  # a restart is a pause for those who come, and no refusal
            tftp_options={
                "max_blksize": options.tftp_max_blksize,
                "single_port": int(options.tftp_single_port),
                "hold": 1,
            },
            https_options={"tls": tls, "hold": 1} if https else None,
            park_limit_s=options.park_limit,
        )
        reactors.start()
        try:
            places = [address_of(sockets[0]) if sockets else None for sockets in (http, tftp, https)]
            _serve(options, token, cache, reactors, places, tls, own, told, manager)
        finally:
            reactors.stop()
            if why := cache.close():
                log.warning("%s; each chunk is checked at its first use after the next start", why)
    finally:
        os.close(lock)


def _end_at_once(_number: int, _frame: object) -> NoReturn:
    """What is open is closed on the way out."""
    sys.exit(0)


def _certificate(options: argparse.Namespace, *, is_wanted: bool) -> Tls | None:
    given = [name for name in ("tls_cert", "tls_key") if getattr(options, name) is not None]
    if not is_wanted and given:
        raise RackError("--tls-cert and --tls-key: expected --https H:P with them, got none")
    if is_wanted and len(given) < 2:
        raise RackError("--https: expected --tls-cert FILE and --tls-key FILE with it, got not both")
    return Tls(str(options.tls_cert), str(options.tls_key)) if is_wanted else None


def _tell_found(cache: Cache) -> None:
    found = cache.found
    how = "clean" if found.clean else "unclean: each chunk is checked at its first use"
    if found.segments:
        log.info("cache: %d segments, %.1f MB kept (%s)", found.segments, found.bytes / 1e6, how)
    if found.evicted:
        log.info("cache: %d segments removed, the oldest, to fit into its limit", found.evicted)
    for name in found.removed_names:
        log.warning("cache: %s; it is removed", name)
    if found.removed > len(found.removed_names):
        log.warning("cache: %d more files were no segments and are removed", found.removed - len(found.removed_names))


def _serve(
    options: argparse.Namespace,
    token: RackToken,
    cache: Cache,
    reactors: Reactors,
    places: Sequence[HostPort | None],
    tls: Tls | None,
    own: Limits,
    told: Limits,
    manager: Manager,
) -> None:
    """What is imported here is heavy, and the reactors are running already. *places*: of HTTP, TFTP and HTTPS."""
    import uvloop

    from bootplane.dataplane.catalogue import CatalogueError
    from bootplane.dataplane.rackservice import RackService

    http, tftp, https = places
    assert http is not None
    try:
        service = RackService(
            directory=options.data,
            token=token,
            regions=[url for url in options.region.split(",") if url.strip()],
            cache=cache,
            reactors=reactors,
            http=http,
            tftp=tftp,
            https=https,
            tls=tls,
            shared_store=options.shared_store,
            own_limits=own,
            told_limits=told,
            park_limit_s=options.park_limit,
            scrub_pass_s=options.scrub_pass,
            drain_s=options.drain_limit,
            manager=manager,
        )
        service.load()
    except (ValueError, OSError, CatalogueError) as error:
        raise RackError(str(error)) from error
    line = f"ready http={http}" + (f" tftp={tftp}" if tftp else "") + (f" https={https}" if https else "")
    uvloop.run(service.run(lambda: _announce(line, options.ready_fd)))


def _announce(line: str, ready_fd: int | None) -> None:
    print(line, flush=True)
    if ready_fd is not None:
        os.write(ready_fd, f"{line}\n".encode())
        os.close(ready_fd)


def lock_directory(directory: Path) -> int:
    """Makes *directory* and takes it for this process; returns the descriptor that holds it. Raises RackError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory / "rack.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RackError(f"{directory}: expected a writable directory, got {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise RackError(f"{directory}: expected no other rack on it, got one running as process {owner}") from error
    with contextlib.suppress(OSError):  # on a full disk: who holds it is a courtesy to the next one
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


if __name__ == "__main__":
    sys.exit(main())
