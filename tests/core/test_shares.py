"""Shares on their own, on a clock by hand: who is next, for how much, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootplane.core.shares import Group, Shares

MS = 1_000_000
TURN = 2 << 20
A, B = Group("a", ("10.1.0.0/16",)), Group("b", ("10.2.0.0/16", "2001:db8::/32"))


def table(*groups: Group, total: int = 0) -> Shares:
    shares = Shares()
    shares.set(groups, total)
    return shares


def run(shares: Shares, clients: Mapping[str, int], seconds: float, now: int = 10**12) -> Counter[str]:
    """What each group has sent when all its *clients* always want a turn; they leave at the end."""
    sent = Counter[str]()
    for name, count in clients.items():
        for _ in range(count):
            shares.ready(name, now)
    end = now + int(seconds * 1e9)
    while now < end:
        match shares.turn(clients, TURN, now):
            case (name, n):
                sent[name] += n
                now += n // 10  # 10 GB/s of processor
            case int(retry):
                assert retry > now
                now = retry
    for name, count in clients.items():
        for _ in range(count):
            shares.unready(name)
    return sent


def test_the_longest_prefix_says_which_group() -> None:
    shares = table(A, B, Group("c", ("10.1.2.0/24", "10.1.2.128/25")), Group("d", ("10.1.2.3/32",)))
    found = [
        shares.group_of(ip) for ip in ("10.1.2.3", "10.1.2.4", "10.1.3.4", "10.2.0.1", "10.3.0.1", "::ffff:10.1.3.4")
    ]
    assert found == ["d", "c", "a", "b", "others", "a"]
    assert [shares.group_of(ip) for ip in ("2001:db8::1", "2001:db9::1", "::1")] == ["b", "others", "others"]
    shares = table(Group("team", ("10.1.0.0/17",)), Group("rest"))
    assert [shares.group_of(ip) for ip in ("10.1.127.255", "10.1.128.0")] == ["team", "rest"]


@pytest.mark.parametrize("total", [0, 10_000_000, 125_000_000])
@pytest.mark.parametrize("weight", [1, 3])
def test_fifteen_greedy_clients_and_one_get_what_their_groups_weights_say(total: int, weight: int) -> None:
    sent = run(table(A, B._replace(weight=weight), total=total), {"a": 15, "b": 1}, 5)
    assert sent["b"] / sent["a"] == pytest.approx(weight, rel=0.05)
    if total:
        assert sum(sent.values()) == pytest.approx(total * 5, rel=0.05)


def test_what_one_group_does_not_want_the_others_have() -> None:
    sent = run(table(A, B, total=100_000_000), {"a": 3}, 2)
    assert sent["a"] == pytest.approx(200_000_000, rel=0.05)


def test_a_cap_holds_its_group_and_nobody_else() -> None:
    capped = A._replace(cap_bytes_s=5_000_000)
    sent = run(table(capped, B, total=100_000_000), {"a": 3, "b": 1}, 2)
    assert sent["a"] == pytest.approx(10_000_000, rel=0.05)
    assert sent["b"] == pytest.approx(190_000_000, rel=0.05)


def test_a_group_that_was_away_catches_up_little() -> None:
    shares = table(A, B, total=100_000_000)
    run(shares, {"a": 3}, 5)
    sent = run(shares, {"a": 3, "b": 1}, 1, now=2 * 10**12)
    assert sent["b"] == pytest.approx(50_000_000, rel=0.1)


def test_a_group_that_is_ahead_waits_for_one_that_waits_on_another_reactor() -> None:
    shares = table(A, B)
    now = 10**12
    shares.ready("a", now)
    shares.ready("b", now)
    turns = 0
    while not isinstance(found := shares.turn(["a"], TURN, now), int):  # this reactor has nobody of b
        turns += 1
        assert turns < 10
    assert now < found <= now + 10 * MS
    assert shares.turn(["b"], TURN, now) == ("b", TURN)
    assert not isinstance(shares.turn(["a"], TURN, now), int)
    shares.unready("b")
    for _ in range(20):
        assert shares.turn(["a"], TURN, now) == ("a", TURN)


def test_what_a_turn_has_not_sent_is_given_back() -> None:
    shares = table(A, B)
    now = 10**12
    shares.ready("a", now)
    shares.ready("b", now)
    sent = Counter[str]()
    for _ in range(4000):
        found = shares.turn(["a", "b"], TURN, now, sent=1000)
        assert not isinstance(found, int)
        sent[found[0]] += 1
    assert sent["a"] == pytest.approx(2000, abs=2)
    assert {name: count[0] for name, count in shares.counts().items()} == {
        "a": sent["a"] * 1000, "b": sent["b"] * 1000, "others": 0,
    }  # fmt: skip


def test_a_turn_that_is_settled_after_its_group_has_gone_takes_nothing_from_who_came_in_its_place() -> None:
    shares = table(A, total=100_000_000)
    shares.ready("a", 10**12)
    turn = shares.begin_turn(["a"], TURN, 10**12)
    assert not isinstance(turn, int)
    shares.set([Group("c", ("10.1.0.0/16",))], 100_000_000)
    shares.settle(turn, 1000)
    assert shares.counts()["c"][0] == 0


def test_a_change_keeps_the_counts_of_who_keeps_its_name_and_is_seen_at_once() -> None:
    shares = table(A, B, total=100_000_000)
    assert shares.active
    run(shares, {"a": 1, "b": 1}, 1)
    before = shares.counts()
    shares.set([Group("c", ("10.1.0.0/16",)), B._replace(weight=9)], 100_000_000)
    assert shares.group_of("10.1.0.1") == "c"
    after = shares.counts()
    assert after["b"] == before["b"] and after["c"][0] == 0
    shares.set([])
    assert not shares.active and shares.group_of("10.1.0.1") == "others"


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([A, A], "expected each name once"),
        ([Group("x"), Group("y")], "expected at most one group without subnets"),
        ([Group("x", ("10.0.0.0/8",), weight=0)], "expected weights of 1 and more"),
        ([Group(str(n), (f"10.{n}.0.0/16",)) for n in range(64)], "expected fewer than 64 groups, got 64"),
        ([Group("x", tuple(f"10.{n // 256}.{n % 256}.0/24" for n in range(1025)))], "at most 1024 subnets, got 1025"),
        ([Group("x", ("10.0.0.1/8",))], "has host bits set"),
    ],
)
def test_groups_that_cannot_be_are_refused_and_change_nothing(groups: list[Group], sentence: str) -> None:
    shares = table(A)
    with pytest.raises(ValueError, match=sentence):
        shares.set(groups)
    assert shares.group_of("10.1.0.1") == "a"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=2, max_size=6),
    st.sampled_from([0, 20_000_000, 300_000_000]),
)
def test_shares_are_as_the_weights_whatever_they_are(groups: list[tuple[int, int]], total: int) -> None:
    names = {f"g{n}": clients for n, (_, clients) in enumerate(groups)}
    shares = table(*(Group(f"g{n}", (f"10.{n}.0.0/16",), weight) for n, (weight, _) in enumerate(groups)), total=total)
    sent = run(shares, names, 20)
    weights = sum(weight for weight, _ in groups)
    for n, (weight, _) in enumerate(groups):
        assert sent[f"g{n}"] / sum(sent.values()) == pytest.approx(weight / weights, rel=0.1)
