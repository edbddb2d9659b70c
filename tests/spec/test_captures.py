"""Boots that were recorded, re-enacted byte by byte: OVMF, AAVMF, shim, GRUB, PXELINUX, lpxelinux, iPXE and U-Boot.

``captures/*.txt`` are boots of real firmware in QEMU against this server; tests/fakes/capture.py says how to read them,
docs/howto/record-a-boot.md how to add one. Each is played to a reactor twice, its files in memory and then on no disk
yet; and each transfer is stepped once more on a clock of the test's own, where deadlines are exact.
"""

from __future__ import annotations

import pathlib
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from bootplane.core.tftp_transfer import TransferProbe
from tests.fakes.capture import (
    Capture,
    Connect,
    End,
    Event,
    Packet,
    Reply,
    Run,
    Sent,
    canonical,
    compress,
    expand,
    http_request_of,
    is_config,
    is_handed_over,
    kind_of,
    number_of,
    parse,
    render,
    request_of,
)
from tests.fakes.replay import play, staged

FOLDER = pathlib.Path(__file__).parent / "captures"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))
LARGEST = 60_000  # bytes of a capture: a boot is a page to read


def capture(name: str) -> Capture:
    return parse((FOLDER / f"{name}.txt").read_text())


def flat(events: list[Event]) -> list[Event]:
    """With the packets of its runs written out."""
    return [one for event in events for one in (expand(event) if isinstance(event, Run) else [event])]


@dataclass
class Transfer:
    """One TFTP transfer: from its (last repeated) request to its end."""

    request: Sent
    size: int
    events: list[Event]
    repeats: int = 0  # of the request before its first answer

    @property
    def name(self) -> str:
        return canonical(request_of(self.request.data).name)

    @property
    def last_words(self) -> bytes:
        """The client's last packet."""
        return next((event.data for event in reversed(self.events) if isinstance(event, Sent)), b"")

    @property
    def data(self) -> list[Packet]:
        return [event for event in self.events if isinstance(event, Packet) and event.kind == "DATA"]


def transfers(of: Capture) -> list[Transfer]:
    """Those that began: refused requests are left out."""
    running: dict[int, Transfer] = {}
    done: list[Transfer] = []
    for event in flat(of.events):
        if isinstance(event, Sent) and event.proto == "udp" and kind_of(event.data) == "RRQ":
            before = running.get(event.port)
            again = before is not None and not before.events and before.request.data == event.data
            name = canonical(request_of(event.data).name)
            running[event.port] = Transfer(event, {**of.files, **of.configs}.get(name, 0), [])
            running[event.port].repeats = before.repeats + 1 if again and before else 0
        elif isinstance(event, Sent | Packet) and event.port in running:
            transfer = running[event.port]
            if not transfer.events and isinstance(event, Packet) and event.kind != "ERROR":
                done.append(transfer)
            transfer.events.append(event)
    return done


def repeats(transfer: Transfer) -> int:
    """How many DATA packets the server sent more than once."""
    return len(transfer.data) - len({packet.number for packet in transfer.data})


def sends_again(of: Capture) -> bool:
    """Whether the server had to send something twice: then its deadlines are part of the recording."""
    return any(repeats(transfer) for transfer in transfers(of))


LOSSY = [name for name in NAMES if sends_again(capture(name))]
TOO_SLOW = [(name, "missed") for name in LOSSY]  # every loss costs a deadline, and is no other one in this case


# -- the reactor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bytes_are"), [(name, are) for name in NAMES for are in ("here", "missed") if (name, are) not in TOO_SLOW]
)
def test_a_recorded_boot_is_answered_as_it_was(name: str, bytes_are: str, tmp_path: pathlib.Path) -> None:
    """And by its numbers: each transfer began once, each configuration was asked for and each chunk missed once, and
    each ended as the client ended it."""
    boot = capture(name)
    began = transfers(boot)
    with staged(
        boot, cold_in=tmp_path if bytes_are == "missed" else None, timeout_s=0.25 if name in LOSSY else 60
    ) as stage:
        played = play(boot, stage)
    counters = played.counters
    assert counters["tftp_timed_out"] == counters["tftp_malformed"] == counters["http_cut"] == 0
    refused = sum(1 for name, protocol, _ in played.asked if protocol == "tftp" and name not in boot.configs)
    assert counters["tftp_requests"] == len(began) + refused
    assert counters["tftp_data"] - counters["tftp_retransmitted"] == played.blocks
    assert counters["tftp_data"] <= 1.2 * played.blocks
    assert len(played.asked) == requests_for_configurations(boot)
    assert len(set(played.missed)) == len(played.missed)
    assert bool(played.missed) == (bytes_are == "missed")
    assert sorted((record.name, record.peer[1], record.outcome) for record in played.records) == outcomes(boot)


