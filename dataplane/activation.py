"""Sockets that somebody opened for this process before it ran: systemd's socket units, sd_listen_fds(3).

    LISTEN_PID=<us>  LISTEN_FDS=2  LISTEN_FDNAMES=http:tftp          descriptors 3 and 4

A name that a service knows says what its socket is for; any other name (systemd's default is the unit's) leaves that
to its type. They are the opener's: it goes on listening while this process does not run, so nothing here is ever shut
down, and who connects meanwhile waits in the backlog.

Invariants: what is taken is an internet socket of the right type, bound, listening where that is to be, non-blocking
and not inherited any further; anything else is one sentence. The variables are gone afterwards.

Left to others: what is opened where nothing is inherited (reactors, control), and where several are too many.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

FIRST = 3  # SD_LISTEN_FDS_START
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
TYPES = {socket.SOCK_STREAM: "SOCK_STREAM", socket.SOCK_DGRAM: "SOCK_DGRAM"}
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class ActivationError(Exception):
    """What was inherited cannot be served; one sentence."""


def inherited(
    services: Mapping[str, socket.SocketKind],
    environment: MutableMapping[str, str] | None = None,
    first: int = FIRST,
) -> dict[str, list[socket.socket]]:
    """The sockets that were opened for each of *services* (name -> type), in their order; none: an empty list.

    A socket without one of these names is the first service's that has its type. *first*: the first descriptor.
    Raises ActivationError.
    """
    found: dict[str, list[socket.socket]] = {service: [] for service in services}
    for fd, name in enumerate(_names(environment), first):
        sock, service = _checked(fd, name, services)
        found[service].append(sock)
    return found


def refuse(why: str, environment: MutableMapping[str, str] | None = None) -> None:
    """For a process that takes none: raises ActivationError with *why* when some were opened for it."""
    if names := _names(environment):
        raise ActivationError(f"inherited sockets: expected none, got {len(names)}: {why}")


def _names(environment: MutableMapping[str, str] | None) -> list[str]:
    """One for each socket that was opened for this process, "" where it has none."""
    variables = os.environ if environment is None else environment
    told = {key: variables.pop(key, "") for key in VARIABLES}
    if told["LISTEN_PID"] != str(os.getpid()):
        return []  # nothing, or somebody else's: a parent passed its environment on
    if not (told["LISTEN_FDS"].isascii() and told["LISTEN_FDS"].isdigit()):
        raise ActivationError(f"LISTEN_FDS: expected a number of sockets, got {told['LISTEN_FDS']!r}")
    count = int(told["LISTEN_FDS"])
    names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else [""] * count
    if len(names) != count:
        raise ActivationError(f"LISTEN_FDNAMES: expected {count} names, got {told['LISTEN_FDNAMES']!r}")
    return names


def _checked(fd: int, name: str, services: Mapping[str, socket.SocketKind]) -> tuple[socket.socket, str]:
    what = f"inherited socket {fd}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ActivationError(f"{what}: expected a socket, got {error.strerror}") from error
    sock.set_inheritable(False)
    if sock.family not in FAMILIES:
        raise ActivationError(f"{what}: expected an IPv4 or IPv6 socket, got {_word(sock.family)}")
    kind = TYPES.get(sock.type, _word(sock.type))
    service = name if name in services else next((key for key in services if TYPES[services[key]] == kind), "")
    expected = " or ".join(sorted({TYPES[each] for each in services.values()}))
    if not service or TYPES[services[service]] != kind:
        raise ActivationError(f"{what}: expected {TYPES[services[service]] if service else expected}, got {kind}")
    if sock.getsockname()[1] == 0:
        raise ActivationError(f"{what}: expected a socket that is bound to a port, got none")
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ActivationError(f"{what}: expected a listening socket, got one that is not (systemd: Accept=no)")
    if sock.type == socket.SOCK_DGRAM and _is_connected(sock):
        raise ActivationError(f"{what}: expected a socket that hears everybody, got one that is connected")
    sock.setblocking(False)  # systemd leaves it to NonBlocking=; whoever shares it does not read it while we run
    return sock, service


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _word(number: int) -> str:
    return getattr(number, "name", str(number))
