from __future__ import annotations

from dataclasses import dataclass

from bootplane.dataplane.rechecks import AHEAD, Rechecks

ABSENT, FILLING, PRESENT, UNCHECKED, CLOSED = range(5)


@dataclass(frozen=True)
class FakeBlob:
    id: int
    chunks: bytes

    def states(self, first: int, count: int) -> bytes:
        return self.chunks[first : first + count]


def found(chunks: int = 8, blob_id: int = 1) -> FakeBlob:
    return FakeBlob(blob_id, bytes([UNCHECKED]) * chunks)


def taken(checks: Rechecks) -> list[int]:
    """The chunks, in the order in which threads that never finish would take them."""
    order = []
    while (check := checks.take()) is not None:
        order.append(check[1])
    return order


def test_the_one_that_was_asked_for_and_the_next_few_are_taken_once() -> None:
    checks, blob = Rechecks(), found()
    assert all(checks.ask(blob, 2) for _ in range(5))  # type: ignore[arg-type]
    assert taken(checks) == [2, *range(3, 3 + AHEAD)]
    assert checks.ask(blob, 2), "in somebody's hands: who asks waits with the others"  # type: ignore[arg-type]
    assert taken(checks) == []


def test_what_somebody_waits_for_goes_before_what_a_reader_comes_to_next() -> None:
    checks, one, other = Rechecks(), found(), found(blob_id=2)
    checks.ask(one, 0)  # type: ignore[arg-type]
    checks.ask(other, 5)  # type: ignore[arg-type]
    checks.ask(one, 3)  # type: ignore[arg-type]
    assert taken(checks) == [0, 5, 3, 1, 2, 6, 7, 4, 5, 6]


def test_what_is_looked_at_is_known_with_whether_somebody_waits() -> None:
    checks, blob = Rechecks(), found(2)
    checks.ask(blob, 0)  # type: ignore[arg-type]
    assert checks.has(blob)  # type: ignore[arg-type]
    assert taken(checks) == [0, 1]
    assert checks.done(blob, 0) is True  # type: ignore[arg-type]
    assert checks.done(blob, 1) is False  # type: ignore[arg-type]
    assert not checks.has(blob)  # type: ignore[arg-type]
    assert len(checks) == 0


def test_one_of_read_ahead_that_somebody_comes_to_while_it_is_in_hand_is_awaited_and_not_taken_twice() -> None:
    checks, blob = Rechecks(), found(2)
    checks.ask(blob, 0)  # type: ignore[arg-type]
    assert taken(checks) == [0, 1]
    assert checks.ask(blob, 1)  # type: ignore[arg-type]
    assert taken(checks) == []
    assert checks.done(blob, 1) is True  # type: ignore[arg-type]


def test_a_chunk_in_any_other_state_is_nobodys_business_here() -> None:
    checks = Rechecks()
    blob = FakeBlob(1, bytes([ABSENT, FILLING, PRESENT, CLOSED, PRESENT]))
    assert [checks.ask(blob, chunk) for chunk in range(5)] == [False, False, False, True, False]  # type: ignore[arg-type]
    assert taken(checks) == [3]


def test_a_file_is_opened_once_for_all_its_chunks_and_with_it_the_one_after() -> None:
    checks, blob = Rechecks(), FakeBlob(1, bytes([CLOSED] * 12))
    assert checks.ask(blob, 5)  # type: ignore[arg-type]
    assert taken(checks) == [5, 8]


def test_read_ahead_goes_on_into_a_file_that_is_not_open() -> None:
    checks, blob = Rechecks(), FakeBlob(1, bytes([UNCHECKED] * 4 + [CLOSED] * 4))
    assert checks.ask(blob, 2)  # type: ignore[arg-type]
    assert taken(checks) == [2, 3, 4]
