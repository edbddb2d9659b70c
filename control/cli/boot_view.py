"""A boot timeline in words: which events make one boot, what each of them says, and where the boot stands.

Pure text out of the API's documents. Who fetched a file is read from the User-Agent, for TFTP from the name and the
options that firmware and loaders are known to send; where that says nothing, nobody is named.
"""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from bootplane.control.cli import figures

Event = dict[str, Any]  # one of the API's "events"

GAP_S = 5 * 60.0  # of silence: what comes after it is another boot
TFTP_ERRORS = {1: "not found", 2: "access violation", 4: "illegal operation", 8: "options refused"}
AGENTS = (("uefihttpboot", "UEFI"), ("grub", "GRUB"), ("ipxe", "iPXE"), ("syslinux", "PXELINUX"))
BLKSIZES = {1432: "iPXE", 1408: "PXELINUX", 1024: "GRUB"}
WINDOWED = {1468: "UEFI", 512: "shim"}  # both ask for windows of 4; a plain client may ask for these sizes without


def boots(events: Iterable[Event]) -> list[list[Event]]:
    """The events of each boot, the oldest first."""
    found: list[list[Event]] = []
    quiet_since = float("-inf")
    for event in sorted(events, key=lambda event: (event["at"], event["id"])):
        if seconds(event["at"]) - quiet_since > GAP_S:
            found.append([])
        found[-1].append(event)
        quiet_since = max(quiet_since, _ended(event))
    return found


def heading(boot: Sequence[Event]) -> str:
    first = boot[0]
    places = ", ".join(dict.fromkeys(event["address"] for event in boot if event["address"]))
    racks = ", ".join(dict.fromkeys(event["rack"] for event in boot if event["rack"]))
    return f"-- boot of {first['at'][:10]} {first['at'][11:19]}Z, at {places or 'no address'}, rack {racks or '-'} --"


def cells(event: Event, began: float) -> tuple[str, str, str, str, str, str, str]:
    """Time, seconds since the boot began, protocol or kind, by whom, name, what, outcome."""
    kind = event["kind"]
    protocol = event["detail"].get("protocol", "") if kind == "transfer" else kind
    return (
        event["at"][11:23],
        f"+{seconds(event['at']) - began:.1f}",
        protocol,
        who(event),
        event["name"],
        what(event),
        event["outcome"],
    )


def what(event: Event) -> str:
    """What happened, with its figures."""
    detail = event["detail"]
    if event["kind"] == "transfer":
        return _transfer(event["outcome"], detail)
    if event["kind"] == "config":
        if "boots" in detail:
            return f"boots {detail['boots']}"
        return str(detail.get("why", "leads to another"))
    if event["kind"] == "ticket":
        return "boot ticket"
    said = [str(detail[key]) for key in ("description", "result") if detail.get(key)]
    return ", ".join(dict.fromkeys(said))


def who(event: Event) -> str:
    """The program that fetched, or "" when it does not show."""
    if event["kind"] != "transfer":
        return ""
    detail, name = event["detail"], event["name"].lower()
    if detail.get("protocol") == "http":
        agent = str(detail.get("agent", ""))
        for begin, program in AGENTS:
            if agent.lower().startswith(begin):
                return program
        return agent.partition("/")[0].partition(" ")[0]
    if event["outcome"] == "probe" and detail.get("status") == 8:
        return "UEFI"
    file = name.rpartition("/")[2]
    if file.endswith(".lst") or file.startswith("grub.cfg"):
        return "GRUB"
    if file.startswith(("revocations_", "shim_certificate_")):
        return "shim"
    if "pxelinux.cfg/" in name or file.endswith(".c32"):
        return "PXELINUX"
    blksize = detail.get("blksize", 0)
    return WINDOWED.get(blksize, "") if detail.get("windowsize", 1) > 1 else BLKSIZES.get(blksize, "")


def standing(boot: Sequence[Event], now: float) -> str:
    """Where the boot stands, in one sentence."""
    last = max(boot, key=lambda event: (_ended(event), event["id"]))
    reports = [event for event in boot if event["kind"] == "report"]
    if last["kind"] == "report":
        tail = ""
    elif reports:
        tail = f"; its last report was {_report(reports[-1])}"
    else:
        tail = "; the machine has not reported"
    return f"Last: {_did(last)}, {figures.duration(max(now - _ended(last), 0))} ago{tail}."


