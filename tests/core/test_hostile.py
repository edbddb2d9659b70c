"""Hostile datagrams and requests to one reactor: it answers what must be answered, and keeps nothing of any of them."""

from __future__ import annotations

import hashlib
import random
import threading

import pytest

from bootplane.core import http_load, http_record, tftp_load
from bootplane.core.blob import Blob
from tests.fakes import http_client, tftp_client
from tests.fakes.hostile import storm_http, storm_tftp

COUNT = 3000
KERNEL = random.Random(5).randbytes(300_001)
SHA = hashlib.sha256(KERNEL).hexdigest()
NAMES = ("kernel", "grubx64.efi", "nobody")


@pytest.mark.usefixtures("nothing_leaks")
def test_datagrams_of_any_kind_disturb_no_transfer_and_leave_nothing_behind() -> None:
    with tftp_client.serving({"kernel": KERNEL, "grubx64.efi": KERNEL[:7000]}) as rack:
        storming = threading.Event()
        verified = []

        def transfer() -> None:
            while not verified or storming.is_set():
                got = tftp_load.load(
                    *rack.address, "kernel", clients=4, transfers=8, windowsize=8, verify_every=1, sha256=SHA
                )
                verified.append((got.errors, got.verified, got.first_error))

        storming.set()
        machines = threading.Thread(target=transfer)
        machines.start()
        try:
            tally = storm_tftp(rack.address, NAMES, COUNT, seed=1)
        finally:
            storming.clear()
            machines.join()
        assert set(verified) == {(0, 8, "")}
        assert tally.sent >= COUNT
        assert tally.wrong > COUNT // 10
        counters = rack.counters()
        looked_up = ("names_found", "names_dynamic", "names_unknown")
        assert counters["lookups"] == sum(counters[name] for name in looked_up)


@pytest.mark.usefixtures("nothing_leaks")
def test_requests_of_any_kind_disturb_no_transfer_and_leave_nothing_behind() -> None:
    blocks = http_record.blocks()
    files = {"kernel": Blob.memory(KERNEL, dynamic=False), "grubx64.efi": Blob.memory(KERNEL[:7000], dynamic=False)}
    with http_client.rack(files, control=0) as rack:
        storming = threading.Event()
        verified = []

        def transfer() -> None:
            while not verified or storming.is_set():
                got = http_load.load(
                    "127.0.0.1", rack.port, "/kernel", connections=4, requests=40, verify_every=1, sha256=SHA
                )
                verified.append((got.errors, got.verified, got.first_error))

        storming.set()
        machines = threading.Thread(target=transfer)
        machines.start()
        try:
            address = ("127.0.0.1", rack.port)
            tally = storm_http(address, NAMES, COUNT, 1, lambda: rack.count("http_requests") - rack.count("http_ok"))
        finally:
            storming.clear()
            machines.join()
        assert set(verified) == {(0, 40, "")}
        assert tally.read >= COUNT
        rack.wait_for("http_closed", rack.count("http_connections"))
    files.clear()
    assert http_record.blocks() == blocks
