"""``python -m tests.fakes.pcap FILE.pcap``: a recorded exchange becomes a test case by one command."""

from __future__ import annotations

import itertools
import pathlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable

import pytest

from tests.fakes.capture import parse, render
from tests.fakes.pcap import Unreadable, capture_of, main
from tests.fakes.replay import play, staged

ROOT = pathlib.Path(__file__).parents[2]
CLIENT, OTHER, SERVER = "10.77.0.101", "10.77.0.102", "10.77.0.1"
SYN, ACK, FIN, RST = 2, 16, 1, 4
Packet = tuple[str, str, bytes]  # source, target, IP payload with its protocol number before it


def udp(source: str, sport: int, target: str, dport: int, data: bytes) -> Packet:
    return source, target, b"\x11" + struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data


def tcp(source: str, sport: int, target: str, dport: int, seq: int, flags: int, data: bytes = b"") -> Packet:
    head = struct.pack(">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, 0, 5 << 4, flags, 65535, 0, 0)
    return source, target, b"\x06" + head + data


def ip(packet: Packet) -> bytes:
    source, target, payload = packet
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack(">BBHHHBBH", 0x45, 0, 19 + len(payload), 0, 0, 64, payload[0], 0) + addresses + payload[1:]


LINKS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "Ethernet": (1, lambda ip: bytes(12) + b"\x08\x00" + ip),
    "VLAN": (1, lambda ip: bytes(12) + b"\x81\x00\x00\x07\x08\x00" + ip),
    "Linux cooked": (113, lambda ip: bytes(14) + b"\x08\x00" + ip),
    "Linux cooked 2": (276, lambda ip: b"\x08\x00" + bytes(18) + ip),
    "raw IP": (101, lambda ip: ip),
}


def pcap(path: pathlib.Path, packets: Iterable[Packet], *, link: str = "Ethernet", snap: int = 65535) -> pathlib.Path:
    """Writes *packets*, a millisecond apart, each cut to *snap* bytes."""
    number, frame = LINKS[link]
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snap, number)
    for i, packet in enumerate(packets):
        raw = frame(ip(packet))
        out += struct.pack("<IIII", 1_700_000_000, i * 1000, min(len(raw), snap), len(raw)) + raw[:snap]
    path.write_bytes(out)
    return path


def rrq(name: bytes, **options: int) -> bytes:
    return (
        b"\0\1" + name + b"\0octet\0" + b"".join(b"%s\0%d\0" % (key.encode(), value) for key, value in options.items())
    )


def data(block: int, n: int) -> bytes:
    return b"\0\3" + block.to_bytes(2, "big") + bytes(n)


def ack(block: int) -> bytes:
    return b"\0\4" + block.to_bytes(2, "big")


OACK = b"\0\6blksize\x00512\x00tsize\x002000\x00windowsize\x002\0"


def tftp(client: str = CLIENT) -> list[Packet]:
    """A size probe, then 2000 bytes in windows of two, the second window caught before it was cut into datagrams."""
    to: Callable[[int, int, bytes], Packet] = lambda port, tid, raw: udp(client, port, SERVER, tid, raw)  # noqa: E731
    fro: Callable[[int, int, bytes], Packet] = lambda port, tid, raw: udp(SERVER, tid, client, port, raw)  # noqa: E731
    request = rrq(b"shim.efi", blksize=512, tsize=0, windowsize=2)
    return [
        to(1024, 69, request), fro(1024, 4001, OACK), to(1024, 4001, b"\0\5\0\10User aborted the transfer\0"),
        to(1025, 69, request), fro(1025, 4002, OACK), to(1025, 4002, ack(0)),
        fro(1025, 4002, data(1, 512)), fro(1025, 4002, data(2, 512)), to(1025, 4002, ack(2)),
        fro(1025, 4002, data(3, 512) + data(4, 464)), to(1025, 4002, ack(4)),
        to(1026, 69, rrq(b"nobody.efi")), fro(1026, 69, b"\0\5\0\1no such file\0"),
    ]  # fmt: skip


def http() -> list[Packet]:
    """HEAD and GET on one connection, the second request in two segments, one of them twice."""
    ours, theirs = 1000, 0xFFFFFFF0  # sequence numbers; the server's roll over
    head = b"HEAD /shim.efi HTTP/1.1\r\nHost: x\r\n\r\n"
    get = b"GET //shim.efi HTTP/1.1\r\nHost: x\r\n\r\n"
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"

    def to(at: int, flags: int = ACK, raw: bytes = b"") -> Packet:
        return tcp(CLIENT, 2000, SERVER, 5248, ours + at, flags, raw)

    def fro(at: int, flags: int = ACK, raw: bytes = b"") -> Packet:
        return tcp(SERVER, 5248, CLIENT, 2000, theirs + at, flags, raw)

    second = 1 + len(head)
    body = 1 + 2 * len(reply)
    return [
        to(0, SYN), fro(0, SYN | ACK), to(1), to(1, ACK, head), fro(1, ACK, reply),
        to(second, ACK, get[:20]), to(second, ACK, get[:20]), to(second + 20, ACK, get[20:]),
        fro(1 + len(reply), ACK, reply), fro(body, ACK, bytes(1200)), fro(body + 1200, ACK, bytes(800)),
        to(second + len(get), FIN | ACK), fro(body + 2000, FIN | ACK), to(second + len(get) + 1),
    ]  # fmt: skip