def seconds(time: str) -> float:
    """Unix seconds of a time of the API."""
    return datetime.fromisoformat(time).timestamp()


def _ended(event: Event) -> float:
    return seconds(event["at"]) + float(event["detail"].get("seconds", 0.0))


def _transfer(outcome: str, detail: dict[str, Any]) -> str:
    is_http = detail.get("protocol") == "http"
    status, sent = detail.get("status", 0), detail.get("sent", 0)
    size = detail.get("size", -1)  # left out when it is not known
    parts: list[str] = []
    if outcome == "probe":
        parts.append("asked for the size" + (f": {figures.size(size)}" if size >= 0 else ""))
    elif outcome == "refused":
        parts.append(_refusal(status, is_http))
    elif detail.get("head"):
        parts.append("HEAD" + (f", {figures.size(size)}" if size >= 0 else ""))
    elif is_http and status == 304:
        parts.append("304, it has it")
    else:
        # A Range ends where the machine wanted it to: the whole size says nothing then.
        is_whole = outcome == "complete" or size < 0 or status == 206
        parts.append(figures.size(sent) + ("" if is_whole else f" of {figures.size(size)}") + _took(detail))
        if is_http and status not in (0, 200):
            parts.append(str(status))
        elif not is_http and status:
            parts.append(f"ERROR {status}")
    if detail.get("offset"):
        parts.append(f"from byte {detail['offset']}")
    if detail.get("blksize"):
        window = detail.get("windowsize", 1)
        parts.append(f"blksize {detail['blksize']}" + (f" w{window}" if window > 1 else ""))
    if detail.get("retransmits"):
        parts.append(f"{detail['retransmits']} resent")
    if detail.get("duplicate_acks"):
        parts.append(figures.count(detail["duplicate_acks"], "duplicate ACK"))
    if detail.get("source") and outcome not in ("probe", "refused"):
        parts.append("made for it" if detail["source"] == "dynamic" else detail["source"])
    if detail.get("uuid"):
        parts.append(f"UUID {detail['uuid']}")
    return ", ".join(parts)


def _refusal(status: int, is_http: bool) -> str:
    if not is_http:
        return TFTP_ERRORS.get(status, f"ERROR {status}")
    try:
        return f"{status} {http.HTTPStatus(status).phrase.lower()}" if status != 404 else "not found"
    except ValueError:
        return f"status {status}"


def _took(detail: dict[str, Any]) -> str:
    took = float(detail.get("seconds", 0.0))
    if took < 0.001:
        return " at once"
    if took < 1:
        return f" in {took * 1000:.0f} ms"
    return f" in {took:.1f} s" if took < 60 else f" in {figures.duration(took)}"


def _did(event: Event) -> str:
    detail, name = event["detail"], event["name"].rpartition("/")[2] or event["name"] or "a file"
    if event["kind"] == "config":
        given = f"the region gave {event['name']}"
        if "boots" in detail:
            return f"{given}, which boots {detail['boots']}"
        return f"{given}: {detail['why']}" if "why" in detail else given
    if event["kind"] == "ticket":
        return f"the machine's boot ticket was {event['outcome'] or 'used'}"
    if event["kind"] == "report":
        return f"the machine reported {_report(event)}"
    program, outcome = who(event) or "the machine", event["outcome"]
    got = (
        f"{figures.size(detail.get('sent', 0))} of {figures.size(detail['size'])}" if "size" in detail else "some of it"
    )
    sentences = {
        "complete": f"{program} fetched {name}, complete",
        "probe": f"{program} asked for the size of {name}",
        "refused": f"{program} asked for {name}, refused ({_refusal(detail.get('status', 0), _is_http(event))})",
        "aborted": f"{program} gave up {name} after {got}",
        "timeout": f"{program} fell silent after {got} of {name}",
        "cut": f"the rack could give {program} no more than {got} of {name}",
    }
    return sentences.get(outcome, f"{program} asked for {name}, {outcome}")


def _is_http(event: Event) -> bool:
    return bool(event["detail"].get("protocol") == "http")


def _report(event: Event) -> str:
    return f"{event['name']} ({event['outcome']})" if event["outcome"] else str(event["name"])
