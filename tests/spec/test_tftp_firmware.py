"""What real firmware and boot loaders send by TFTP, conversation by conversation, as they were recorded.

iPXE's BIOS ROM, PXELINUX, UEFI's own PXE, shim and GRUB; and the stock clients tftp-hpa, atftp and curl.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache
from tests.fakes.http_client import cold, fill
from tests.fakes.tftp_client import Packet, Rack, TftpClient, serving

SHIM, GRUB, PXELINUX, KERNEL = (os.urandom(n) for n in (95_001, 150_000, 42_413, 1_048_576))
FILES = {
    "bootx64.efi": SHIM,
    "grubx64.efi": GRUB,
    "pxelinux.0": PXELINUX,
    "bios/pxelinux.0": PXELINUX,
    "bios/hello/vmlinuz": KERNEL,
    "hello/vmlinuz": KERNEL,
}


@pytest.fixture(scope="module")
def rack() -> Iterator[Rack]:
    with serving(FILES, timeout_s=60) as rack:
        yield rack


def answer(rack: Rack, name: str, content: bytes | None) -> tuple[str, int]:
    """Answers the reactor's next question, which must be about *name*; returns who asked."""
    ((kind, request, protocol, asked, peer, local),) = rack.mail()
    assert (kind, protocol, asked, local) == ("ask", "tftp", name, rack.address)
    if content is None:
        rack.reactor.answer(request, None, 10)  # ST_UNKNOWN
    else:
        rack.reactor.answer(request, Blob.memory(content))
    return (peer[0], peer[1])


def test_ipxe_rom(rack: Rack) -> None:
    with rack.client() as client:
        fetched = client.fetch("pxelinux.0", blksize=1432, tsize=0)
        assert fetched.oack == {"blksize": "1432", "tsize": str(len(PXELINUX))}
        assert fetched.data == PXELINUX


def test_pxelinux_asks_for_nine_names_that_nobody_has_and_then_for_the_default(rack: Rack) -> None:
    names = [f"/{'0A4D00CA'[:n]}" for n in range(8, 0, -1)]
    for name in ("01-52-54-00-77-00-01", *(name[1:] for name in names)):
        with rack.client() as client:  # a new port each
            client.rrq(f"pxelinux.cfg/{name}", tsize=0, blksize=1408)
            assert answer(rack, f"pxelinux.cfg/{name}", None) == client.address
            packet = client.receive()
            assert (packet.kind, packet.number) == ("ERROR", 1)
    with rack.client() as client:
        client.rrq("pxelinux.cfg/default", tsize=0, blksize=1408)
        answer(rack, "pxelinux.cfg/default", b"DEFAULT hello\n")
        assert client.receive().options == {"tsize": "14", "blksize": "1408"}
        client.ack(0)
        assert client.receive().data == b"DEFAULT hello\n"


@pytest.mark.parametrize("name", ["bios//hello/vmlinuz", "/hello/vmlinuz", "hello/vmlinuz", "\\hello\\vmlinuz"])
def test_pxelinux_glues_its_directory_before_names(rack: Rack, name: str) -> None:
    with rack.client() as client:
        assert client.fetch(name, tsize=0, blksize=1408).data == KERNEL


def test_uefi_probes_the_size_ends_with_error_8_and_asks_again_from_the_next_port(rack: Rack) -> None:
    before = rack.counters()
    with rack.client() as probe, rack.client() as client:
        probe.rrq("bootx64.efi", tsize=0, blksize=1468, windowsize=4)
        assert probe.receive().options == {"tsize": str(len(SHIM)), "blksize": "1468", "windowsize": "4"}
        probe.error(8, "User aborted the transfer")
        fetched = client.fetch("bootx64.efi", blksize=1468, windowsize=4)
        assert fetched.oack == {"blksize": "1468", "windowsize": "4"}
        assert fetched.data == SHIM
        assert probe.waiting() == []
    after = rack.counters()
    assert after["tftp_errors"] == before["tftp_errors"]
    assert after["tftp_aborted"] - before["tftp_aborted"] == 1


def test_shim_looks_for_revocations_and_takes_grub_in_blocks_of_512(rack: Rack) -> None:
    for name in ("revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"):
        with rack.client() as client:
            client.rrq(name, blksize=512, windowsize=4)
            assert client.receive()[:2] == ("ERROR", 1)
    with rack.client() as client:
        fetched = client.fetch("grubx64.efi", blksize=512, windowsize=4)
        assert (fetched.data, fetched.received, fetched.acks) == (GRUB, 293, 74)