def outcomes(boot: Capture) -> list[tuple[str, int, str]]:
    """(name, client's port, outcome) of what this boot asked for, sorted."""
    out: list[tuple[str, int, str]] = []
    asked: dict[tuple[str, int], str] = {}  # protocol and port -> the name asked for last
    for event in boot.events:
        if isinstance(event, Sent) and event.proto == "tcp" and (request := http_request_of(event.data)):
            asked["http", event.port] = request.path
        elif isinstance(event, Sent) and kind_of(event.data) == "RRQ":
            asked["tftp", event.port] = canonical(request_of(event.data).name)
        elif isinstance(event, Reply) and not is_handed_over(asked["http", event.port]):
            outcome = "complete" if event.status < 400 else "refused"
            out.append((asked["http", event.port], event.port, outcome))
        elif isinstance(event, Packet) and event.kind == "ERROR":
            out.append((asked["tftp", event.port], event.port, "refused"))
    for transfer in transfers(boot):
        end = transfer.events[-1]
        outcome = "complete"
        if isinstance(end, Sent) and kind_of(end.data) == "ERROR":
            outcome = "probe" if number_of(end.data) == 8 and not transfer.data else "aborted"
        out.append((transfer.name, transfer.request.port, outcome))
    return sorted(out)


def requests_for_configurations(boot: Capture) -> int:
    """How often the boot asks for names that are made for one machine; repetitions of a request count once."""
    http = [http_request_of(e.data) for e in boot.events if isinstance(e, Sent) and e.proto == "tcp"]
    tftp = {(e.port, e.data) for e in boot.events if isinstance(e, Sent) and kind_of(e.data) == "RRQ"}
    names = [request.path for request in http if request] + [request_of(data).name for _, data in tftp]
    return sum(is_config(canonical(name)) for name in names)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOSSY])
def test_the_same_machine_boots_again_from_the_same_ports(name: str) -> None:
    """Within 30 s, so that no transfer may have the TID of the last one from its port; the player checks that."""
    boot = capture(name)
    with staged(boot) as stage:
        first, second = play(boot, stage), play(boot, stage)
    assert second.blocks == first.blocks
    assert second.counters["tftp_requests"] == first.counters["tftp_requests"]
    assert second.counters["http_requests"] == first.counters["http_requests"]


# -- the transfer machine ----------------------------------------------------------------------------------------------

TOLERANCE_S = 0.025  # between a deadline and the recording's answer: the wheel's step, the wire, a busy machine


def machine(transfer: Transfer) -> TransferProbe:
    asked = request_of(transfer.request.data).options
    numbers = {key: int(asked[key]) for key in ("blksize", "windowsize", "timeout") if key in asked}
    return TransferProbe(transfer.size, **numbers, tsize="tsize" in asked, timeout_s=1.0, retries=8)


def step(transfer: Transfer, on_deadline: Callable[[float, float], None]) -> None:
    """Steps a machine through a recorded transfer. What it has not sent by itself, its deadline must bring.

    *on_deadline(deadline, at)* is told each one, with the time at which the recording has what it brought.
    """
    probe = machine(transfer)
    due: deque[int | str] = deque(probe.send(transfer.events[0].at))
    for event in transfer.events:
        if isinstance(event, Packet):
            if not due:
                assert probe.deadline is not None, f"{transfer.name}: nothing brings {event}"
                on_deadline(probe.deadline, event.at)
                action, sent = probe.feed("tick", now=probe.deadline)
                assert action == "send", f"{transfer.name}: {action} instead of {event}"
                due.extend(sent)
            block = due.popleft()
            assert event.kind == "OACK" if block == "OACK" else event.number == int(block) % 65536, f"{block}: {event}"
            continue
        assert isinstance(event, Sent)
        if event.late:
            continue
        kind = kind_of(event.data)
        if kind == "ACK":
            _, sent = probe.feed("ack", number_of(event.data), now=event.at)
            due.extend(sent)
        elif kind == "RRQ":
            due.extend(probe.feed("repeat", now=event.at)[1])
        else:
            assert probe.feed("gone", now=event.at)[0] in ("abort", "nothing")
    ended = isinstance(event, Sent) and kind_of(event.data) == "ERROR"  # it may overtake what an ACK before it brings
    assert ended or not due, f"{transfer.name}: {list(due)} would have been sent and was not"


