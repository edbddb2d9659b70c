from collections.abc import Mapping, Sequence
from typing import Any

from bootplane.core.reactor import Reactor

HTTP_DEFAULTS: Mapping[str, Any]
TFTP_DEFAULTS: Mapping[str, Any]
HTTPS_DEFAULTS: Mapping[str, Any]

def attach_http(reactor: Reactor, fds: Sequence[int], options: Mapping[str, Any]) -> None: ...
def attach_tftp(reactor: Reactor, fds: Sequence[int], options: Mapping[str, Any]) -> None: ...
def attach_https(reactor: Reactor, fds: Sequence[int], options: Mapping[str, Any]) -> None: ...