NOISE = [udp(CLIENT, 68, "255.255.255.255", 67, bytes(300)), udp(CLIENT, 5353, "224.0.0.251", 5353, bytes(40))]
CAPTURE = """\
client 10.77.0.101
server 10.77.0.1
file shim.efi 2000
    0.000 > udp 1024 RRQ shim.efi octet blksize=512 tsize=0 windowsize=2 | \
00017368696d2e656669006f6374657400626c6b73697a65003531320074\
73697a6500300077696e646f7773697a65003200
    0.001 < udp 1024 OACK blksize=512 tsize=2000 windowsize=2
    0.002 > udp 1024 ERROR 8 "User aborted the transfer" | \
00050008557365722061626f7274656420746865207472616e7366657200
    0.003 > udp 1025 RRQ shim.efi octet blksize=512 tsize=0 windowsize=2 | \
00017368696d2e656669006f6374657400626c6b73697a65003531320074\
73697a6500300077696e646f7773697a65003200
    0.004 < udp 1025 OACK blksize=512 tsize=2000 windowsize=2
    0.005 > udp 1025 ACK 0 | 00040000
    0.006 < udp 1025 DATA 1 of 512
    0.007 < udp 1025 DATA 2 of 512
    0.008 > udp 1025 ACK 2 | 00040002
    0.009 < udp 1025 DATA 3 of 512
    0.009 < udp 1025 DATA 4 of 464
    0.010 > udp 1025 ACK 4 | 00040004
    0.011 > udp 1026 RRQ nobody.efi octet | 00016e6f626f64792e656669006f6374657400
    0.012 < udp 1026 ERROR 1
    0.013 > tcp 2000 connect
    0.016 > tcp 2000 HEAD /shim.efi HTTP/1.1
            "HEAD /shim.efi HTTP/1.1\\r\\n"
            "Host: x\\r\\n"
            "\\r\\n"
    0.017 < tcp 2000 200 Content-Length=2000 body=0
    0.018 > tcp 2000 20 bytes more
            "GET //shim.efi HTTP/"
    0.020 > tcp 2000 16 bytes more
            "1.1\\r\\n"
            "Host: x\\r\\n"
            "\\r\\n"
    0.021 < tcp 2000 200 Content-Length=2000 body=2000
    0.024 > tcp 2000 FIN
    0.025 < tcp 2000 FIN
"""


def test_one_command_makes_a_capture_that_plays(tmp_path: pathlib.Path) -> None:
    path = pcap(tmp_path / "boot.pcap", NOISE + tftp() + http())
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.pcap", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == CAPTURE
    boot = parse(done.stdout)
    with staged(boot) as stage:
        played = play(boot, stage)
    assert (played.blocks, played.counters["tftp_requests"], played.counters["http_ok"]) == (4, 2, 2)


@pytest.mark.parametrize("link", LINKS)
def test_a_pcap_of_any_usual_link_is_read(link: str, tmp_path: pathlib.Path) -> None:
    assert render(capture_of(pcap(tmp_path / "boot.pcap", tftp() + http(), link=link))) == CAPTURE


def test_of_the_servers_packets_a_few_bytes_are_enough(tmp_path: pathlib.Path) -> None:
    assert render(capture_of(pcap(tmp_path / "boot.pcap", tftp() + http(), snap=130))) == CAPTURE


def test_a_run_is_three_windows_and_more(tmp_path: pathlib.Path) -> None:
    packets = [udp(CLIENT, 1024, SERVER, 69, rrq(b"kernel"))]
    for block, n in [(1, 512), (2, 512), (3, 512), (4, 10)]:
        packets += [udp(SERVER, 4001, CLIENT, 1024, data(block, n)), udp(CLIENT, 1024, SERVER, 4001, ack(block))]
    text = render(capture_of(pcap(tmp_path / "boot.pcap", packets)))
    assert text.splitlines()[-1] == "    0.001 = udp 1024 DATA 1..4 of 512 by 1, the last 10 | ACK 1..4 until 0.008"
    assert "file kernel 1546" in text


def test_one_of_several_clients_has_to_be_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pcap(tmp_path / "boot.pcap", itertools.chain(*zip(tftp(OTHER), tftp(CLIENT), strict=True)))
    assert main([str(path)]) == 1
    assert capsys.readouterr().err == f"{path}: several clients are in it, name one of 10.77.0.101, 10.77.0.102\n"
    assert main([str(path), OTHER]) == 0
    out = capsys.readouterr().out
    assert out.startswith("client 10.77.0.102\n")
    assert out.count("RRQ") == 3
    assert main([str(path), "10.77.0.103"]) == 1
    assert "10.77.0.103 asks for nothing in it" in capsys.readouterr().err