@pytest.mark.parametrize("name", [name for name in NAMES if transfers(capture(name))])
def test_the_transfer_machine_sends_the_same_blocks_in_the_same_order(name: str) -> None:
    """On a clock of our own: nothing is sent but what an ACK or a deadline brings, and no deadline is late."""

    def in_time(deadline: float, at: float) -> None:
        assert deadline <= at <= deadline + TOLERANCE_S

    for transfer in transfers(capture(name)):
        step(transfer, in_time)


def test_acks_that_pxelinux_repeats_faster_than_the_deadline_do_not_move_it() -> None:
    """The link is dead for 3 s. PXELINUX says its last ACK again after 0.06, 0.11, 0.17, 0.17, 0.22, ... s."""
    (transfer,) = (t for t in transfers(capture("bios-pxelinux-dead-link")) if repeats(t))
    (lost,) = (number for number, n in Counter(packet.number for packet in transfer.data).items() if n > 1)
    probe = machine(transfer)
    last = transfer.events[0].at
    probe.send(last)
    sent_again: list[tuple[float, int | str]] = []
    gaps: list[float] = []
    for event in transfer.events:
        if not isinstance(event, Sent):
            continue
        while probe.deadline is not None and probe.deadline <= event.at:
            now = probe.deadline
            sent_again += [(now, block) for block in probe.feed("tick", now=now)[1]]
        number, before = number_of(event.data), probe.deadline
        action, _ = probe.feed("ack", number, now=event.at)
        if number == lost - 1:
            gaps.append(event.at - last)
            if len(gaps) > 1:
                assert (action, probe.deadline) == ("nothing", before)
        last = event.at
        if number == lost:
            break
    assert len(gaps) > 8
    assert max(gaps) < 1.0, "no pause between two packets of the client is as long as the timeout"
    first = sent_again[0][0]
    assert [(round(at - first, 3), block) for at, block in sent_again] == [(0, lost), (1, lost), (3, lost)]


# -- what the recordings hold ------------------------------------------------------------------------------------------
# facts/firmware.md section 4 as questions to the recordings, so that none of it is lost when they are made anew.


def requests(of: Capture) -> Iterator[tuple[int, str, list[tuple[str, str]]]]:
    """(port, name as sent, options in the order sent) of each RRQ."""
    for event in of.events:
        if isinstance(event, Sent) and kind_of(event.data) == "RRQ" and event.proto == "udp":
            name, _, options = request_of(event.data)
            yield event.port, name, list(options.items())


def http(of: Capture) -> Iterator[tuple[int, str, bytes]]:
    """(number of its connection, method and target, all bytes) of each HTTP request."""
    connection = 0
    numbers: dict[int, int] = {}
    for event in of.events:
        if isinstance(event, Connect):
            connection += 1
            numbers[event.port] = connection
        elif isinstance(event, Sent) and event.proto == "tcp" and (request := http_request_of(event.data)):
            yield numbers[event.port], f"{request.method} {request.target}", event.data


def probe_ends_with_error_8(of: Capture) -> bool:
    probes = [t for t in transfers(of) if any(isinstance(e, Sent) and e.data[:4] == b"\0\5\0\10" for e in t.events)]
    sequels = [t for t in transfers(of) if t.name in {p.name for p in probes} and t not in probes]
    return (
        len(probes) == 1
        and list(request_of(probes[0].request.data).options) == ["tsize", "blksize", "windowsize"]
        and [
            kind_of(e.data) if isinstance(e, Sent) else e.kind for e in probes[0].events if isinstance(e, Sent | Packet)
        ]
        == ["OACK", "ERROR"]
        and list(request_of(sequels[0].request.data).options) == ["blksize", "windowsize"]
        and sequels[0].request.port == probes[0].request.port + 1
    )


def stale_blocks_bring_an_ack_each(of: Capture) -> bool:
    """The duplicate-ACK storm: three and more of the same ACK in a row, right after a deadline's blocks."""
    runs = 0
    for transfer in transfers(of):
        acks = [number_of(e.data) for e in transfer.events if isinstance(e, Sent) and kind_of(e.data) == "ACK"]
        runs += sum(a == b == c for a, b, c in zip(acks, acks[1:], acks[2:], strict=False))
    return runs >= 5 and sends_again(of)


