"""Boot tickets on a fake clock: what they carry, once, how long, how often, and what nobody can make."""

from __future__ import annotations

import base64
import threading

import pytest

from bootplane.control import tickets as module
from bootplane.control.errors import Gone, NotFound
from bootplane.control.tickets import LIFETIME_S, REPORTS, Ticket, Tickets, TooManyReports

MAC, RACK, ADDRESS = "52:54:00:77:00:01", "r0a1b2c3d", "10.77.0.50"
SECRET = bytes(range(32))


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(SECRET, clock)


def facts(ticket: Ticket) -> tuple[str | None, str, str]:
    return ticket.mac, ticket.rack, ticket.address


@pytest.mark.parametrize("mac", [MAC, None])
@pytest.mark.parametrize("address", [ADDRESS, "fd77::50", ""])
def test_a_ticket_carries_what_its_script_was_made_for(tickets: Tickets, mac: str | None, address: str) -> None:
    assert facts(tickets.claim(tickets.issue(mac, RACK, address), "10.77.0.99")) == (mac, RACK, address)


def test_an_address_that_is_none_is_left_out(tickets: Tickets) -> None:
    assert facts(tickets.look(tickets.issue(MAC, RACK, "somewhere"))) == (MAC, RACK, "")


def test_a_ticket_is_short_and_needs_no_quotes_in_a_url_or_a_boot_loaders_language(tickets: Tickets) -> None:
    for _ in range(50):
        made = tickets.issue(MAC, RACK, ADDRESS)
        assert len(made) <= 60
        assert not made.strip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_the_longest_ticket_there_can_be_is_taken(tickets: Tickets) -> None:
    rack = "r" * 64
    assert tickets.claim(tickets.issue(MAC, rack, "fd77::50"), ADDRESS).rack == rack


def test_no_two_tickets_are_the_same(tickets: Tickets) -> None:
    assert len({tickets.issue(MAC, RACK, ADDRESS) for _ in range(1000)}) == 1000


def test_a_ticket_is_claimed_once(tickets: Tickets) -> None:
    made = tickets.issue(MAC, RACK, ADDRESS)
    tickets.claim(made, "10.77.0.99")
    with pytest.raises(Gone, match=r"got one that 10\.77\.0\.99 has used"):
        tickets.claim(made, ADDRESS)
    assert tickets.claim(tickets.issue(MAC, RACK, ADDRESS), ADDRESS).mac == MAC


def test_a_look_uses_nothing_and_is_refused_when_a_claim_would_be(tickets: Tickets) -> None:
    made = tickets.issue(MAC, RACK, ADDRESS)
    assert tickets.look(made) == tickets.look(made) == tickets.claim(made, ADDRESS)
    with pytest.raises(Gone):
        tickets.look(made)


def test_of_many_who_claim_at_once_one_gets_it(tickets: Tickets) -> None:
    made = tickets.issue(MAC, RACK, ADDRESS)
    start = threading.Barrier(8)
    outcomes: list[str] = []

    def claim() -> None:
        start.wait()
        try:
            tickets.claim(made, ADDRESS)
            outcomes.append("claimed")
        except Gone:
            outcomes.append("gone")

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["claimed"] + ["gone"] * 7


def test_a_ticket_lives_an_hour(tickets: Tickets, clock: Clock) -> None:
    made = tickets.issue(MAC, RACK, ADDRESS)
    clock.now += LIFETIME_S - 1
    tickets.report(made)
    clock.now += 1
    for use in (tickets.look, tickets.report, lambda word: tickets.claim(word, ADDRESS)):
        with pytest.raises(
            Gone, match=r"expected one of the last 60 minutes, got one that ended at 2027-01-15T09:00:00Z"
        ):
            use(made)


def test_reports_are_counted_before_and_after_the_claim_and_end_at_the_limit(tickets: Tickets) -> None:
    made = tickets.issue(MAC, RACK, ADDRESS)
    for n in range(REPORTS):
        if n == 3:
            tickets.claim(made, ADDRESS)
        assert facts(tickets.report(made)) == (MAC, RACK, ADDRESS)
    with pytest.raises(TooManyReports, match=f"at most {REPORTS} reports"):
        tickets.report(made)
    tickets.report(tickets.issue(MAC, RACK, ADDRESS))


def test_a_ticket_outlives_a_restart_of_the_region(clock: Clock) -> None:
    made = Tickets(SECRET, clock).issue(MAC, RACK, ADDRESS)
    assert facts(Tickets(SECRET, clock).claim(made, ADDRESS)) == (MAC, RACK, ADDRESS)


def test_a_ticket_of_another_region_is_nothing_here(tickets: Tickets, clock: Clock) -> None:
    with pytest.raises(NotFound):
        tickets.claim(Tickets(bytes(32), clock).issue(MAC, RACK, ADDRESS), ADDRESS)


def test_a_ticket_with_any_bit_changed_is_nothing(tickets: Tickets) -> None:
    raw = base64.urlsafe_b64decode(tickets.issue(MAC, RACK, ADDRESS) + "=")
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotFound):
            tickets.look(base64.urlsafe_b64encode(changed).rstrip(b"=").decode())


@pytest.mark.parametrize(
    "word", ["", "x", "nonsense", "=" * 8, "é" * 8, "A" * 59, "A" * 148, "A" * 5000, "\x00", "a b"]
)
def test_a_word_that_is_no_ticket_is_not_found(tickets: Tickets, word: str) -> None:
    for use in (tickets.look, tickets.report, lambda word: tickets.claim(word, ADDRESS)):
        with pytest.raises(NotFound):
            use(word)


def test_another_spelling_of_a_ticket_is_nothing(tickets: Tickets) -> None:
    made = tickets.issue(MAC, RACK, ADDRESS)  # 44 bytes: two bits of the last character mean nothing
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(made[-1]) + 1]
    for word in (made[:-1] + last, made + "=", f"{made[:9]}!{made[9:]}", made + "\n"):
        with pytest.raises(NotFound):
            tickets.look(word)


def test_past_the_limit_those_that_end_first_are_forgotten_first(clock: Clock) -> None:
    tickets = Tickets(SECRET, clock, limit=3)
    made = []
    for _ in range(4):
        made.append(tickets.issue(MAC, RACK, ADDRESS))
        clock.now += 1
    for word in reversed(made[:3]):  # the one that ends first is claimed last
        tickets.claim(word, ADDRESS)
    tickets.claim(made[3], ADDRESS)
    tickets.look(made[0])
    for word in made[1:]:
        with pytest.raises(Gone):
            tickets.look(word)


def test_reports_of_others_make_no_claim_forgotten(clock: Clock) -> None:
    tickets = Tickets(SECRET, clock, limit=3)
    made = tickets.issue(MAC, RACK, ADDRESS)
    tickets.claim(made, ADDRESS)
    clock.now += 1
    for _ in range(10):
        tickets.report(tickets.issue(None, RACK, ADDRESS))
    with pytest.raises(Gone):
        tickets.claim(made, ADDRESS)


def test_what_has_ended_makes_room(clock: Clock) -> None:
    book: module._Book[int] = module._Book(100)
    for n in range(50):
        book.put(Ticket(None, RACK, "", 1000 + n, bytes([n])), n, 900)
    book.put(Ticket(None, RACK, "", 2000, b"new"), 1, 1049)
    assert (len(book._values), len(book._order)) == (1, 1)
