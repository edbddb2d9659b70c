"""Connections that are handed over and come back: a real reactor, the real forwarder, a small region's real routes.

A machine's one TCP connection fetches files from the reactor and reaches its region through it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from bootplane.control.metadata import REPORT_BYTES
from bootplane.dataplane import proxy
from tests.fakes.handover import KERNEL, MAC, MACHINE, RACK, SECRET, SMALL, Machine, Rack, Site, eventually, post

GET_SMALL = b"GET /bootx64.efi HTTP/1.1\r\nHost: r\r\n\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    it = Site()
    try:
        yield it
    finally:
        it.stop()
    c = it.rack.reactors.counters()
    assert c["http_connections"] - c["http_closed"] - c["http_handed_over"] + c["http_adopted"] == 0, c


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """Nothing of an earlier test, and nothing left behind."""
    running.region.timeline.events.clear()
    running.region.seen.clear()
    running.region.held = 0
    yield running
    running.region.release.set()
    eventually(lambda: running.is_idle)


# -- one connection


def test_one_connection_fetches_files_and_reports_in_turn(site: Site) -> None:
    before = site.counts()
    ticket = site.ticket()
    with site.machine() as machine:
        machine.fetch("/kernel", KERNEL)
        assert machine.get(ticket).body == f"region: region-1\nrack: {RACK}\nmac: {MAC}\naddress: {MACHINE}\n".encode()
        assert machine.post(ticket, {"name": "one"}).status == 204
        machine.fetch("/kernel", KERNEL)
        machine.fetch("/bootx64.efi", SMALL)
        expecting = post(ticket, {"name": "two"}, "Expect: 100-continue")
        head, _, body = expecting.partition(b"\r\n\r\n")
        machine.send(head + b"\r\n\r\n")
        assert machine.response().status == 100
        assert machine.send(body).response().status == 204
        machine.send(post(ticket, {"name": "three"}) + GET_SMALL + post(ticket, {"name": "four"}) + GET_SMALL)
        for expected in (b"", SMALL, b"", SMALL):
            assert machine.response().body == expected
        assert machine.get(ticket).status == 410
        machine.fetch("/kernel", KERNEL)
    assert site.told == [
        ("ticket", "boot", MACHINE, RACK),
        *[("report", name, MACHINE, RACK) for name in ("one", "two", "three", "four")],
    ]
    after = site.counts()
    moved = {name: after[name] - before[name] for name in ("http_connections", "http_handed_over", "http_adopted")}
    assert moved == {"http_connections": 1, "http_handed_over": 6, "http_adopted": 6}


def test_a_long_pipeline_behind_a_report_is_answered_in_order(site: Site) -> None:
    ticket = site.ticket()
    ask = [post(ticket, {"name": f"n{i}", "description": "d" * 900}) + GET_SMALL for i in range(100)]
    with site.machine() as machine:
        sending = threading.Thread(target=machine.send, args=(b"".join(ask),))
        sending.start()
        for _ in range(100):
            assert machine.response().status == 204
            assert machine.response().body == SMALL
        sending.join()
    assert [name for _, name, _, _ in site.told] == [f"n{i}" for i in range(100)]


def test_a_connection_is_given_back_byte_by_byte_too(site: Site) -> None:
    with site.machine() as machine:
        for byte in b"\r\n" + post(site.ticket(), {"name": "slow"}) + GET_SMALL:
            machine.send(bytes([byte]))
        assert (machine.response().status, machine.response().body) == (204, SMALL)


@pytest.mark.parametrize("path", ["/{}", "//{}", "/{}?op=x&y=//z", "http://rack:5248/{}", "http://rack:5248//{}?y"])
def test_every_form_of_a_target_reaches_the_region(site: Site, path: str) -> None:
    with site.machine() as machine:
        ticket = site.ticket().lstrip("/").replace("/boot/", "//boot/" if "//{" in path else "/boot/")
        assert machine.post(path.format(ticket), {"name": "x"}).status == 204
        machine.fetch("/bootx64.efi", SMALL)
    assert site.told == [("report", "x", MACHINE, RACK)]


# -- whose address


def test_what_a_machine_writes_about_addresses_and_racks_goes_no_further(site: Site) -> None:
    lies = ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6", "Bootplane-Rack: " + "00" * 32]
    with site.machine() as machine:
        assert (
            machine.post(site.ticket(), {"name": "x"}, *lies, "Connection: bootplane-rack, x-forwarded-for").status
            == 204
        )
        assert machine.post("/MAAS/test/fields", {}, *lies).status == 200
    assert site.told == [("report", "x", MACHINE, RACK)]
    fields = site.region.seen[0][2]
    assert (fields["x-forwarded-for"], fields["bootplane-rack"]) == (MACHINE, SECRET)
    assert not {"forwarded", "x-real-ip"} & set(fields)


def test_without_a_racks_secret_the_region_believes_its_own_socket(site: Site) -> None:
    port = int(site.region.url.rpartition(":")[2])
    with Machine(port, "127.0.0.9") as liar:
        liar.send(post(site.ticket(), {"name": "x"}, "X-Forwarded-For: 6.6.6.6", "Bootplane-Rack: guess"))
        assert b" 204 " in liar.socket.recv(1000)
    assert site.told == [("report", "x", "127.0.0.9", RACK)]


@pytest.mark.parametrize(("to", "source"), [("127.0.0.1", "127.0.0.5"), ("::1", "::1")])
def test_on_a_socket_for_both_families_each_machine_has_its_usual_address(to: str, source: str) -> None:
    site = Site(host="")
    try:
        if ":" in to and site.rack.reactors._sockets[0].family != socket.AF_INET6:
            pytest.skip("this host has no IPv6")
        ticket = site.ticket()
        with Machine(site.rack.port, source, to) as machine:
            machine.fetch("/bootx64.efi", SMALL)
            assert machine.post(ticket, {"name": "x"}).status == 204
            assert f"\naddress: {source}\n".encode() in machine.get(ticket).body
        assert site.told == [("report", "x", source, RACK), ("ticket", "boot", source, RACK)]
    finally:
        site.stop()


# -- who asks


def test_a_client_of_http_1_0_is_answered_and_closed(site: Site) -> None:
    ticket = site.ticket()
    with site.machine() as machine:
        machine.send(post(ticket, {"name": "old"}, version="1.0"))
        assert machine.response().status == 204
        assert machine.end() == "closed"
    with site.machine() as machine:
        machine.send(b"GET " + ticket.encode() + b" HTTP/1.0\r\n\r\n")  # and no Host
        assert machine.response().body.startswith(b"region: ")
        assert machine.end() == "closed"
    assert [event[:3] for event in site.told] == [("report", "old", MACHINE), ("ticket", "boot", MACHINE)]


def test_a_client_of_http_1_0_that_wants_to_stay_gets_its_file_too(site: Site) -> None:
    """h11 closes after HTTP/1.0, whatever was asked for; the client is told so."""
    with site.machine() as machine:
        machine.send(post(site.ticket(), {"name": "old"}, "Connection: keep-alive", version="1.0"))
        answer = machine.response()
        assert (answer.status, answer.headers["connection"], machine.end()) == (204, "close", "closed")


def test_a_report_in_chunks_arrives_whole(site: Site) -> None:
    with site.machine() as machine:
        machine.send(f"POST {site.ticket()} HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for part in (b'{"na', b'me": "in ', b'parts"}'):
            machine.send(b"%x;ext=1\r\n%s\r\n" % (len(part), part))
        machine.send(b"0\r\nX-Trailer: 1\r\n\r\n" + GET_SMALL)
        assert (machine.response().status, machine.response().body) == (204, SMALL)
    assert site.told == [("report", "in parts", MACHINE, RACK)]


def test_a_head_uses_no_ticket_and_the_connection_stays(site: Site) -> None:
    ticket = site.ticket()
    with site.machine() as machine:
        answer = machine.get(ticket, method="HEAD")
        assert (answer.status, machine.buffer) == (200, b"")
        assert machine.get(ticket).headers["content-length"] == answer.headers["content-length"]
        assert machine.get(ticket, method="HEAD").status == 410
        machine.fetch("/bootx64.efi", SMALL)


def test_cloud_inits_webhook_reports_a_boot(site: Site) -> None:
    """As python-requests sends it: a connection each, head and body in two packets, no Content-Type."""
    ticket = site.ticket()
    for n in range(60):
        report = {
            "name": f"init-network/config-{n}", "description": "running", "event_type": "finish", "origin": "cloudinit",
            "timestamp": 1700000000.5 + n, "result": "SUCCESS",
        }  # fmt: skip
        oauth = (
            'OAuth oauth_nonce="1", oauth_version="1.0", oauth_signature_method="PLAINTEXT", oauth_signature="%26ts"'
        )
        whole = post(
            "/" + ticket, report, "User-Agent: python-requests/2.28.1", "Accept-Encoding: gzip, deflate", "Accept: */*",
            "Connection: keep-alive", f"Authorization: {oauth}",
        )  # fmt: skip
        head, _, body = whole.partition(b"\r\n\r\n")
        with site.machine() as machine:
            machine.send(head + b"\r\n\r\n")
            assert machine.send(body).response().status == 204
    assert [(event.name, event.outcome) for event in site.region.timeline.events] == [
        (f"init-network/config-{n}", "SUCCESS") for n in range(60)
    ]


def test_ipxe_posts_a_form_is_told_no_and_goes_on_with_its_connection(site: Site) -> None:
    with site.machine() as machine:
        machine.fetch("/bootx64.efi", SMALL)
        machine.send(
            post(
                site.ticket(), b"mac=52:54:00:77:00:01&name=up", "Connection: keep-alive", "User-Agent: iPXE/1.0.0+",
                "Content-Type: application/x-www-form-urlencoded",
            )
        )  # fmt: skip
        assert machine.response().status == 415
        machine.fetch("/kernel", KERNEL)
    assert site.told == []


@pytest.mark.parametrize(
    "command",
    [
        ["busybox", "wget", "-q", "-O", "-", "--post-data", '{"name": "up"}'],
        ["curl", "-fsS", "-d", '{"name": "up"}'],
        ["curl", "-fsS", "-0", "-d", '{"name": "up"}'],
        ["curl", "-fsS", "-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked", "-d", '{"name": "up"}'],
    ],
    ids=["busybox wget", "curl", "curl -0", "curl, chunks"],
)
def test_stock_clients_use_a_ticket_and_report(site: Site, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not on this machine")
    url = f"http://127.0.0.1:{site.rack.port}{site.ticket()}"
    getting = ["busybox", "wget", "-q", "-O", "-"] if command[0] == "busybox" else ["curl", "-fsS"]
    got = subprocess.run([*getting, url], capture_output=True, check=True, timeout=60)
    assert got.stdout.startswith(b"region: region-1\nrack: ")
    subprocess.run([*command, url], capture_output=True, check=True, timeout=60)
    assert site.told == [("ticket", "boot", "127.0.0.1", RACK), ("report", "up", "127.0.0.1", RACK)]
    assert subprocess.run([*getting, url], capture_output=True, check=False, timeout=60).returncode != 0


# -- limits


def test_a_report_over_the_regions_limit_is_413_and_the_connection_stays(site: Site) -> None:
    with site.machine() as machine:
        for size in (REPORT_BYTES + 1, 1 << 20):
            machine.send(post(site.ticket(), b"x" * size))
            answer = machine.response()
            assert (answer.status, answer.body) == (413, b"boot report: expected at most 65536 bytes, got more\n")
        machine.fetch("/bootx64.efi", SMALL)


def test_a_body_over_the_racks_limit_is_413_and_never_leaves_the_rack(site: Site) -> None:
    with site.machine() as machine:
        machine.send(post("/MAAS/test/x", b"x" * (proxy.BODY_BYTES + 1)))
        assert (machine.response().status, machine.end()) == (413, "closed")
    assert site.region.seen == []


def test_one_machines_held_requests_leave_room_for_another(site: Site) -> None:
    site.region.release.clear()
    held = [site.machine() for _ in range(proxy.MAX_PER_ADDRESS)]
    for machine in held:
        machine.send(b"GET /MAAS/test/held HTTP/1.1\r\nHost: r\r\n\r\n")
    eventually(lambda: site.region.held == proxy.MAX_PER_ADDRESS)
    with site.machine() as more, site.machine("127.0.0.3") as other:
        answer = more.get("/MAAS/test/held")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        more.fetch("/bootx64.efi", SMALL)  # its files it gets, and on the same connection
        assert other.post(site.ticket(), {"name": "x"}).status == 204
    site.region.release.set()
    for machine in held:
        assert machine.response().body == b"let go"
        machine.fetch("/bootx64.efi", SMALL)
        machine.socket.close()


# -- what goes wrong


def test_a_streamed_answer_has_an_end_that_can_be_told_from_a_cut(site: Site) -> None:
    with site.machine() as machine:
        assert machine.get("/MAAS/test/stream").body == b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n"
        machine.fetch("/bootx64.efi", SMALL)
    with site.machine() as machine:
        machine.send(b"GET /MAAS/test/cut HTTP/1.1\r\nHost: r\r\n\r\n")
        assert machine.head().status == 200
        assert machine.rest()[1] == "reset"
    with site.machine() as machine:
        machine.send(b"GET /MAAS/test/stream HTTP/1.0\r\n\r\n")
        assert machine.head().status == 200
        assert machine.rest() == (7, "closed")
    with site.machine() as machine:  # its body ends with the connection: the end must not look like one
        machine.send(b"GET /MAAS/test/cut HTTP/1.0\r\n\r\n")
        assert machine.head().status == 200
        assert machine.rest()[1] == "reset"


@pytest.mark.parametrize("keeps_half", [False, True])
def test_a_machine_that_vanishes_inside_a_body_leaves_nothing(site: Site, keeps_half: bool) -> None:
    machine = site.machine()
    machine.send(post(site.ticket(), {"name": "x"})[:-3])
    eventually(lambda: not site.is_idle)
    if keeps_half:
        machine.socket.shutdown(socket.SHUT_WR)
        assert machine.response().status == 400
        machine.socket.close()
    else:
        machine.abort()
    eventually(lambda: site.is_idle)
    assert site.told == []


def test_a_machine_that_vanishes_while_the_region_thinks_leaves_nothing(site: Site) -> None:
    site.region.release.clear()
    machines = [site.machine() for _ in range(proxy.MAX_PER_ADDRESS)]
    for machine in machines:
        machine.send(b"GET /MAAS/test/held HTTP/1.1\r\nHost: r\r\n\r\n")
    eventually(lambda: site.region.held == proxy.MAX_PER_ADDRESS)
    for machine in machines:
        machine.abort()
    site.region.release.set()
    eventually(lambda: site.is_idle)
    with site.machine() as machine:
        assert machine.get("/MAAS/test/held").body == b"let go"


def test_a_machine_that_sends_no_more_gets_its_answer(site: Site) -> None:
    with site.machine() as machine:
        machine.send(post(site.ticket(), {"name": "last words"}) + GET_SMALL)
        machine.socket.shutdown(socket.SHUT_WR)
        assert (machine.response().status, machine.response().body, machine.end()) == (204, SMALL, "closed")
    assert site.told == [("report", "last words", MACHINE, RACK)]


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 0",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 5 5",
        "Content-Length:\x0b5",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\n chunked",
        "X: y\nContent-Length: 5",
    ],
)
def test_a_framing_that_can_be_read_in_two_ways_ends_the_connection(site: Site, framing: str) -> None:
    hidden = f"0\r\n\r\nGET {site.ticket()} HTTP/1.1\r\nHost: r\r\n\r\n"
    with site.machine() as machine:
        machine.send(f"POST {site.ticket()} HTTP/1.1\r\nHost: r\r\n{framing}\r\n\r\n{hidden}".encode())
        answer = machine.response()
        assert answer.status in (400, 501), answer
        assert machine.end() == "closed"
    assert site.told == []


def test_a_request_inside_a_body_is_part_of_the_body(site: Site) -> None:
    hidden = f"GET {site.ticket()} HTTP/1.1\r\nHost: r\r\n\r\n".encode()
    with site.machine() as machine:
        for size in range(1, len(hidden)):
            machine.send(post("/MAAS/test/held", hidden[:size]) + GET_SMALL)
            assert machine.response().body == b"let go"
            assert machine.response().body == SMALL
    assert (site.told, len(site.region.seen)) == ([], len(hidden) - 1)


def test_a_region_that_is_gone_costs_a_503_and_no_connection() -> None:
    rack = Rack("http://127.0.0.1:9")
    try:
        with Machine(rack.port) as machine:
            answer = machine.post("/MAAS/metadata/boot/x", {"name": "x"})
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert answer.body.startswith(b"no region can be reached: http://127.0.0.1:9: ")
            machine.fetch("/bootx64.efi", SMALL)
    finally:
        rack.stop()
