"""Shares in words: how much of a rack which clients may have, as an operator writes it and a rack keeps it.

    total 9Gbit/s; team-a 10.1.0.0/16,2001:db8:a::/48 weight 3 cap 4Gbit/s; lab 10.9.0.0/24 pace 50Mbit/s

One entry for each group: its name, its subnets, then what differs from the default (weight 1, no cap, no pace).
``others`` has no subnets and is everybody else; ``total`` is what all of them may have together. "" and "none" are no
shares at all.

Left to others: what they mean (core.shares), where the words come from (rack, limits).
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from bootplane.core.shares import Group, Shares
from bootplane.dataplane.units import parse_rate

TOTAL, OTHERS, NONE = "total", "others", "none"
MAX_TEXT = 16384
MAX_WEIGHT = 1000
MIN_BYTES_S = 125_000  # 1 Mbit/s: a boot loader of 1 MB takes 8 s, and firmware is not patient
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")


class Plan(NamedTuple):
    groups: tuple[Group, ...] = ()
    total_bytes_s: int = 0  # 0: as much as the machine gives


def parse(text: str, what: str = "shares") -> Plan:
    """Raises ValueError, one sentence with *what* and the entry that is wrong."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{what}: expected at most {MAX_TEXT} characters, got {len(text)}")
    groups: list[Group] = []
    total = 0
    for entry in [] if text.strip() == NONE else text.split(";"):
        words = entry.split()
        if not words:
            continue
        if words[0] != TOTAL:
            groups.append(_group(words, what))
        elif len(words) != 2 or total:
            raise ValueError(f"{what}: expected one rate as {TOTAL}, got {' '.join(words)!r}")
        else:
            total = _rate(words[1], f"{what}: {TOTAL}")
    plan = Plan(tuple(groups), total)
    try:
        Shares().set(plan.groups, plan.total_bytes_s)
    except ValueError as error:
        raise ValueError(f"{what}: {str(error).removeprefix('shares: ')}") from None
    return plan


def remark(plan: Plan) -> str:
    """What *plan* leaves undone that whoever wrote it may not expect, in one sentence; "" for nothing."""
    rests_on_weights = any(group.weight != 1 or not (group.cap_bytes_s or group.pace_bytes_s) for group in plan.groups)
    if plan.total_bytes_s or not rests_on_weights:
        return ""
    return (
        f"shares: without `{TOTAL} RATE`, a little below the link's, a full link is divided by the network, by "
        f"connections, and weights count only while this host itself is the limit"
    )


def _group(words: list[str], what: str) -> Group:
    name, rest = words[0], words[1:]
    if not _NAME.match(name):
        raise ValueError(f"{what}: expected a name of letters, digits and . _ -, got {name[:40]!r}")
    subnets: tuple[str, ...] = ()
    if name != OTHERS:
        if not rest:
            raise ValueError(f"{what}: {name}: expected subnets, got none")
        subnets = tuple(_subnet(subnet, f"{what}: {name}") for subnet in rest.pop(0).split(","))
    if len(rest) % 2:
        raise ValueError(f"{what}: {name}: expected weight N, cap RATE or pace RATE, got {rest[-1]!r}")
    values = {"weight": 1, "cap": 0, "pace": 0}
    for key, value in zip(rest[::2], rest[1::2], strict=True):
        if key not in values:
            raise ValueError(f"{what}: {name}: expected weight, cap or pace, got {key!r}")
        values[key] = _weight(value, f"{what}: {name}") if key == "weight" else _rate(value, f"{what}: {name} {key}")
    return Group(name, subnets, values["weight"], values["cap"], values["pace"])


def _subnet(text: str, what: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(f"{what}: expected a subnet such as 10.1.0.0/16, got {text[:60]!r}") from None


def _weight(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_WEIGHT):
        raise ValueError(f"{what} weight: expected 1 to {MAX_WEIGHT}, got {text[:20]!r}")
    return int(text)


def _rate(text: str, what: str) -> int:
    rate = parse_rate(text, what)
    if rate and rate < MIN_BYTES_S:
        raise ValueError(f"{what}: expected none, or 1Mbit/s or more, got {text!r}")
    return rate