def test_grub_finds_a_missing_lst_empty_and_goes_on(rack: Rack) -> None:
    for name in ("command", "fs", "crypto", "terminal"):
        with rack.client() as client:
            fetched = client.fetch(f"/grub/x86_64-efi/{name}.lst", blksize=1024, tsize=0)
            assert (fetched.data, fetched.oack) == (b"", {"blksize": "1024", "tsize": "0"})
    with rack.client() as client:
        client.rrq("/grub/x86_64-efi/normal.mod", blksize=1024, tsize=0)
        assert client.receive()[:2] == ("ERROR", 1), "any other missing name is an error"


def test_grub_uses_the_same_ports_on_every_boot(rack: Rack) -> None:
    """A second boot's transfer has the same client port as the first one's, and must not have the same TID."""
    with rack.client() as first:
        assert first.fetch("hello/vmlinuz", blksize=1024, tsize=0).data == KERNEL
        tid = first.tid
    with rack.client(port=first.address[1]) as second:
        assert second.fetch("hello/vmlinuz", blksize=1024, tsize=0).data == KERNEL
        assert second.tid != tid


def test_grub_repeats_its_request_while_the_answer_is_made_and_asks_only_once(rack: Rack) -> None:
    with rack.client() as client:
        options = {"blksize": 1024, "tsize": 0}
        client.rrq("/grub/grub.cfg", **options)
        for _ in range(39):
            client.repeat("/grub/grub.cfg", **options)
        rack.settle()
        assert client.waiting() == []
        answer(rack, "grub/grub.cfg", b"boot\n")
        assert client.receive().options == {"blksize": "1024", "tsize": "5"}
        client.ack(0)
        assert client.receive().data == b"boot\n"
        client.ack(1)
        rack.settle()
        assert (client.waiting(), rack.reactor.take()) == ([], [])


def test_grub_repeats_its_request_for_a_file_that_is_slow_to_come_and_one_transfer_begins(
    tmp_path: pathlib.Path,
) -> None:
    """A miss: the OACK needs the size alone and comes at once; repetitions bring one more, and the bytes once."""
    cache = Cache(str(tmp_path), 16 << 20)
    kernel = cold(cache, KERNEL)
    with serving({"hello/vmlinuz": kernel}, timeout_s=60) as rack, rack.client() as client:
        options = {"blksize": 1024, "tsize": 0}
        client.rrq("/hello/vmlinuz", **options)
        assert client.receive().kind == "OACK"
        for _ in range(39):
            client.repeat("/hello/vmlinuz", **options)
        assert client.receive().kind == "OACK"
        client.ack(0)
        assert rack.mail() == [("miss", kernel.id, 0)]
        for _ in range(39):
            client.repeat("/hello/vmlinuz", **options)
        rack.settle()
        assert (client.waiting(), rack.reactor.take()) == ([], [])
        fill(cache, kernel, KERNEL, 0)
        rack.reactor.chunk(kernel, 0)
        assert client.receive()[:3] == ("DATA", 1, KERNEL[:1024])
        client.ack(1)
        assert client.receive()[:3] == ("DATA", 2, KERNEL[1024:2048])
        counters = rack.counters()
        assert (counters["tftp_requests"], counters["tftp_repeated"], counters["lookups"]) == (1, 78, 1)
        client.error(0)


@pytest.mark.parametrize("ttl", [1, 255])
def test_the_hops_a_packet_may_still_go_do_not_matter(rack: Rack, ttl: int) -> None:
    """GRUB sends with 255; behind routers a request may arrive with any."""
    with rack.client() as client:
        client.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        assert client.fetch("grubx64.efi", blksize=1024, tsize=0).data == GRUB


def test_a_question_nobody_answers_ends_in_an_error_that_says_to_try_again() -> None:
    with serving(FILES, park_limit_s=0.1) as rack, rack.client() as client:
        client.rrq("/grub/grub.cfg", blksize=1024)
        packet = client.receive()
        assert packet[:2] == ("ERROR", 0)
        assert packet.data == b"grub/grub.cfg: the region has not sent it in time; try again"
        assert [mail[0] for mail in rack.mail()] == ["ask"]
        rack.reactor.drain()
        assert rack.mail() == [("drained",)]


