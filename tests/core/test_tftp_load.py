"""The TFTP load clients: the machine on a fake clock, then conversations with a small server of the test's own that can
ignore or refuse options, and drop, repeat or reorder what it sends."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootplane.core.status import RemoteError, Timeout
from bootplane.core.tftp_client import Receiver
from bootplane.core.tftp_load import fetch, load, probe

HOST = "127.0.0.1"
Network = Callable[[list[bytes]], list[bytes]]  # one burst of DATA as sent -> as it arrives


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(size: int) -> bytes:
    return hashlib.shake_128(size.to_bytes(8, "big")).digest(size)


def data(block: int, payload: bytes) -> bytes:
    return b"\0\3" + (block & 0xFFFF).to_bytes(2, "big") + payload


def ack(block: int) -> bytes:
    return b"\0\4" + (block & 0xFFFF).to_bytes(2, "big")


def error(code: int, text: str) -> bytes:
    return b"\0\5" + code.to_bytes(2, "big") + text.encode() + b"\0"


def oack(**options: int) -> bytes:
    return b"\0\6" + b"".join(f"{name}\0{value}\0".encode() for name, value in options.items())


# The machine


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, b"\0\1pxelinux.0\0octet\0tsize\x000\0blksize\x001428\0"),
        (
            {"blksize": 1468, "windowsize": 4},
            b"\0\1pxelinux.0\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0",
        ),
        (
            {"blksize": 512, "windowsize": 4, "tsize": False},
            b"\0\1pxelinux.0\0octet\0blksize\x00512\0windowsize\x004\0",
        ),
        ({"blksize": 0, "tsize": False}, b"\0\1pxelinux.0\0octet\0"),
    ],
)
def test_the_request_names_options_in_the_order_of_firmware(wishes: dict[str, int], expected: bytes) -> None:
    assert Receiver(**wishes).request(b"pxelinux.0") == expected  # type: ignore[arg-type]


def test_a_whole_conversation_in_lockstep() -> None:
    client = Receiver(blksize=8)
    assert client.packet(oack(tsize=11, blksize=8)) == ([ack(0)], b"")
    assert client.packet(data(1, b"eight...")) == ([ack(1)], b"eight...")
    assert client.packet(data(2, b"end")) == ([ack(2)], b"end")
    assert client.state == "complete"
    assert client.packet(data(3, b"more")) == ([], b"")


def test_a_whole_conversation_in_windows_of_three() -> None:
    client = Receiver(blksize=8, windowsize=3)
    assert client.packet(oack(tsize=32, blksize=8, windowsize=3)) == ([ack(0)], b"")
    for block, sent in [(1, []), (2, []), (3, [ack(3)]), (4, [])]:
        assert client.packet(data(block, b"eight...")) == (sent, b"eight...")
    assert client.packet(data(5, b"")) == ([ack(5)], b"")  # a last block of 0 bytes ends a file of whole blocks
    assert client.state == "complete"


def test_options_that_are_ignored_hold_at_their_defaults() -> None:
    client = Receiver(blksize=1468, windowsize=16)
    assert client.packet(data(1, bytes(512))) == ([ack(1)], bytes(512))
    assert client.agreed == {"blksize": 512, "windowsize": 1, "tsize": -1}
    assert client.packet(data(2, b"")) == ([ack(2)], b"")
    assert client.state == "complete"


def test_the_servers_smaller_values_hold() -> None:
    client = Receiver(blksize=1468, windowsize=16)
    client.packet(oack(blksize=1024, windowsize=8))
    assert client.agreed == {"blksize": 1024, "windowsize": 8, "tsize": -1}


@pytest.mark.parametrize("name", ["BLKSIZE", "BlkSize"])
def test_option_names_are_not_case_sensitive(name: str) -> None:
    client = Receiver()
    assert client.packet(oack(**{name: 600})) == ([ack(0)], b"")
    assert client.agreed["blksize"] == 600


@pytest.mark.parametrize(
    ("packet", "sentence"),
    [
        (oack(blksize=1429), "get: OACK: expected at most blksize=1428, tsize, got blksize=1429"),
        (oack(blksize=7), "get: OACK: expected at most blksize=1428, tsize, got blksize=7"),
        (oack(windowsize=2), "get: OACK: expected at most blksize=1428, tsize, got windowsize=2"),
        (oack(multicast=1), "get: OACK: expected at most blksize=1428, tsize, got multicast=1"),
        (b"\0\6tsize\0big\0", "get: OACK: expected at most blksize=1428, tsize, got tsize=big"),
        (b"\0\6tsize\0", "get: expected OACK, DATA or ERROR, got a malformed packet of opcode 6"),
        (b"\0\6tsize\x00100", "get: expected OACK, DATA or ERROR, got a malformed packet of opcode 6"),
    ],
)
def test_an_oack_that_was_not_asked_for_is_answered_with_error_8(packet: bytes, sentence: str) -> None:
    client = Receiver()
    assert client.packet(packet) == ([error(8, "Option not asked for")], b"")
    assert client.state == sentence


@pytest.mark.parametrize(
    ("packet", "sentence"),
    [
        (b"", "get: expected OACK, DATA or ERROR, got a datagram of less than 2 bytes"),
        (b"\0", "get: expected OACK, DATA or ERROR, got a datagram of less than 2 bytes"),
        (b"\0\3\0", "get: expected OACK, DATA or ERROR, got a malformed packet of opcode 3"),
        (b"\0\4\0\1", "get: expected OACK, DATA or ERROR, got a malformed packet of opcode 4"),
        (b"\1\3\0\1x", "get: expected OACK, DATA or ERROR, got a malformed packet of opcode 259"),
        (data(1, bytes(513)), "get: DATA 1: expected at most 512 bytes, got 513"),
        (error(1, "File not found"), "get: TFTP error 1: File not found"),
        (b"\0\5\0\2no NUL", "get: TFTP error 2: no NUL"),
        (b"\0\5\0\0", "get: TFTP error 0: "),
        (error(0, "odd \x1b[31m text"), "get: TFTP error 0: odd ?[31m text"),
    ],
)
def test_a_packet_that_ends_the_transfer_says_why(packet: bytes, sentence: str) -> None:
    client = Receiver()
    _, payload = client.packet(packet)
    assert payload == b""
    assert client.state == sentence


def test_a_file_that_is_not_of_the_promised_size_is_a_failure() -> None:
    client = Receiver(blksize=8)
    client.packet(oack(tsize=12, blksize=8))
    client.packet(data(1, b"eight..."))
    assert client.packet(data(2, b"end")) == ([ack(2)], b"end")
    assert client.state == "get: size: expected 12 bytes (tsize), got 11"


def test_block_numbers_go_on_with_0_after_65535() -> None:
    client = Receiver(blksize=8, tsize=False)
    client.packet(oack(blksize=8))
    for block in range(1, 65536):
        client.packet(data(block, b"eight..."))
    assert client.packet(data(65536, b"eight...")) == ([ack(0)], b"eight...")
    assert client.packet(data(65535, b"eight...")) == ([], b"")  # stale, from before the wrap
    assert client.packet(data(65537, b"end")) == ([ack(1)], b"end")


def test_a_repeated_last_block_is_acknowledged_again() -> None:
    client = Receiver(blksize=8)
    client.packet(oack(blksize=8))
    client.packet(data(1, b"eight..."))
    assert client.packet(data(1, b"eight...")) == ([ack(1)], b"")


def test_a_window_that_is_sent_again_costs_one_ack() -> None:
    client = Receiver(blksize=8, windowsize=4)
    client.packet(oack(blksize=8, windowsize=4))
    window = [data(block, b"eight...") for block in (1, 2, 3, 4)]
    assert [client.packet(packet)[0] for packet in window] == [[], [], [], [ack(4)]]
    assert [client.packet(packet) for packet in window] == [([], b""), ([], b""), ([], b""), ([ack(4)], b"")]


def test_a_gap_is_answered_once_with_the_last_block_in_order() -> None:
    client = Receiver(blksize=8, windowsize=8)
    client.packet(oack(blksize=8, windowsize=8))
    sent = [client.packet(data(block, b"eight..."))[0] for block in (1, 2, 4, 5, 6, 7, 8)]
    assert sent == [[], [], [ack(2)], [], [], [], []]
    sent = [client.packet(data(block, b"eight..."))[0] for block in range(3, 11)]
    assert sent == [[], [], [], [], [], [], [], [ack(10)]]  # the window began anew after the ACK


def test_a_stale_block_in_the_middle_of_a_window_is_not_answered() -> None:
    client = Receiver(blksize=8, windowsize=4)
    client.packet(oack(blksize=8, windowsize=4))
    client.packet(data(1, b"eight..."))
    client.packet(data(2, b"eight..."))
    assert client.packet(data(2, b"eight...")) == ([], b"")
    assert client.packet(data(1, b"eight...")) == ([], b"")


def test_a_repeated_oack_is_acknowledged_until_data_has_come() -> None:
    client = Receiver(blksize=8)
    client.packet(oack(blksize=8))
    assert client.packet(oack(blksize=8)) == ([ack(0)], b"")
    client.packet(data(1, b"eight..."))
    assert client.packet(oack(blksize=8)) == ([], b"")


def test_the_request_is_repeated_with_growing_waits_and_then_given_up() -> None:
    client = Receiver(retry_s=1.0, retries=5, now_s=100.0)
    waits = []
    now = 100.0
    while client.state == "asked":
        waits.append(client.deadline_s - now)
        now = client.deadline_s
        assert client.tick(now - 0.001) == []
        assert client.tick(now) == ([b"RRQ"] if len(waits) <= 5 else [])
    assert waits == pytest.approx([1, 2, 4, 8, 8, 8])
    assert client.state == "get: expected an answer to the request, got none after 5 repeats"


def test_the_last_ack_is_repeated_and_stale_packets_do_not_move_the_deadline() -> None:
    client = Receiver(blksize=8, retry_s=1.0, retries=2)
    client.packet(oack(blksize=8), 0.0)
    client.packet(data(1, b"eight..."), 0.5)
    client.packet(data(1, b"eight..."), 1.0)
    assert client.deadline_s == 1.5
    assert client.tick(1.5) == [ack(1)]
    assert client.tick(3.5) == [ack(1)]
    assert client.tick(7.5) == []
    assert client.state == "get: expected an answer to ACK 1, got none after 2 repeats"


def test_progress_begins_the_waits_anew() -> None:
    client = Receiver(blksize=8, retry_s=1.0)
    client.packet(oack(blksize=8), 0.0)
    client.tick(1.0)
    client.packet(data(1, b"eight..."), 2.0)
    assert client.deadline_s == 3.0


def test_when_the_rest_of_a_window_is_lost_the_deadline_acknowledges_what_came() -> None:
    client = Receiver(blksize=8, windowsize=4)
    client.packet(oack(blksize=8, windowsize=4), 0.0)
    client.packet(data(1, b"eight..."), 0.0)
    assert client.tick(1.0) == [ack(1)]
    sent = [client.packet(data(block, b"eight..."), 1.0)[0] for block in (2, 3, 4, 5)]
    assert sent == [[], [], [], [ack(5)]]


def test_a_probe_takes_the_size_and_aborts_as_ovmf_does() -> None:
    client = Receiver(blksize=1468, windowsize=4, probe=True)
    assert client.packet(oack(tsize=959, blksize=1468, windowsize=4)) == ([error(8, "User aborted the transfer")], b"")
    assert client.state == "complete"
    assert client.agreed["tsize"] == 959


# The server of these tests


class TftpServer:
    """Serves *files*; every transfer has a thread and a socket of its own. *network* sees each burst of DATA."""

    def __init__(self, files: dict[str, bytes], options: str = "all", network: Network | None = None) -> None:
        self.files = files
        self.options = options  # all, ignored, refused, or the one that is answered
        self.network = network or (lambda burst: burst)
        self.lock = threading.Lock()
        self.requests: list[tuple[str, dict[str, int]]] = []
        self.peers: list[tuple[str, int]] = []
        self.received: list[bytes] = []  # ACKs and ERRORs
        self.data_sent = 0
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.listener.bind((HOST, 0))
        self.listener.settimeout(0.05)
        self.port: int = self.listener.getsockname()[1]

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                packet, peer = self.listener.recvfrom(2048)
            except TimeoutError:
                continue
            thread = threading.Thread(target=self.transfer, args=(packet, peer))
            self.threads.append(thread)
            thread.start()

    def transfer(self, packet: bytes, peer: tuple[str, int]) -> None:
        name, mode, *rest = [field.decode() for field in packet[2:-1].split(b"\0")]
        asked = {key: int(value) for key, value in zip(rest[::2], rest[1::2], strict=True)}
        assert (packet[:2], mode) == (b"\0\1", "octet")
        with self.lock:
            self.requests.append((name, asked))
            self.peers.append(peer)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tid:
            tid.bind((HOST, 0))
            tid.settimeout(0.05)
            body = self.files.get(name)
            if body is None:
                tid.sendto(error(1, "File not found"), peer)
            elif asked and self.options == "refused":
                tid.sendto(error(8, "No options here"), peer)
            else:
                self.send(tid, peer, body, asked)

    def answer(self, tid: socket.socket) -> int | None:
        """The block of the next ACK; None when nothing came; -1 for an ERROR."""
        try:
            packet = tid.recv(2048)
        except TimeoutError:
            return None
        with self.lock:
            self.received.append(packet)
        return int.from_bytes(packet[2:4], "big") if packet[:2] == b"\0\4" else -1

    def send(self, tid: socket.socket, peer: tuple[str, int], body: bytes, asked: dict[str, int]) -> None:
        answered = {
            name: len(body) if name == "tsize" else value
            for name, value in asked.items()
            if self.options in ("all", name)
        }
        while answered and not self.stopping.is_set():
            tid.sendto(oack(**answered), peer)
            got = self.answer(tid)
            if got == -1:
                return
            if got == 0:
                break
        blksize, windowsize = answered.get("blksize", 512), answered.get("windowsize", 1)
        last = len(body) // blksize + 1
        base = 1  # first block not acknowledged
        while base <= last and not self.stopping.is_set():
            blocks = range(base, min(base + windowsize, last + 1))
            burst = self.network([data(block, body[(block - 1) * blksize : block * blksize]) for block in blocks])
            for packet in burst:
                tid.sendto(packet, peer)
            with self.lock:
                self.data_sent += len(blocks)
            while True:
                got = self.answer(tid)
                if got is None:
                    break  # the window again
                if got == -1:
                    return
                moved = (got - base + 1) & 0xFFFF
                if 0 < moved <= windowsize:
                    base += moved
                    break


@contextmanager
def serving(files: dict[str, bytes], options: str = "all", network: Network | None = None) -> Iterator[TftpServer]:
    server = TftpServer(files, options, network)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        for running in [thread, *server.threads]:
            running.join(10)
            assert not running.is_alive()
        server.listener.close()


KERNEL = content(100_000)
FILES = {"kernel": KERNEL, "empty": b"", "block": content(1428), "grub/grub.cfg": b"boot\n"}


# fetch


@pytest.mark.parametrize("windowsize", [1, 4, 16])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_and_hashed(name: str, windowsize: int) -> None:
    with serving(FILES) as server:
        got = fetch(HOST, server.port, name, windowsize=windowsize)
    size = len(FILES[name])
    assert (got.status, got.size, got.sha256) == (0, size, sha(FILES[name]))
    assert got.headers == f"blksize=1428 windowsize={windowsize} tsize={size}"
    assert 0 < got.first_byte_s <= got.seconds
    assert len(server.received) == 1 + -(-(size // 1428 + 1) // windowsize)  # ACK 0, and one for each window


def test_a_file_is_kept_and_written_when_asked() -> None:
    with serving(FILES) as server, tempfile.TemporaryFile() as sink:
        assert fetch(HOST, server.port, "kernel", keep=True, sink_fd=sink.fileno()).body == KERNEL
        sink.seek(0)
        assert sink.read() == KERNEL


def test_without_verify_payload_is_counted_and_not_hashed() -> None:
    with serving(FILES) as server:
        got = fetch(HOST, server.port, "kernel", windowsize=8, verify=False)
    assert (got.size, got.sha256) == (len(KERNEL), "")


def test_every_transfer_has_a_new_port() -> None:
    with serving(FILES) as server:
        for _ in range(6):
            fetch(HOST, server.port, "empty")
    assert len(set(server.peers)) >= 5  # the kernel picks at random: two of them may meet


def test_the_source_address_is_the_one_asked_for() -> None:
    with serving(FILES) as server:
        fetch(HOST, server.port, "empty", source="127.0.0.9")
    assert server.peers[0][0] == "127.0.0.9"


@pytest.mark.parametrize(
    ("options", "headers"),
    [("ignored", ""), ("blksize", "blksize=1428 windowsize=1"), ("tsize", "blksize=512 windowsize=1 tsize=100000")],
)
def test_options_that_the_server_leaves_out_hold_at_their_defaults(options: str, headers: str) -> None:
    with serving(FILES, options) as server:
        got = fetch(HOST, server.port, "kernel", windowsize=4)
    assert (got.sha256, got.headers) == (sha(KERNEL), headers)


def test_options_that_are_refused_with_error_8_are_left_out_the_second_time() -> None:
    with serving(FILES, "refused") as server:
        got = fetch(HOST, server.port, "kernel", windowsize=4)
    assert got.sha256 == sha(KERNEL)
    assert server.requests == [("kernel", {"tsize": 0, "blksize": 1428, "windowsize": 4}), ("kernel", {})]


def test_a_plain_rfc_1350_client_sends_no_options() -> None:
    with serving(FILES) as server:
        assert fetch(HOST, server.port, "kernel", blksize=0, tsize=False).sha256 == sha(KERNEL)
    assert server.requests == [("kernel", {})]


def test_a_file_of_more_than_65535_blocks_arrives_whole() -> None:
    large = content(65536 * 16 + 5)
    with serving({"large": large}) as server:
        assert fetch(HOST, server.port, "large", blksize=16, windowsize=64).sha256 == sha(large)


def test_an_error_packet_is_a_remote_error_with_code_and_text() -> None:
    with serving(FILES) as server, pytest.raises(RemoteError) as caught:
        fetch(HOST, server.port, "nobody")
    assert str(caught.value) == f"tftp://127.0.0.1:{server.port}/nobody: TFTP error 1: File not found"


def test_a_server_that_is_not_there_is_heard_of_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
    with pytest.raises(RemoteError) as caught:
        fetch(HOST, port, "kernel")
    assert str(caught.value) == f"tftp://127.0.0.1:{port}/kernel: expected an answer, got: Connection refused"


def test_a_server_that_goes_away_is_heard_of_with_the_next_ack() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 0))

        def serve() -> None:
            _, peer = listener.recvfrom(2048)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tid:
                tid.sendto(data(1, bytes(512)), peer)
                tid.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RemoteError, match=r"after 512 bytes: Connection refused$"):
            fetch(HOST, listener.getsockname()[1], "kernel", retry_s=0.02)
        thread.join()


def test_a_server_that_says_nothing_ends_in_a_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        port = silent.getsockname()[1]
        with pytest.raises(Timeout) as caught:
            fetch(HOST, port, "kernel", timeout_s=0.05)
        assert str(caught.value) == (
            f"tftp://127.0.0.1:{port}/kernel: after 0.05 s: timed out: expected the whole file, got 0"
        )
        with pytest.raises(Timeout, match="expected an answer to the request, got none after 8 repeats"):
            fetch(HOST, port, "kernel", retry_s=0.0005)


def test_strangers_are_not_listened_to() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 0))

        def serve() -> None:
            _, peer = listener.recvfrom(2048)
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tid,
            ):
                stranger.bind(("127.0.0.2", 0))  # not the server's address
                stranger.sendto(data(1, b"wrong"), peer)
                tid.sendto(data(1, bytes(512)), peer)
                tid.recv(100)
                stranger.close()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour:
                    neighbour.bind((HOST, 0))  # the server's address, not its TID
                    neighbour.sendto(data(2, b"wrong"), peer)
                tid.sendto(data(2, b"right"), peer)
                tid.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        got = fetch(HOST, listener.getsockname()[1], "kernel", keep=True)
        thread.join()
    assert got.body == bytes(512) + b"right"


def test_a_signal_reaches_python_while_a_transfer_waits() -> None:
    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, pytest.raises(Rung):
            silent.bind((HOST, 0))
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            fetch(HOST, silent.getsockname()[1], "kernel")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# fetch, on a bad network


def every(n: int, what: Callable[[bytes], list[bytes]]) -> Network:
    """Each *n*-th DATA of all becomes what *what* makes of it."""
    count = 0

    def network(burst: list[bytes]) -> list[bytes]:
        nonlocal count
        arrives = []
        for packet in burst:
            count += 1
            arrives += what(packet) if count % n == 0 else [packet]
        return arrives

    return network


@pytest.mark.parametrize("windowsize", [1, 4, 16])
@pytest.mark.parametrize(
    "network",
    [
        lambda: every(13, lambda packet: []),
        lambda: every(5, lambda packet: [packet, packet]),
        lambda: lambda burst: burst[1::-1] + burst[2:],
        lambda: lambda burst: burst[::-1],
    ],
    ids=["drops", "repeats", "swaps two", "reverses"],
)
def test_a_bad_network_changes_no_byte(network: Callable[[], Network], windowsize: int) -> None:
    with serving(FILES, network=network()) as server:
        got = fetch(HOST, server.port, "kernel", windowsize=windowsize, retry_s=0.02)
    assert (got.size, got.sha256) == (len(KERNEL), sha(KERNEL))


@pytest.mark.parametrize("windowsize", [1, 16])
def test_dropped_data_is_healed_without_a_storm(windowsize: int) -> None:
    with serving(FILES) as server:
        got = fetch(HOST, server.port, "kernel", windowsize=windowsize, drop_every=20, retry_s=0.02)
    assert got.sha256 == sha(KERNEL)
    blocks = len(KERNEL) // 1428 + 1
    lost = server.data_sent // 20
    assert blocks < server.data_sent <= blocks + (lost + 1) * windowsize
    assert len(server.received) <= 3 + 2 * (blocks // windowsize + 1) + 3 * lost


# probe


def test_a_probe_tells_the_size_and_aborts() -> None:
    with serving(FILES) as server:
        assert probe(HOST, server.port, "kernel") == len(KERNEL)
    assert server.requests == [("kernel", {"tsize": 0, "blksize": 1468, "windowsize": 4})]
    assert server.received == [error(8, "User aborted the transfer")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("ignored", "expected OACK with tsize, got DATA: the server ignores options"),
        ("blksize", "OACK: expected tsize, got none"),
        ("refused", "TFTP error 8: No options here"),
    ],
)
def test_a_probe_of_a_server_that_tells_no_size_fails(options: str, sentence: str) -> None:
    with serving(FILES, options) as server, pytest.raises(RemoteError) as caught:
        probe(HOST, server.port, "kernel")
    assert str(caught.value) == f"tftp://127.0.0.1:{server.port}/kernel: {sentence}"


# load


def test_a_load_makes_exactly_the_transfers_asked_for() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with serving(FILES) as server:
        got = load(HOST, server.port, "kernel", clients=4, transfers=10, windowsize=8, retry_s=0.1)
    assert (got.requests, got.errors, got.bytes) == (10, 0, 10 * len(KERNEL))
    assert 0 < got.p50_s <= got.p99_s <= got.seconds * 1.01
    assert got.cpu_s > 0
    assert len(set(server.peers)) >= 8  # ports the kernel picked at random: a few may meet
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("windowsize", [1, 8])
def test_each_nth_file_is_verified(windowsize: int) -> None:
    with serving(FILES) as server:
        got = load(
            HOST,
            server.port,
            "kernel",
            clients=2,
            transfers=6,
            windowsize=windowsize,
            verify_every=2,
            sha256=sha(KERNEL),
            retry_s=0.1,
        )
    assert (got.requests, got.verified, got.errors) == (6, 3, 0)


def test_a_wrong_file_is_an_error_with_both_digests() -> None:
    with serving(FILES) as server:
        got = load(HOST, server.port, "block", clients=1, transfers=2, verify_every=1, sha256=sha(b"other"))
    assert (got.requests, got.errors) == (0, 2)
    assert got.first_error == (
        f"tftp://127.0.0.1:{server.port}/block: sha256 differs: expected {sha(b'other')}, got {sha(FILES['block'])}"
    )


def test_a_load_with_losses_completes_and_verifies() -> None:
    with serving(FILES) as server:
        got = load(
            HOST,
            server.port,
            "kernel",
            clients=4,
            transfers=4,
            windowsize=8,
            drop_every=15,
            verify_every=1,
            sha256=sha(KERNEL),
            retry_s=0.02,
        )
    assert (got.requests, got.verified, got.errors) == (4, 4, 0)


def test_a_missing_name_is_an_error_of_every_transfer_until_the_client_rests() -> None:
    with serving(FILES) as server:
        got = load(HOST, server.port, "nobody", clients=2, transfers=100)
    assert (got.requests, got.errors) == (0, 6)
    assert got.first_error == f"tftp://127.0.0.1:{server.port}/nobody: TFTP error 1: File not found"


def test_a_silent_server_costs_each_client_its_deadline() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        got = load(HOST, silent.getsockname()[1], "kernel", clients=2, transfers=2, timeout_s=0.05)
    assert (got.requests, got.errors) == (0, 2)
    assert got.first_error.endswith("/kernel: timed out: expected the whole file, got 0")


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"transfers": 0},
        {"blksize": 7},
        {"blksize": 65465},
        {"windowsize": 0},
        {"windowsize": 65536},
        {"verify_every": 1},
        {"sha256": sha(b"")},
        {"name": ""},
        {"name": "a\0b"},
        {"name": "x" * 1025},
        {"retry_s": 0},
        {"timeout_s": 0},
        {"lose": 1.0},
        {"repeat": -0.1},
        {"swap": float("nan")},
    ],
    ids=str,
)
def test_a_load_that_makes_no_sense_is_the_callers_error(wrong: dict[str, object]) -> None:
    fields = {"host": HOST, "port": 69, "name": "x", "clients": 1, "transfers": 1, **wrong}
    with pytest.raises(ValueError, match="expected"):
        load(**fields)  # type: ignore[arg-type]
    for name in ("clients", "transfers", "verify_every", "sha256"):
        fields.pop(name, None)
    if not re.search("clients|transfers|verify|sha256|lose|repeat|swap", str(wrong)):
        with pytest.raises(ValueError, match="expected"):
            fetch(**fields)  # type: ignore[arg-type]
