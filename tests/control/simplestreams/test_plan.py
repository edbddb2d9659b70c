"""Plans: by digest, each once, nothing wanted is removed, contradictions refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bootplane.control.simplestreams.plan import Download, Offer, Wanted, plan

A, B, C, D = (letter * 64 for letter in "abcd")


def test_equal_bytes_under_two_paths_and_two_sources_are_downloaded_once() -> None:
    wanted = [
        Wanted(A, 10, "1", "ga/boot-kernel"),
        Wanted(B, 20, "1", "squashfs"),
        Wanted(A, 10, "1", "hwe/boot-kernel"),
        Wanted(B, 20, "1", "squashfs"),
    ]
    made = plan(wanted, present=[], also_at=[Wanted(A, 10, "2", "mirror/boot-kernel"), Wanted(C, 5, "2", "other")])
    assert made.downloads == (
        Download(
            A, 10, (Offer("1", "ga/boot-kernel"), Offer("1", "hwe/boot-kernel"), Offer("2", "mirror/boot-kernel")), True
        ),
        Download(B, 20, (Offer("1", "squashfs"),), True),
    )
    assert made.total_bytes == 30 and made.refused == ()


def test_what_is_present_is_kept_and_what_nobody_wants_may_go() -> None:
    made = plan([Wanted(A, 1, "1", "a"), Wanted(B, 1, "1", "b")], present=[A, C, D], retained=[D])
    assert [d.sha256 for d in made.downloads] == [B]
    assert (made.keep, made.remove) == ({A, D}, {C})


def test_nothing_new_is_an_empty_plan() -> None:
    made = plan([Wanted(A, 1, "1", "a")], present=[A])
    assert (made.downloads, made.total_bytes, made.keep, made.remove) == ((), 0, {A}, frozenset())


def test_one_path_with_two_digests_is_refused_and_the_rest_goes_on() -> None:
    made = plan([Wanted(A, 1, "1", "x"), Wanted(B, 1, "1", "x"), Wanted(C, 1, "1", "y"), Wanted(D, 1, "2", "x")], [])
    assert [d.sha256 for d in made.downloads] == [C, D]
    (refusal,) = made.refused
    assert refusal.sentence == f"source 1: path x: expected one sha256, got 2: {A}, {B}"
    assert refusal.digests == {A, B}


def test_one_digest_with_two_sizes_is_refused() -> None:
    made = plan([Wanted(A, 1, "1", "x"), Wanted(A, 2, "2", "y"), Wanted(B, 1, "1", "z")], [])
    assert [d.sha256 for d in made.downloads] == [B]
    assert made.refused[0].sentence == (
        f"sha256 {A}: expected one size, got 1 bytes (source 1, path x), 2 bytes (source 2, path y)"
    )


def test_another_place_that_contradicts_is_no_place() -> None:
    also_at = [Wanted(A, 2, "2", "y"), Wanted(A, 1, "1", "b"), Wanted(A, 1, "2", "fine")]
    made = plan([Wanted(A, 1, "1", "a"), Wanted(B, 1, "1", "b")], [], also_at=also_at)
    assert made.downloads[0].offers == (Offer("1", "a"), Offer("2", "fine"))
    assert made.refused == ()


def test_a_file_is_required_when_any_set_requires_it() -> None:
    made = plan(
        [Wanted(A, 1, "1", "a", required=False), Wanted(A, 1, "1", "b"), Wanted(B, 1, "1", "m", required=False)], []
    )
    assert {d.sha256: d.required for d in made.downloads} == {A: True, B: False}


digests = st.sampled_from([A, B, C, D, "e" * 64, "f" * 64])
wants = st.builds(
    Wanted,
    sha256=digests,
    size=st.integers(1, 3),
    source=st.sampled_from(["1", "2"]),
    path=st.sampled_from(["p", "q", "r", "s", "t"]),
    required=st.booleans(),
)


@given(st.lists(wants, max_size=12), st.sets(digests), st.lists(wants, max_size=6), st.sets(digests))
def test_a_plan_adds_up(wanted: list[Wanted], present: set[str], also_at: list[Wanted], retained: set[str]) -> None:
    made = plan(wanted, present, also_at=also_at, retained=retained)
    downloads = [d.sha256 for d in made.downloads]
    refused = frozenset[str]().union(*(r.digests for r in made.refused))
    asked = {w.sha256 for w in wanted}
    assert len(downloads) == len(set(downloads))
    assert set(downloads) == asked - present - refused
    assert made.keep == present & (asked | retained)
    assert made.remove == present - made.keep
    assert made.total_bytes == sum(d.size for d in made.downloads)
    for download in made.downloads:
        assert download.offers and len(set(download.offers)) == len(download.offers)
        for offer in download.offers:  # every place was named with this digest and size, and wanted with no other
            assert Wanted(download.sha256, download.size, offer.source, offer.path, True) in [
                Wanted(w.sha256, w.size, w.source, w.path, True) for w in [*wanted, *also_at]
            ]
            assert {w.sha256 for w in wanted if (w.source, w.path) == (offer.source, offer.path)} <= {download.sha256}
    assert plan(wanted, present | set(downloads)).downloads == ()
