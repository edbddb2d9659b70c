"""Connections counted per client address."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.core.http_addresses import Addresses

IPS = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fe80::1", "::1", *(f"192.168.{i}.7" for i in range(40))]


def test_an_ipv4_address_is_the_same_machine_on_an_ipv6_listener() -> None:
    addresses = Addresses()
    assert addresses.take("10.0.0.1") == 1
    assert addresses.take("::ffff:10.0.0.1") == 2
    assert addresses.take("10.0.0.2") == 1
    assert len(addresses) == 2


def test_an_address_without_a_connection_costs_nothing() -> None:
    addresses = Addresses()
    for i in range(5000):
        addresses.take(f"10.1.{i >> 8}.{i & 255}")
    assert len(addresses) == 5000
    for i in range(5000):
        addresses.release(f"10.1.{i >> 8}.{i & 255}")
    assert len(addresses) == 0
    with pytest.raises(ValueError, match=r"10\.1\.0\.0 has no connection"):
        addresses.release("10.1.0.0")


@given(st.lists(st.tuples(st.sampled_from(IPS), st.booleans()), max_size=200))
def test_counts_are_those_of_a_dictionary(moves: list[tuple[str, bool]]) -> None:
    addresses = Addresses()
    model: collections.Counter[str] = collections.Counter()
    for ip, come in moves:
        key = ip.removeprefix("::ffff:")
        if come:
            model[key] += 1
            assert addresses.take(ip) == model[key]
        elif model[key]:
            model[key] -= 1
            addresses.release(ip)
    assert len(addresses) == sum(1 for n in model.values() if n)
