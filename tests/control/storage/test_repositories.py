"""Repositories: what each promises beyond rows in and out."""

from __future__ import annotations

import pytest

from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet
from bootplane.control.errors import Conflict, NotFound
from bootplane.control.storage import blobs as blobs_module
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.blobs import BlobRecord, BlobRepository, DerivedFile
from bootplane.control.storage.database import Database, now_text
from bootplane.control.storage.images import ImageRepository, WantedSet
from bootplane.control.storage.leases import LeaseRepository
from bootplane.control.storage.runs import RunRepository
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.storage.uploads import UploadRepository

ROOT = "ab" * 32


def sha(name: str) -> str:
    return name.encode().hex().ljust(64, "0")


def add_source(database: Database, name: str = "m", priority: int | None = None) -> str:
    return (
        SourceRepository(database)
        .add(
            name=name,
            url=f"http://{name}/",
            keyring=b"k",
            unsigned=False,
            priority=priority,
            fingerprints=["AB"],
            updated=None,
        )
        .source.id
    )


def wish(source_id: str, version: str, digest: str = "a") -> WantedSet:
    resource = BootResource("ubuntu", "amd64", "noble", "ga-24.04", "stable", "generic", "24.04 LTS", "Noble Numbat")
    files = (ResourceFile("boot-kernel", "boot-kernel", sha(digest), 10, "quiet"),)
    return WantedSet(ResourceSet(resource, version, files), source_id, {"boot-kernel": f"{version}/boot-kernel"})


def test_a_new_source_stands_above_the_others_unless_told(database: Database) -> None:
    for name, priority in (("a", None), ("b", None), ("c", 1)):
        add_source(database, name, priority)
    sources = SourceRepository(database)
    assert [(record.source.name, record.source.priority) for record in sources.list()] == [("b", 2), ("a", 1), ("c", 1)]
    with pytest.raises(Conflict, match="'http://a/'"):
        sources.add(name="x", url="http://a/", keyring=None, unsigned=True, priority=0, fingerprints=(), updated=None)
    with pytest.raises(NotFound, match="'99'"):
        sources.find("99")


def test_a_wanted_set_comes_back_as_it_was_put(database: Database) -> None:
    images = ImageRepository(database)
    wanted = wish(add_source(database), "1")
    images.decide([wanted], (), ())
    [stored] = images.sets()
    assert (stored.resource_set, stored.paths, stored.source_id) == (wanted.resource_set, wanted.paths, "1")
    assert not stored.complete and stored.marked is None


def test_completing_a_set_marks_its_complete_elders(database: Database) -> None:
    images = ImageRepository(database)
    source = add_source(database)
    for version in ("1", "2"):
        images.decide([wish(source, version, version)], (), ())
        images.complete(each.id for each in images.sets() if each.resource_set.version == version)
    assert [(each.resource_set.version, each.complete, bool(each.marked)) for each in images.sets()] == [
        ("1", True, True),
        ("2", True, False),
    ]
    images.decide([wish(source, "1", "1")], (), ())  # wanted again
    assert [bool(each.marked) for each in images.sets()] == [False, False]


def test_a_version_whose_content_changed_under_its_name_is_wanted_again(database: Database) -> None:
    images = ImageRepository(database)
    source = add_source(database)
    images.decide([wish(source, "1", "a")], (), ())
    images.complete(each.id for each in images.sets())
    images.decide([wish(source, "1", "a")], (), ())
    assert images.sets()[0].complete
    images.decide([wish(source, "1", "b")], (), ())
    [stored] = images.sets()
    assert not stored.complete and [file.sha256 for file in stored.resource_set.files] == [sha("b")]


def test_only_incomplete_sets_are_dropped_and_only_complete_ones_marked(database: Database) -> None:
    images = ImageRepository(database)
    source = add_source(database)
    images.decide([wish(source, "1"), wish(source, "2")], (), ())
    first, second = (each.id for each in images.sets())
    images.complete([first])
    images.decide((), [first, second], [first, second])
    assert [(each.id, bool(each.marked)) for each in images.sets()] == [(first, True)]
    images.remove([first])
    assert images.sets() == []


def test_images_outlive_their_source(database: Database) -> None:
    images = ImageRepository(database)
    images.decide([wish(add_source(database), "1")], (), ())
    SourceRepository(database).remove("m")
    assert [each.source_id for each in images.sets()] == [None]


def test_a_removed_blob_is_remembered_until_it_is_here_again(database: Database) -> None:
    blobs = BlobRepository(database)
    blobs.record([BlobRecord(sha("a"), 10, ROOT)])
    blobs.take_away([sha("a")])
    assert blobs.get(sha("a")) is None and blobs.is_removed(sha("a")) and not blobs.is_removed(sha("b"))
    blobs.record([BlobRecord(sha("a"), 10, ROOT)])
    assert blobs.present() == {sha("a"): BlobRecord(sha("a"), 10, ROOT)} and not blobs.is_removed(sha("a"))
    assert blobs.usage().bytes == 10


def test_of_what_was_removed_the_latest_are_known(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "REMOVED_KEPT", 3)
    blobs = BlobRepository(database)
    blobs.record([BlobRecord(sha(name), 10, ROOT) for name in "abcdef"])
    for name in "abcde":
        assert blobs.take_away([sha(name)]) == [sha(name)]
    assert sorted(blobs.removed()) == sorted(sha(name) for name in "cde") and not blobs.is_removed(sha("a"))
    blobs.record([BlobRecord(sha("c"), 10, ROOT)])
    assert sorted(blobs.removed()) == sorted(sha(name) for name in "de")
    assert sorted(blobs.present()) == sorted([sha("c"), sha("f")])


