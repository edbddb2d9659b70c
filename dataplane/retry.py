"""The end of every boot script, the region's and the rack's own: wait, longer each time, and ask again.

The idea: a loader that could not boot must neither stop (nobody stands next to it) nor nest one script in the next
(its stack is small). So the outermost script loops, and what it fetches tries once and returns; whose loop it is, is
said by a variable of the loader's own, ``bootplane_loop``. PXELINUX has neither loops nor variables, but its CONFIG
starts it anew: there the number of the wait rides in the name (``Again``).

    outermost script ──▶ its own name, fetched again ──▶ the script of this machine ──▶ kernel
           ▲  wait 5, 10, 20, 40, 60, 120, 120, ... s │        tries once, says why not, returns
           └──────────────────────────────────────────┘

Invariants: a try is never more often than the shortest wait; the region's scripts and the rack's have the same waits,
so that one may take over from the other between two tries. What these texts use is in Debian's signed GRUB, in PXELINUX
6.04 and in iPXE of 2019 (seen to run there; docs/reference/boot-names.md says what a GRUB of one's own must have).

Pure. Left to others: what is said, and what is booted (control.bootscript, offline).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

WAITS_S = (5, 10, 20, 40, 60, 120)  # the last one again and again
SWITCH_S = 1  # before the same files are asked for by the other protocol
PROMPT_S = 600  # what somebody types at PXELINUX's prompt, or noise on its serial line, may hold it up so much longer


def grub_open(is_first: bool) -> str:
    """The beginning of GRUB's script: whose loop it will be, should it come to that. *is_first*: of grub.cfg, which
    sources others; a script of one machine loops only where nobody has sourced it."""
    return f"""\
if [ "${{bootplane_loop}}" = "" ]; then
    set bootplane_loop={_whose(is_first)}
fi
"""


def grub_loop(is_first: bool, name: str) -> str:
    """The end of GRUB's script: asks for *name* again from wherever the script came. Without `true` and without
    functions: what a signed GRUB has not built in it may not load."""
    steps = "\n".join(
        f'        {"if" if now == WAITS_S[0] else "elif"} [ "${{bootplane_wait}}" = "{now}" ];'
        f" then set bootplane_wait={later}"
        for now, later in itertools.pairwise(WAITS_S)
    )
    return f"""\
if [ "${{bootplane_loop}}" = "{_whose(is_first)}" ]; then
    set bootplane_loop=on
    set bootplane_wait={WAITS_S[0]}
    while [ "${{bootplane_loop}}" = "on" ]; do
        echo "bootplane: trying again in ${{bootplane_wait}} s (ESC: at once)"
        sleep --interruptible ${{bootplane_wait}}
{steps}
        fi
        source /{name}
    done
fi
"""


def ipxe_open(is_first: bool) -> str:
    """The beginning of iPXE's script, as grub_open."""
    return f"isset ${{bootplane_loop}} || set bootplane_loop {_whose(is_first)}\n"


def ipxe_loop(is_first: bool, url: str) -> str:
    """The end of iPXE's script: asks for *url* again. Where the loop is another's the script ends well, so that its
    caller knows that it has been answered."""
    steps = "\n".join(
        f"iseq ${{bootplane_wait}} {now} && set bootplane_wait {later} && goto bootplane_next ||"
        for now, later in itertools.pairwise(WAITS_S)
    )
    return f"""\
:bootplane_again
iseq ${{bootplane_loop}} {_whose(is_first)} || exit
set bootplane_loop on
set bootplane_wait {WAITS_S[0]}
:bootplane_loop
echo bootplane: trying again in ${{bootplane_wait}} s (Ctrl-C: at once)
sleep ${{bootplane_wait}} ||
{steps}
:bootplane_next
chain --autofree {url} ||
goto bootplane_loop
"""


def _whose(is_first: bool) -> str:
    return "first" if is_first else "machine"


@dataclass(frozen=True, slots=True)
class Again:
    """Which try a PXELINUX is at, out of the name it asked for: ``pxelinux.cfg/<whose>-after-<failed>-<step>``."""

    failed: str = ""  # what the try before went by: "http", "tftp", "none" (there was nothing to boot), "" (first try)
    step: int = 0  # the number of the next wait

    @property
    def wait_s(self) -> int:
        return WAITS_S[min(self.step, len(WAITS_S) - 1)]

    def suffix(self) -> str:
        return f"-after-{self.failed}-{min(self.step, len(WAITS_S) - 1)}"


_AGAIN = re.compile(r"-after-(?P<failed>none|http|tftp)-(?P<step>\d{1,2})\Z")


def split_again(name: str) -> tuple[str, Again]:
    """A PXELINUX name without what a script of ours added to it, and that."""
    found = _AGAIN.search(name)
    if found is None:
        return name, Again()
    return name[: found.start()], Again(found["failed"], int(found["step"]))


def pxelinux_again(name: str, wait_s: int) -> str:
    """PXELINUX's: *wait_s* after a failure (or at once with Enter at its prompt) it takes *name* as its configuration.

    Not ONERROR: PXELINUX 6.04 appends the name of the failed label to what that runs, CONFIG takes a second word for a
    prefix of all names, and the next file it asks for is `ephemeralldlinux.c32` (seen).
    """
    return f"""\
TIMEOUT {wait_s * 10}
TOTALTIMEOUT {(wait_s + PROMPT_S) * 10}
ONTIMEOUT again
LABEL again
  CONFIG {name}
"""
