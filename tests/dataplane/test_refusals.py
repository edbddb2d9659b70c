from __future__ import annotations

from bootplane.dataplane.refusals import REMEMBERED, Refusal, Refusals


def wrong(chunk: int = 2, source: str = "10.0.0.1:5241") -> Refusal:
    return Refusal("ab" * 32, chunk, source, "e" * 64, "f" * 64, 1.0)


def test_a_source_with_an_alternative_is_wrong_at_once() -> None:
    assert Refusals().met(wrong(), others=True) == (True, True)


def test_one_without_is_asked_once_more_and_told_once() -> None:
    refusals = Refusals()
    assert refusals.met(wrong(), others=False) == (True, False)
    assert refusals.met(wrong(), others=False) == (False, True)
    assert list(refusals.recent) == [wrong()]
    assert refusals.met(wrong(), others=False) == (True, False), "after its quarantine it is news again"


def test_each_chunk_of_each_source_is_news() -> None:
    refusals = Refusals()
    for refusal in (wrong(), wrong(chunk=3), wrong(source="10.0.0.2:5241")):
        assert refusals.met(refusal, others=False) == (True, False)


def test_only_so_many_are_remembered() -> None:
    refusals = Refusals()
    for chunk in range(3 * REMEMBERED):
        refusals.met(wrong(chunk), others=False)
    assert len(refusals.recent) == REMEMBERED
    assert len(refusals._suspects) <= REMEMBERED


def test_the_sentence_names_chunk_blob_source_expected_and_got() -> None:
    blob, expected, got = "ab" * 32, "e" * 64, "f" * 64
    assert wrong().sentence() == f"refused chunk 2 of blob {blob} from 10.0.0.1:5241: expected {expected}, got {got}"