def test_a_client_that_asks_for_something_else_meanwhile_gets_that(rack: Rack) -> None:
    with rack.client() as client:
        client.rrq("/grub/grub.cfg-default-amd64", blksize=1024)
        rack.settle()
        client.rrq("pxelinux.0", blksize=1408)
        assert client.receive().options == {"blksize": "1408"}
        answer(rack, "grub/grub.cfg-default-amd64", b"too late")
        rack.settle()
        assert client.waiting() == []


def test_uefi_loses_one_block_of_a_window_and_answers_every_stale_one(rack: Rack) -> None:
    """Block 1000 lost: the server sends 997 to 1000 again, the client says 999 to each. Only the first may count."""
    with rack.client() as client:
        client.rrq("hello/vmlinuz", blksize=512, windowsize=4, timeout=1)
        client.receive()
        client.ack(0)
        block = 0
        while block < 996:
            assert [client.receive().number for _ in range(4)] == [block + n for n in (1, 2, 3, 4)]
            block += 4
            client.ack(block)
        window = [997, 998, 999, 1000]
        assert [client.receive().number for _ in range(8)] == window * 2, "by our own deadline"
        for _ in range(3):
            client.ack(999)
        assert [client.receive().number for _ in range(3)] == [1001, 1002, 1003], "1000 is on its way"
        rack.settle()
        assert client.waiting() == []
        client.ack(1003)
        assert [client.receive().number for _ in range(4)] == [1004, 1005, 1006, 1007]


def test_two_hundred_machines_that_vanish_leave_nothing_behind() -> None:
    with serving(FILES, timeout_s=0.1, retries=2) as rack:
        clients = [rack.client() for _ in range(200)]
        for client in clients:
            client.rrq("hello/vmlinuz", blksize=1408, windowsize=16)
        for client in clients:
            assert client.receive().kind == "OACK"
        counters = rack.until("tftp_timed_out", 200)
        assert counters["tftp_requests"] == 200
        for client in clients:
            client.socket.close()
        rack.reactor.drain()
        assert rack.mail() == [("drained",)]


def test_two_hundred_machines_at_once_each_get_the_whole_file(rack: Rack) -> None:
    """Interleaved packet by packet, so that batches mix clients, windows and stages."""
    plans = itertools.cycle(
        [{}, {"blksize": 1468, "windowsize": 4}, {"blksize": 1408}, {"blksize": 1428, "windowsize": 16}]
    )
    machines = [(rack.client(), next(plans)) for _ in range(200)]
    parts: dict[TftpClient, list[bytes]] = {client: [] for client, _ in machines}
    for client, options in machines:
        client.rrq("pxelinux.0", **options)
    busy = dict(machines)
    while busy:
        for client, options in list(busy.items()):
            packet: Packet = client.receive()
            if packet.kind == "OACK":
                client.ack(0)
                continue
            assert (packet.kind, packet.number) == ("DATA", len(parts[client]) + 1)
            parts[client].append(packet.data)
            last = len(packet.data) < options.get("blksize", 512)
            if last or len(parts[client]) % options.get("windowsize", 1) == 0:
                client.ack(len(parts[client]))
            if last:
                assert b"".join(parts[client]) == PXELINUX
                del busy[client]
    for client, _ in machines:
        client.socket.close()


# -- stock clients ---------------------------------------------------------------------------------------------------

COMMANDS = {
    "tftp": ["-m", "binary", "{host}", "{port}", "-c", "get", "hello/vmlinuz", "got"],
    "atftp": ["--option", "blksize 1428", "--option", "windowsize 16", "--option", "tsize 0",
              "-g", "-r", "hello/vmlinuz", "-l", "got", "{host}", "{port}"],
    "curl": ["-sS", "--tftp-blksize", "1468", "-o", "got", "tftp://{host}:{port}//hello/vmlinuz"],
}  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("program", COMMANDS)
def test_a_stock_client_gets_the_file_byte_for_byte(rack: Rack, program: str, tmp_path: pathlib.Path) -> None:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (apt-get install tftp-hpa atftp curl)")
    host, port = rack.address
    command = [path, *(word.format(host=host, port=port) for word in COMMANDS[program])]
    environment = {
        key: value for key, value in os.environ.items() if key != "LD_PRELOAD"
    }  # a sanitizer's is not for it
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == KERNEL
