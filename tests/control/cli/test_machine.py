"""machine list and machine timeline: a boot in words, the same for every eye."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.api import schemas
from bootplane.control.cli import boot_view

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "machine-timeline.txt"
MAC = "52:54:00:77:00:01"
PATH = f"GET /machines/{MAC.replace(':', '%3A')}/timeline?limit=500"
IMAGE = "images/0123456789abcdef/ubuntu/amd64/ga-24.04/noble/stable"


def event(number: int, at: str, kind: str, name: str, outcome: str, **detail: Any) -> dict[str, Any]:
    return {
        "id": number,
        "at": f"2026-11-21T{at}Z",
        "kind": kind,
        "mac": MAC,
        "address": "10.77.0.9",
        "rack": "r1a2b3c4d",
        "name": name,
        "outcome": outcome,
        "detail": detail,
    }


def tftp(number: int, at: str, name: str, outcome: str, **detail: Any) -> dict[str, Any]:
    return event(number, at, "transfer", name, outcome, protocol="tftp", port=25300, **detail)


def web(number: int, at: str, name: str, outcome: str, **detail: Any) -> dict[str, Any]:
    return event(number, at, "transfer", name, outcome, protocol="http", port=50123, reused=1, **detail)


UEFI_AT = "tftp      UEFI      bootx64.efi"
UEFI = {"blksize": 1468, "windowsize": 4}
SHIM = {"blksize": 512, "windowsize": 4}
GRUB = {"blksize": 1024, "windowsize": 1}
CONFIG = f"grub/grub.cfg-{MAC}"
NOTHING = "no bootable image is here"
LOADER = {"size": 960_000, "source": "hit", **UEFI}
LOSSY = {"packets": 8532, "retransmits": 1025, "duplicate_acks": 516, "source": "miss", **SHIM}
ROOT = {"size": 404_000_000}
EVENTS = [
    web(1, "09:10:00.000", "ipxe.cfg", "complete", status=200, size=700, sent=700, source="dynamic", agent="iPXE/1.21"),
    event(2, "09:10:00.001", "config", "ipxe.cfg", "next", protocol="http"),
    event(3, "09:10:00.200", "config", f"ipxe.cfg-{MAC}", "nothing", protocol="http", why=NOTHING),
    tftp(10, "10:00:05.123", "bootx64.efi", "probe", status=8, **LOADER),
    tftp(11, "10:00:05.200", "bootx64.efi", "complete", seconds=0.4123, sent=960_000, packets=654, **LOADER),
    tftp(12, "10:00:06.000", "revocations_sku.efi", "refused", status=1),
    tftp(13, "10:00:06.500", "grubx64.efi", "complete", seconds=8.1, size=3_843_456, sent=3_843_456, **LOSSY),
    tftp(14, "10:00:15.000", "grub/x86_64-efi/command.lst", "complete", size=0, source="hit", **GRUB),
    event(15, "10:00:15.210", "config", CONFIG, "boots", protocol="tftp", boots="Ubuntu 24.04 LTS (amd64)"),
    tftp(16, "10:00:15.200", CONFIG, "complete", seconds=0.013, size=1310, sent=1310, source="dynamic", **GRUB),
    tftp(
        17, "10:00:16.000", f"{IMAGE}/boot-kernel", "aborted", seconds=3.0, size=14_900_000, sent=2_097_152,
        source="coalesced", **GRUB,
    ),
    web(18, "10:00:20.000", f"{IMAGE}/squashfs", "complete", status=200, head=True, agent="UefiHttpBoot/1.0", **ROOT),
    web(
        19, "10:00:21.000", f"{IMAGE}/squashfs", "complete", seconds=92.0, status=206, offset=1_048_576,
        sent=202_000_000, source="miss", agent="Wget/1.36", **ROOT,
    ),
    web(20, "10:01:55.000", f"{IMAGE}/nothing", "refused", status=404, agent="curl/7.88.1"),
    web(21, "10:01:55.100", f"{IMAGE}/squashfs", "refused", status=503, agent=""),
    web(22, "10:01:55.200", f"{IMAGE}/squashfs", "cut", seconds=20, status=200, sent=1_048_576, source="miss", **ROOT),
    event(23, "10:02:20.000", "ticket", "boot ticket", "claimed"),
    event(24, "10:02:30.000", "report", "modules-final", "finish", description="running modules", result="SUCCESS"),
]  # fmt: skip
MACHINE = {
    "id": MAC,
    "mac": MAC,
    "address": "10.77.0.9",
    "rack": "r1a2b3c4d",
    "seen": "2026-11-21T10:02:30.000Z",
    "kind": "report",
    "name": "modules-final",
    "outcome": "finish",
}
DOCUMENT = {"machine": MACHINE, "events": EVENTS, "next": None, "now": "2026-11-21T10:02:42.000Z"}


@pytest.fixture(autouse=True)
def known(region) -> None:
    region.answers[PATH] = copy.deepcopy(DOCUMENT)
    region.answers["GET /machines"] = {"items": [MACHINE], "next": None}


def test_the_fake_region_gives_documents_of_the_api() -> None:
    schemas.BootTimeline.model_validate(DOCUMENT)
    schemas.Machine.model_validate(MACHINE)


def test_a_timeline_is_a_table_for_each_boot_and_a_sentence(bootplane) -> None:
    result = bootplane("machine", "timeline", MAC)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == GOLDEN.read_text(encoding="utf-8")


def test_json_is_the_apis_document(bootplane) -> None:
    assert json.loads(bootplane("machine", "timeline", MAC, "--json").stdout) == DOCUMENT


def test_since_is_asked_of_the_region_and_all_pages_are_read(bootplane, region) -> None:
    first, second = EVENTS[:8], EVENTS[8:]
    region.answers[f"{PATH}&since=10m"] = {**DOCUMENT, "events": second, "next": "1.5_7"}
    region.answers[f"{PATH}&since=10m&after=1.5_7"] = {**DOCUMENT, "events": first, "next": None}
    document = json.loads(bootplane("machine", "timeline", MAC, "--since", "10m", "--json").stdout)
    assert document["events"] == EVENTS and document["next"] is None


def test_older_events_are_left_out_with_a_remark(bootplane, region) -> None:
    region.answers[PATH] = {**DOCUMENT, "next": "1.5_7"}
    result = bootplane("machine", "timeline", MAC)
    assert result.stderr == "These are the last 500 events; --since 1d shows all of a day.\n"


def test_a_time_in_which_nothing_happened_says_when_something_did(bootplane, region) -> None:
    region.answers[f"{PATH}&since=1m"] = {**DOCUMENT, "events": []}
    assert bootplane("machine", "timeline", MAC, "--since", "1m").stdout == (
        f"Nothing in that time; the last event of {MAC} was at 2026-11-21T10:02:30.000Z.\n"
    )


def test_a_machine_nobody_knows_is_the_regions_sentence(bootplane, region) -> None:
    region.problem(PATH, 404, f"machine {MAC}: no rack of this region has told anything of it")
    result = bootplane("machine", "timeline", MAC)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"bootplane: machine {MAC}: no rack of this region has told anything of it\n"


def test_what_a_machine_says_cannot_move_the_cursor(bootplane, region) -> None:
    hostile = [{**event(1, "10:00:00.000", "report", "x\x1b[2J", "[bold]y\n", description="\x07"), "address": "\x1b[H"}]
    region.answers[PATH] = {**DOCUMENT, "events": hostile}
    text = bootplane("machine", "timeline", MAC).stdout
    assert "\x1b" not in text and "\x07" not in text and "[bold]y" in text
    assert len(text.splitlines()) == 5  # heading, columns, the event, a gap, the sentence


def test_machines_are_listed_with_what_they_did_last(bootplane) -> None:
    assert [line.split() for line in bootplane("machine", "list").stdout.splitlines()] == [
        ["MACHINE", "ADDRESS", "RACK", "SEEN", "LAST"],
        [MAC, "10.77.0.9", "r1a2b3c4d", "2026-11-21T10:02:30.000Z", "report,", "modules-final,", "finish"],
    ]
    assert json.loads(bootplane("machine", "list", "--json").stdout)["items"] == [MACHINE]


def test_an_empty_list_says_what_that_means(bootplane, region) -> None:
    region.answers["GET /machines"] = {"items": [], "next": None}
    assert "none has asked a rack of this region for anything" in bootplane("machine", "list").stderr


def stream(*news: tuple[str, Any]) -> tuple[int, str, bytes]:
    lines = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in (("sync", {}), *news))
    return 200, "text/event-stream", lines.encode()


def test_following_prints_what_was_not_shown_yet_and_late_names_too(bootplane, region) -> None:
    ours, others = ("machines", {"ids": [MAC]}), ("machines", {"ids": ["10.0.0.1"]})
    many = ("machines", {"ids": None})
    region.answers["GET /events"] = stream(others, ("sync", {}), ours, ("racks", {}), many)
    region.answers[PATH] = [
        {**DOCUMENT, "events": [EVENTS[0], EVENTS[4]]},
        {**DOCUMENT, "events": [EVENTS[0], EVENTS[3], EVENTS[4]]},  # the probe got its MAC late
        {**DOCUMENT, "events": [EVENTS[0], EVENTS[3], EVENTS[4], EVENTS[5]]},
    ]
    result = bootplane("machine", "timeline", MAC, "--follow")
    assert result.stdout.splitlines() == [
        "-- boot of 2026-11-21 09:10:00Z, at 10.77.0.9, rack r1a2b3c4d --",
        "09:10:00.000      +0.0  http      iPXE      ipxe.cfg  700 B at once, made for it  complete",
        "-- boot of 2026-11-21 10:00:05Z, at 10.77.0.9, rack r1a2b3c4d --",
        "10:00:05.200      +0.0  tftp      UEFI      bootx64.efi  937.5 KiB in 412 ms, blksize 1468 w4, hit  complete",
        f"10:00:05.123      +0.0  {UEFI_AT}  asked for the size: 937.5 KiB, blksize 1468 w4  probe",
        "10:00:06.000      +0.9  tftp      shim      revocations_sku.efi  not found  refused",
    ]
    assert (result.exit_code, "ended the event stream" in result.stderr) == (1, True)
    assert len([call for call in region.calls if "timeline" in call.path]) == 3


def test_following_waits_for_a_machine_that_has_not_come_yet(bootplane, region) -> None:
    region.answers["GET /events"] = stream(("machines", {"ids": ["10.0.0.1"]}), ("machines", {"ids": [MAC]}))
    problem = (404, "application/problem+json", b'{"detail": "nobody"}')
    region.answers[PATH] = [problem, problem, {**DOCUMENT, "events": EVENTS[:1]}]
    result = bootplane("machine", "timeline", MAC, "--follow", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == EVENTS[:1]
    assert result.stderr.splitlines()[0] == f"Nothing is known of {MAC} yet; waiting for it."


def test_following_nonsense_is_a_failure_at_once(bootplane, region) -> None:
    region.answers["GET /events"] = stream()
    region.problem("GET /machines/kiruna/timeline?limit=500", 400, "machine: expected a MAC, got 'kiruna'")
    result = bootplane("machine", "timeline", "kiruna", "--follow")
    assert (result.exit_code, result.stderr) == (1, "bootplane: machine: expected a MAC, got 'kiruna'\n")


# -- the words, one by one

NOW = boot_view.seconds("2026-11-21T10:02:42.000Z")


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (EVENTS[4], "UEFI fetched bootx64.efi, complete"),
        (EVENTS[3], "UEFI asked for the size of bootx64.efi"),
        (EVENTS[5], "shim asked for revocations_sku.efi, refused (not found)"),
        (EVENTS[10], "GRUB gave up boot-kernel after 2.0 MiB of 14.2 MiB"),
        (EVENTS[13], "curl asked for nothing, refused (not found)"),
        (EVENTS[14], "the machine asked for squashfs, refused (503 service unavailable)"),
        (EVENTS[15], "the rack could give the machine no more than 1.0 MiB of 385.3 MiB of squashfs"),
        (
            tftp(1, "10:00:00.000", "x", "timeout", seconds=5.0, size=100, sent=50, blksize=1408, windowsize=1),
            "PXELINUX fell silent after 50 B of 100 B of x",
        ),
        (EVENTS[2], f"the region gave ipxe.cfg-{MAC}: no bootable image is here"),
        (EVENTS[8], f"the region gave grub/grub.cfg-{MAC}, which boots Ubuntu 24.04 LTS (amd64)"),
        (EVENTS[16], "the machine's boot ticket was claimed"),
    ],
)
def test_where_a_boot_stands_is_one_sentence(last: dict[str, Any], sentence: str) -> None:
    assert boot_view.standing([last], boot_view._ended(last) + 12) == (
        f"Last: {sentence}, 12 s ago; the machine has not reported."
    )


def test_what_was_reported_is_said_where_it_is_not_the_last(bootplane) -> None:
    report = EVENTS[-1]
    assert boot_view.standing(EVENTS, NOW) == "Last: the machine reported modules-final (finish), 12 s ago."
    later = tftp(99, "10:02:40.000", "x", "complete", size=1, sent=1, blksize=512, windowsize=1)
    assert boot_view.standing([report, later], NOW) == (
        "Last: the machine fetched x, complete, 2 s ago; its last report was modules-final (finish)."
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (web(1, "10:00:00.000", "x", "aborted", seconds=1, status=206, sent=1024, offset=7, **ROOT),
         "1.0 KiB in 1.0 s, 206, from byte 7"),
        (web(1, "10:00:00.000", "x", "aborted", seconds=1, status=200, sent=1024, **ROOT),
         "1.0 KiB of 385.3 MiB in 1.0 s"),
        (web(1, "10:00:00.000", "x", "complete", status=304, **ROOT), "304, it has it"),
        (web(1, "10:00:00.000", "x", "refused", status=799), "status 799"),
        (tftp(1, "10:00:00.000", "x", "refused", status=5), "ERROR 5"),
        (tftp(1, "10:00:00.000", "x", "aborted", status=4, size=10, blksize=512),
         "0 B of 10 B at once, ERROR 4, blksize 512"),
        (tftp(1, "10:00:00.000", "x", "timeout", sent=5, duplicate_acks=1), "5 B at once, 1 duplicate ACK"),
        (tftp(1, "10:00:00.000", "x", "probe"), "asked for the size"),
        (web(1, "10:00:00.000", "x", "complete", status=200, head=True), "HEAD"),
        (tftp(1, "10:00:00.000", "x", "refused", status=1, uuid="a-b"), "not found, UUID a-b"),
        (event(1, "10:00:00.000", "report", "up", ""), ""),
    ],
)  # fmt: skip
def test_a_transfer_says_what_is_true_of_it(found: dict[str, Any], words: str) -> None:
    assert boot_view.what(found) == words


def test_a_boot_ends_with_five_quiet_minutes_counted_from_the_end_of_a_transfer() -> None:
    long = web(1, "10:00:00.000", "squashfs", "complete", seconds=600.0, size=1, sent=1)
    near = tftp(2, "10:15:00.000", "x", "complete")
    far = tftp(3, "10:20:00.001", "y", "complete")
    assert boot_view.boots([far, near, long]) == [[long, near], [far]]


@pytest.mark.parametrize(
    ("found", "program"),
    [
        (web(1, "10:00:00.000", "x", "complete", agent="Syslinux/6.04"), "PXELINUX"),
        (web(1, "10:00:00.000", "x", "complete", agent="GRUB 2.06-13"), "GRUB"),
        (web(1, "10:00:00.000", "x", "complete", agent="Cloud-Init/22.4.2"), "Cloud-Init"),
        (tftp(1, "10:00:00.000", "pxelinux.cfg/default", "refused", status=1), "PXELINUX"),
        (tftp(1, "10:00:00.000", "ldlinux.c32", "complete", blksize=1408, windowsize=1), "PXELINUX"),
        (tftp(1, "10:00:00.000", "x", "complete", blksize=1432, windowsize=1), "iPXE"),
        (tftp(1, "10:00:00.000", "grubx64.efi", "complete", blksize=512, windowsize=4), "shim"),
        (tftp(1, "10:00:00.000", "x", "complete", blksize=512, windowsize=1), ""),
        (event(1, "10:00:00.000", "config", "grub/grub.cfg", "next"), ""),
    ],
)
def test_who_fetched_is_named_by_what_it_is_known_to_send(found: dict[str, Any], program: str) -> None:
    assert boot_view.who(found) == program