def lost(n: int) -> list[Packet]:
    return [packet for i, packet in enumerate(http()) if i != n]


@pytest.mark.parametrize(
    ("packets", "snap", "why"),
    [
        (NOISE, 65535, "no TFTP request and no HTTP request is in it"),
        (tftp(), 60, "a request is cut short: record with a larger snap length"),
        (http(), 70, "a request is cut short: record with a larger snap length"),
        (http(), 92, "a response head is cut short: record with a larger snap length"),
        ([*lost(7), tcp(CLIENT, 2000, SERVER, 5248, 1200, ACK, b"x")], 65535, "bytes of port 2000 are missing"),
        (lost(9), 65535, "bytes to port 2000 are missing"),
        (
            [*tftp(), udp(CLIENT, 1030, SERVER, 69, rrq(b"shim.efi", tsize=0)),
             udp(SERVER, 4003, CLIENT, 1030, b"\0\6tsize\x002001\0")],
            65535,
            "shim.efi has 2000 bytes first and 2001 later",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_said(packets: list[Packet], snap: int, why: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unreadable, match=why):
        capture_of(pcap(tmp_path / "boot.pcap", packets, snap=snap))


def test_a_file_that_is_no_pcap_is_said_to_be_none(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("not a recording at all")
    assert main([str(tmp_path / "text")]) == 1
    assert "neither a pcap nor a pcapng file" in capsys.readouterr().err
    assert main([]) == 2
    assert main([str(tmp_path / "nothing")]) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0.000 > udp 1 ACK 1 | 00040002", "line 1: the bytes say 'ACK 2' and the line 'ACK 1'"),
        ("0.000 > udp 1 ACK 1 | 0004", "line 1: the bytes say"),
        ("0.000 < udp 1 HELLO", "line 1: not a server's datagram: 'HELLO'"),
        ("0.000 = udp 1 DATA 1..9 of 512 by 4, the last 1 | ACK 1..9 until 0.1", "line 1: windows of 4 from 1 to 9"),
        ("0.000 = udp 1 DATA 1..9", "line 1: not a run"),
        ("now > udp 1 ACK 1", "line 1: expected seconds, direction, protocol, port and meaning"),
        ('0.000 > tcp 1 GET /a HTTP/1.1\n  "GET /b HTTP/1.1\\r\\n"', "line 1: the bytes say"),
    ],
)
def test_a_line_that_does_not_hold_together_is_named(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(line)


METADATA = """\
client 10.77.0.101
server 10.77.0.1
file kernel 5000
    0.000 > tcp 1025 connect
    0.001 > tcp 1025 POST /MAAS/metadata/boot/t1 HTTP/1.1
            "POST /MAAS/metadata/boot/t1 HTTP/1.1\\r\\n"
            "Host: rack\\r\\n"
            "Content-Length: 2\\r\\n"
            "\\r\\n"
            "{}"
    0.002 < tcp 1025 204 body=0
    0.003 > tcp 1025 GET /kernel HTTP/1.1
            "GET /kernel HTTP/1.1\\r\\n"
            "Host: rack\\r\\n"
            "\\r\\n"
    0.004 < tcp 1025 200 Content-Length=5000 body=5000
"""


def test_a_request_that_is_not_for_a_file_is_handed_over_and_its_connection_comes_back() -> None:
    boot = parse(METADATA)
    assert render(boot) == METADATA
    with staged(boot) as stage:
        played = play(boot, stage)
    assert (played.counters["http_handed_over"], played.counters["http_adopted"]) == (1, 1)
    assert played.counters["http_ok"] == 1


# What the player has to find: a recording that is changed in one place is one that this server does not answer so.
CHANGES = {
    "another size": ("tsize=2000 windowsize=2\n    0.002", "tsize=2001 windowsize=2\n    0.002"),
    "no OACK": ("    0.004 < udp 1025 OACK blksize=512 tsize=2000 windowsize=2\n", ""),
    "another block": ("0.007 < udp 1025 DATA 2 of 512", "0.007 < udp 1025 DATA 3 of 512"),
    "another length": ("DATA 4 of 464", "DATA 4 of 463"),
    "a block fewer": ("    0.009 < udp 1025 DATA 4 of 464\n", ""),
    "another error": ("ERROR 1\n", "ERROR 2\n"),
    "an answer to silence": ("    0.011 >", "    0.010 < udp 1025 DATA 5 of 0\n    0.011 >"),
    "another status": ("200 Content-Length=2000 body=0", "404 Content-Length=2000 body=0"),
    "another Content-Length": ("200 Content-Length=2000 body=2000", "200 Content-Length=1999 body=2000"),
    "a Connection": ("200 Content-Length=2000 body=0", "200 Content-Length=2000 Connection=close body=0"),
    "an end": ("    0.024 > tcp 2000 FIN\n", ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_player_finds_what_is_answered_otherwise(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.replay.PATIENCE_S", 0.3)
    before, after = CHANGES[change]
    assert CAPTURE.count(before) == 1
    boot = parse(CAPTURE.replace(before, after))
    with pytest.raises(AssertionError), staged(boot) as stage:
        play(boot, stage)
