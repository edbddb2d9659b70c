from collections.abc import Mapping, Sequence
from typing import Any

from bootplane.core.reactor import Reactor

DEFAULTS: Mapping[str, Any]

def attach_tftp(reactor: Reactor, fds: Sequence[int], options: Mapping[str, Any]) -> None: ...