def keeps_to_its_old_window(of: Capture) -> bool:
    """After a pause an ACK inside the window, the next where the old window ends, and on from there by windows."""
    transfer = next(t for t in transfers(of) if "windowsize" in request_of(t.request.data).options)
    acks = [(e.at, number_of(e.data)) for e in transfer.events if isinstance(e, Sent)]
    late = next(i for i in range(1, len(acks)) if acks[i][0] - acks[i - 1][0] > 0.5)
    before, named, old_end, new_end = (number for _, number in acks[late - 1 : late + 3])
    return before < named < old_end == before + 8 == new_end - 8


def one_port_for_many_requests(of: Capture) -> bool:
    count: defaultdict[int, set[str]] = defaultdict(set)
    for port, name, _ in requests(of):
        count[port].add(name)
    return max(len(names) for names in count.values()) >= 10


def connections_of(of: Capture, method: str = "") -> list[list[str]]:
    """The requests of each connection, by method and target."""
    lines: defaultdict[int, list[str]] = defaultdict(list)
    for connection, line, _ in http(of):
        lines[connection].append(line)
    return list(lines.values())


def ends(of: Capture) -> list[tuple[int, str, str]]:
    return [(event.port, event.by, event.how) for event in of.events if isinstance(event, End)]


GRUB_PORTS = list(range(25300, 25308))
HELD: dict[str, tuple[str, Callable[[Capture], object]]] = {
    "OVMF asks for the size, ends that with ERROR 8 and asks again without tsize from the next port": (
        "uefi-pxe",
        probe_ends_with_error_8,
    ),
    "so does AAVMF": ("aarch64-pxe", probe_ends_with_error_8),
    "shim asks for revocations that nobody has, in blocks of 512": (
        "uefi-pxe",
        lambda of: (
            [
                name
                for _, name, options in requests(of)
                if options == [("blksize", "512"), ("windowsize", "4")] and canonical(name) not in of.files
            ]
            == ["revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"]
        ),
    ),
    "a window of four is acknowledged once": (
        "uefi-pxe",
        lambda of: (
            [(r.window, r.blksize, r.last) for r in of.events if isinstance(r, Run)][:2]
            == [(4, 1468, 715), (4, 512, 7507)]
        ),
    ),
    "GRUB asks from port 25300 on, for missing lists too, with blksize before tsize": (
        "uefi-pxe",
        lambda of: (
            [port for port, _, options in requests(of) if options == [("blksize", "1024"), ("tsize", "0")]]
            == GRUB_PORTS
        ),
    ),
    "and from the same ports on its next boot": (
        "uefi-pxe-closed",
        lambda of: [port for port, _, _ in requests(of)][-8:] == GRUB_PORTS,
    ),
    'GRUB may end an empty list with ERROR 0 "closed" in place of an ACK': (
        "uefi-pxe-closed",
        lambda of: 1 in [len(t.data) for t in transfers(of) if t.last_words == b"\0\5\0\0closed\0"],
    ),
    "or before it has had its one empty block": (
        "aarch64-pxe",
        lambda of: 0 in [len(t.data) for t in transfers(of) if t.last_words == b"\0\5\0\0closed\0"],
    ),
    "GRUB repeats its request while a configuration is made": (
        "uefi-pxe-slow-config",
        lambda of: next(t.repeats for t in transfers(of) if t.name == "grub/grub.cfg") > 10,
    ),
    "GRUB says nothing while a file is slow, shim repeats ACK 0 after four seconds": (
        "uefi-pxe-slow-file",
        lambda of: (
            [
                sum(isinstance(e, Sent) and e.data == b"\0\4\0\0" for e in t.events)
                for t in transfers(of)
                if t.name in ("grubx64.efi", "images/0123456789abcdef/debian/amd64/generic/bookworm/stable/boot-kernel")
            ]
            == [2, 1]
        ),
    ),
    "UEFI answers every stale block with an ACK": ("uefi-pxe-lossy", stale_blocks_bring_an_ack_each),
    "PXELINUX asks for nine configurations that nobody has, each from a port of its own": (
        "bios-pxelinux",
        lambda of: len({port for port, name, _ in requests(of) if "pxelinux.cfg/" in name}) == 10,
    ),
    "lpxelinux asks for all of them from one port": ("bios-lpxelinux", one_port_for_many_requests),
    "PXELINUX asks with tsize before blksize, the iPXE ROM the other way round": (
        "bios-pxelinux",
        lambda of: (
            [list(dict(options)) for _, _, options in requests(of)][:2] == [["blksize", "tsize"], ["tsize", "blksize"]]
        ),
    ),
    "PXELINUX puts its loader's folder before names that begin with a slash": (
        "bios-pxelinux-subdirectory",
        lambda of: any(name.startswith("bios//images/") for _, name, _ in requests(of)),
    ),
    "PXELINUX repeats its ACK faster than any deadline": (
        "bios-pxelinux-dead-link",
        lambda of: max(repeats(t) for t in transfers(of)) == 3,
    ),
    "and while a file is slow, sixteen times in eight seconds": (
        "bios-pxelinux-slow-file",
        lambda of: (
            max(sum(isinstance(e, Sent) and e.data == b"\0\4\0\0" for e in t.events) for t in transfers(of)) == 16
        ),
    ),
    "U-Boot names its timeout first and asks for no size": (
        "u-boot",
        lambda of: {tuple(dict(options)) for _, _, options in requests(of)} == {("timeout", "blksize", "windowsize")},
    ),
    "U-Boot may ask for two names from one port within a millisecond": (
        "u-boot",
        lambda of: max(Counter(port for port, _, _ in requests(of)).values()) == 2,
    ),
    "U-Boot asks for a default of its architecture before the default": (
        "u-boot",
        lambda of: (
            [name for _, name, _ in requests(of) if "default" in name]
            == ["pxelinux.cfg/default-arm", "pxelinux.cfg/default"]
        ),
    ),
    "U-Boot names its last block by its own timer, and keeps to its old window": (
        "u-boot-lossy",
        keeps_to_its_old_window,
    ),
    "lpxelinux speaks HTTP/1.0 with a long cookie, a connection for each file": (
        "bios-lpxelinux",
        lambda of: (
            [len(lines) for lines in connections_of(of)] == [1, 1]
            and all(b" HTTP/1.0\r\n" in data and len(data) > 500 and b"\r\nCookie: " in data for _, _, data in http(of))
        ),
    ),
    "OVMF sends HEAD and GET on one connection, shim opens one for each file and doubles the slash": (
        "uefi-http-shim",
        lambda of: (
            connections_of(of)
            == [
                ["HEAD /bootx64.efi", "GET /bootx64.efi"],
                ["GET /revocations_sku.efi"],
                ["GET /revocations_sbat.efi"],
                ["GET /shim_certificate_0.efi"],
                ["GET //grubx64.efi"],
            ]
        ),
    ),
    "UEFI resets a connection it has done with": (
        "uefi-http-shim",
        lambda of: {(by, how) for _, by, how in ends(of)} == {("client", "RST")},
    ),
    "GRUB is cut off where it asks for lists that nobody has, and goes on": (
        "uefi-http-grub",
        lambda of: (
            [(e.status, e.length, e.body) for e in of.events if isinstance(e, Reply)][2:6] == [(404, 1, 0)] * 4
            and [(by, how) for _, by, how in ends(of)].count(("server", "RST")) == 4
        ),
    ),
    "GRUB opens a connection for each file and closes it": (
        "uefi-http-grub",
        lambda of: [len(lines) for lines in connections_of(of)[1:]] == [1] * 8,
    ),
    "iPXE reads all files over one connection and escapes colons": (
        "bios-ipxe-http",
        lambda of: (
            len(connections_of(of)[0]) == 4 and connections_of(of)[0][1] == "GET /ipxe.cfg-52%3A54%3A00%3A77%3A00%3A04"
        ),
    ),
    "the machine's own system asks for its boot ticket twice, is refused once, and reports": (
        "bios-ipxe-http",
        lambda of: (
            [(lines[0].split(" ")[0], lines[0].split("/")[1]) for lines in connections_of(of)[2:]]
            == [("GET", "MAAS"), ("GET", "MAAS"), ("POST", "MAAS")]
            and [event.status for event in of.events if isinstance(event, Reply)][-3:] == [200, 410, 204]
        ),
    ),
    "started by UEFI it does so too": (
        "uefi-http-ipxe",
        lambda of: [len(lines) for lines in connections_of(of)] == [2, 4],
    ),
}


@pytest.mark.parametrize("fact", HELD)
def test_the_recordings_hold(fact: str) -> None:
    name, holds = HELD[fact]
    assert holds(capture(name))


# -- the files themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_capture_reads_back_as_it_was_written(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    boot = parse(text)
    assert render(boot) == text
    assert compress(flat(boot.events)) == boot.events
    assert boot.notes, "who boots what, and who recorded it"
    assert len(text) < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_capture_has_addresses_of_the_lab_alone(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    addresses = set(re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", text))
    assert all(re.match(r"10\.7\d\.0\.|255\.255\.255\.0", address) for address in addresses), addresses
