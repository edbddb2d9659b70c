"""Lists of packages, and what differs between two."""

from __future__ import annotations

from bootplane.control.packages import difference, parse


def test_a_manifest_is_a_name_and_a_version_a_line_snaps_with_their_revision() -> None:
    text = "adduser\t3.137ubuntu1\nlibc6:amd64\t2.39\n\nsnap:lxd\t5.0/stable\t24322\nodd\n"
    assert parse(text) == [
        {"name": "adduser", "version": "3.137ubuntu1"},
        {"name": "libc6:amd64", "version": "2.39"},
        {"name": "snap:lxd", "version": "5.0/stable 24322"},
        {"name": "odd", "version": ""},
    ]


def test_packages_are_added_removed_changed_or_the_same() -> None:
    old, new = parse("a 1\nb 1\nc 1\nd 1\nd 2\n"), parse("b 2\nc 1\nd 1\nd 3\ne 1\n")
    assert difference(old, new) == {
        "added": [{"name": "e", "version": "1"}],
        "removed": [{"name": "a", "version": "1"}],
        "changed": [{"name": "b", "old": "1", "new": "2"}, {"name": "d", "old": "1, 2", "new": "1, 3"}],
        "same": 1,
    }


def test_the_order_of_a_list_means_nothing() -> None:
    assert difference(parse("a 1\nb 2\n"), parse("b 2\na 1\n"))["same"] == 2
