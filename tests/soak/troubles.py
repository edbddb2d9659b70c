"""What goes wrong now at the sources and the region's control port. One may begin before another of the same has ended:
the later one holds until then. All is put down in the weather."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from tests.soak.region import Control, Source
from tests.soak.weather import Fault, Weather


class Troubles:
    """Who: "source-N" or "control". By the plan's clock alone."""

    def __init__(self, weather: Weather, sources: list[Source], control: Control, count: Callable[[str], None]) -> None:
        self.weather, self.sources, self.control, self.count = weather, sources, control, count
        self._active: defaultdict[str, list[Fault]] = defaultdict(list)

    def begin(self, who: str, kind: str) -> Fault:
        fault = self.weather.begin(who, kind)
        self.count(f"faults: {kind}")
        self._active[who].append(fault)
        self._apply(who)
        return fault

    def end(self, fault: Fault) -> None:
        """Nothing, when a quiet point has ended it."""
        self.weather.end(fault)
        if fault in self._active[fault.who]:
            self._active[fault.who].remove(fault)
        self._apply(fault.who)

    def clear(self) -> None:
        for who in (*self.weather.names, "control"):
            self._active[who].clear()
            self._apply(who)
        self.weather.clear()

    def _apply(self, who: str) -> None:
        kind = self._active[who][-1].kind if self._active[who] else None
        if who == "control":
            self.control.fail(kind)
        else:
            self.sources[int(who.rpartition("-")[2])].fail(kind)