def test_what_neither_sets_nor_the_catalogue_name_is_marked_and_what_they_do_is_not(database: Database) -> None:
    blobs = BlobRepository(database)
    blobs.record([BlobRecord(sha(name), 10, ROOT) for name in "abcd"])
    assert blobs.mark({sha("a")}, {sha("b")}, 7) == (2, 0) and blobs.marked_bytes() == 20
    assert [(each.sha256, each.size, each.unnamed_in) for each in blobs.unnamed()] == [
        (digest, 10, 7) for digest in sorted([sha("c"), sha("d")])
    ]
    assert blobs.mark({sha("a"), sha("c")}, {sha("b")}, 8) == (0, 1)
    assert [(each.sha256, each.unnamed_in) for each in blobs.unnamed()] == [(sha("d"), 7)]
    assert blobs.take_away([sha("d")]) == [sha("d")] and blobs.marked_bytes() == 0 and blobs.unnamed() == []


def test_what_a_set_an_archive_or_an_upload_names_is_not_taken_away(database: Database) -> None:
    blobs, images, uploads = BlobRepository(database), ImageRepository(database), UploadRepository(database)
    images.decide([wish(add_source(database), "1")], (), ())
    named = images.sets()[0].resource_set.files[0].sha256
    inner = [DerivedFile("inner", sha("inner"), 5)]
    blobs.record_derived(named, inner, [BlobRecord(sha("inner"), 5, ROOT)])
    resource = BootResource("custom", "amd64", "mine", "generic", "uploaded", rtype="uploaded")
    files = [ResourceFile("root-tgz", "root-tgz", sha("coming"), 5)]
    upload = uploads.add(resource, files)
    blobs.record([BlobRecord(digest, 5, ROOT) for digest in (named, sha("coming"), sha("nobody's"))])
    everything = [named, sha("inner"), sha("coming"), sha("nobody's")]
    assert blobs.take_away(everything) == [sha("nobody's")]
    uploads.complete(upload.id, "1")
    assert blobs.take_away(everything) == [sha("coming")]


def test_the_blob_to_look_at_is_the_one_in_doubt_and_then_the_one_seen_longest_ago(database: Database) -> None:
    blobs = BlobRepository(database)
    blobs.record([BlobRecord(sha("seen"), 1, ROOT)])
    middle = now_text()
    assert blobs.due(middle) == BlobRecord(sha("seen"), 1, ROOT)
    blobs.record([BlobRecord(sha("doubt"), 1, ROOT)], is_checked=False)
    assert blobs.due("") == BlobRecord(sha("doubt"), 1, ROOT)
    assert (blobs.checks(middle).due, blobs.checks("").due, blobs.checks("").oldest) == (2, 1, None)
    blobs.checked(sha("doubt"))
    assert blobs.due("") is None and blobs.due(middle) == BlobRecord(sha("seen"), 1, ROOT)
    told = blobs.checks(middle)
    assert told.due == 1 and told.oldest is not None and told.oldest < middle < (told.newest or "")
    assert blobs.doubt_since(middle) == 1 and blobs.checks("").due == 1
    blobs.take_away([sha("seen"), sha("doubt")])
    assert blobs.due(now_text()) is None and blobs.checks("").newest is None


def test_a_hundred_thousand_digests_are_no_statement_too_long(database: Database) -> None:
    blobs = BlobRepository(database)
    blobs.record([BlobRecord(sha("a"), 1, ROOT)])
    many = [f"{number:064x}" for number in range(100_000)]
    assert blobs.take_away([*many, sha("a")]) == [sha("a")]
    blobs.lose(many)
    assert blobs.mark(many, (), 1) == (0, 0)


def test_the_files_of_an_archive_are_replaced_together(database: Database) -> None:
    blobs = BlobRepository(database)
    for names in (("a", "b"), ("b", "c")):
        files = [DerivedFile(name, sha(name), 5) for name in names]
        blobs.record_derived(sha("tar"), files, [BlobRecord(sha(name), 5, ROOT) for name in names])
    assert [file.name for file in blobs.derived()[sha("tar")]] == ["b", "c"]
    assert set(blobs.present()) == {sha("a"), sha("b"), sha("c")}


def test_one_taker_gets_a_lapsed_executor_and_a_living_one_is_nobodys(database: Database) -> None:
    leases = LeaseRepository(database)
    for executor in ("dead", "alive"):
        leases.beat(executor)
    assert leases.claim_lapsed("one", 60.0) == []
    assert leases.claim_lapsed("alive", 0.0) == ["dead"]
    assert leases.claim_lapsed("two", 60.0) == []
    leases.release("dead")
    assert leases.claim_lapsed("two", 0.0) == ["alive"]


def test_a_run_that_is_not_finished_is_gone_on_with(database: Database) -> None:
    runs = RunRepository(database)
    first = runs.begin()
    assert (first.starts, runs.begin().id, runs.begin().starts) == (1, first.id, 3)
    runs.attempt("w")
    assert runs.attempt("w") == 2
    runs.attempt_failed("w", "no route")
    assert runs.attempt_error("w") == "no route"
    runs.finish(first.id, "complete", None)
    assert runs.unfinished() is None and runs.begin().id != first.id
    assert runs.attempt("w") == 1


def test_a_banner_keeps_its_beginning_and_tells_what_is_new(database: Database) -> None:
    banners = BannerRepository(database)
    assert banners.raise_("disk-full", "100 bytes", "free some")
    since = banners.list()[0].since
    assert not banners.raise_("disk-full", "100 bytes", "free some")
    assert banners.raise_("disk-full", "50 bytes", "free some")
    assert [(banner.text, banner.since) for banner in banners.list()] == [("50 bytes", since)]
    assert banners.end("disk-full") and not banners.end("disk-full")
