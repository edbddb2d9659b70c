"""select, image, rack, rack-token, status, events, web: what each asks of the API and how it prints the answer."""

from __future__ import annotations

import copy
import json
import stat
from pathlib import Path

CACHE = "GET /racks/rack1/cache"


def test_select_splits_commas_and_defaults_to_everything(bootplane, region) -> None:
    region.answers["POST /selections"] = {"id": 1}
    result = bootplane("select", "add", "ubuntu", "noble", "--arch", "amd64,arm64", "--arch", "amd64")
    assert result.stdout == "Selected ubuntu/noble for amd64, arm64; fetch it with `bootplane sync --wait`.\n"
    assert region.calls[-1].body == {
        "os": "ubuntu", "release": "noble", "arches": ["amd64", "arm64"], "subarches": ["*"], "labels": ["*"],
    }  # fmt: skip


def test_select_without_an_architecture_is_refused_before_any_call(bootplane, region) -> None:
    assert bootplane("select", "add", "ubuntu", "noble").exit_code == 2
    assert "--arch is empty" in bootplane("select", "add", "ubuntu", "noble", "--arch", ",").stderr
    assert region.calls == []


def test_select_list_and_remove(bootplane, region) -> None:
    assert bootplane("select", "list").stdout.splitlines()[1].split() == ["7", "ubuntu", "noble", "amd64", "*", "*"]
    region.answers["DELETE /selections/7"] = (204, "", b"")
    assert bootplane("select", "remove", "7").stdout == "Removed selection 7.\n"


def test_image_list_is_one_line_an_image(bootplane) -> None:
    _, line = bootplane("image", "list").stdout.splitlines()
    assert line.split("  ")[0] == "ubuntu/noble/amd64/ga-24.04"
    assert line.endswith("complete")


def test_the_packages_of_an_image_are_a_table_or_a_sentence(bootplane, region) -> None:
    image = {**region.answers["GET /images/ubuntu/noble/amd64/ga-24.04"]}
    key = "GET /images/ubuntu/noble/amd64/ga-24.04?packages=true"
    region.answers[key] = {**image, "packages": [{"name": "base-files", "version": "13ubuntu10"}]}
    lines = bootplane("image", "show", image["name"], "--packages").stdout.splitlines()
    assert [line.split() for line in lines] == [["PACKAGE", "VERSION"], ["base-files", "13ubuntu10"]]
    region.answers[key] = {**image, "packages": []}
    result = bootplane("image", "show", image["name"], "--packages")
    assert (result.exit_code, "came without a package manifest" in result.stderr) == (1, True)


def test_image_list_follows_every_page(bootplane, region) -> None:
    one = region.answers["GET /images"]["items"][0]
    region.answers["GET /images"] = {"items": [one], "next": "c1"}
    region.answers["GET /images?after=c1"] = {"items": [{**one, "name": "centos/9"}], "next": None}
    document = json.loads(bootplane("image", "list", "--json").stdout)
    assert [image["name"] for image in document["items"]] == ["ubuntu/noble/amd64/ga-24.04", "centos/9"]
    assert document["next"] is None


def test_image_show_prints_whole_digests_wire_names_and_where_they_are_served(bootplane) -> None:
    text = bootplane("image", "show", "ubuntu/noble/amd64/ga-24.04").stdout
    assert f"boot-kernel (boot-kernel), 2048 bytes, sha256 {'a' * 64}\n" in text
    assert "\n  images/aaaaaaaaaaaaaaaa/ubuntu/amd64/ga-24.04/noble/stable/boot-kernel\n" in text
    assert text.endswith("served under http://127.0.0.1:5248/, tftp://127.0.0.1:6969/\n")


def test_an_unknown_image_is_the_regions_sentence(bootplane, region) -> None:
    region.problem("GET /images/no/such", 404, "No image no/such.")
    result = bootplane("image", "show", "no/such")
    assert (result.exit_code, result.stderr) == (1, "bootplane: No image no/such.\n")


def test_text_from_a_mirror_cannot_move_the_cursor(bootplane, region) -> None:
    hostile = copy.deepcopy(region.answers["GET /images"])
    hostile["items"][0]["title"] = "x\x1b[2J[bold]y\n"
    region.answers["GET /images"] = hostile
    text = bootplane("image", "list").stdout
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
    assert "[bold]y" in text  # brackets are text, not markup


def test_rack_list_works_beside_the_process_command(bootplane, data) -> None:
    for arguments in (("rack", "list"), ("rack", "--data", data, "list"), ("rack", "list", "--data", data)):
        assert bootplane(*arguments).stdout.splitlines()[1].split()[:3] == ["rack1", "127.0.0.1:5248", "127.0.0.1:6969"]
    row = bootplane("rack", "list").stdout.splitlines()[1]
    assert "1.0 GiB of 4.0 GiB  no limit  -         3.0 MiB        2" in row


def rack_with(region, **changes) -> None:
    region.answers["GET /racks/rack1"] = region.answers["PATCH /racks/rack1"] = (
        region.answers["GET /racks/rack1"] | changes
    )


def test_rack_show_says_which_limits_hold_and_who_has_set_them(bootplane, region) -> None:
    assert bootplane("rack", "show").stdout == (
        "Rack rack1, last heard of at 2026-11-21T10:00:00Z.\n"
        "Serves HTTP at 127.0.0.1:5248 and TFTP at 127.0.0.1:6969; catalogue 3.\n"
        "Cache limit: 4.0 GiB, by the rack's own command line.\n"
        "Upstream limit: no limit, by the rack's own command line.\n"
    )
    rack_with(region, limits={"cache_bytes": 2 << 30, "upstream_bytes_s": 31_250_000}, name="a07", warning="too small")
    shown = bootplane("rack", "show", "rack1")
    assert shown.stdout.splitlines()[0] == "Rack a07 (rack1), last heard of at 2026-11-21T10:00:00Z."
    assert shown.stdout.splitlines()[2:] == [
        "Cache limit: set here to 2.0 GiB; in force is 4.0 GiB until its next beat.",
        "Upstream limit: set here to 250 Mbit/s; in force is no limit until its next beat.",
    ]
    assert shown.stderr == "Warning: too small.\n"
    rack_with(region, in_force={"cache_bytes": 2 << 30, "upstream_bytes_s": 31_250_000})
    assert bootplane("rack", "show").stdout.splitlines()[2:] == [
        "Cache limit: 2.0 GiB, as set here.",
        "Upstream limit: 250 Mbit/s, as set here.",
    ]
    rack_with(region, in_force=None, last_seen=None, limits={"cache_bytes": None, "upstream_bytes_s": 0})
    assert bootplane("rack", "show").stdout.splitlines() == [
        "Rack a07 (rack1): has never been heard of.",
        "Cache limit, by the rack's own command line.",
        "Upstream limit: set here to no limit; the rack has not told any yet.",
    ]
    assert json.loads(bootplane("rack", "show", "--json").stdout) == region.answers["GET /racks/rack1"]


def test_https_is_shown_where_a_rack_has_it(bootplane, region) -> None:
    assert "HTTPS" not in bootplane("rack", "list").stdout
    rack_with(region, https="127.0.0.1:5249")
    assert "TFTP at 127.0.0.1:6969 and HTTPS at 127.0.0.1:5249; catalogue 3." in bootplane("rack", "show").stdout
    region.answers["GET /racks"] = {"items": [region.answers["GET /racks/rack1"]], "next": None}
    head, row = bootplane("rack", "list").stdout.splitlines()
    assert head.split()[:4] == ["RACK", "HTTP", "TFTP", "HTTPS"] and row.split()[3] == "127.0.0.1:5249"


def test_who_sets_weights_without_a_total_hears_what_they_are_worth(bootplane, region) -> None:
    told = bootplane("rack", "set", "rack1", "--shares", "a 10.0.0.0/8 weight 3")
    assert told.exit_code == 0 and told.stderr.startswith("Warning: shares: without `total RATE`")
    assert bootplane("rack", "set", "rack1", "--shares", "total 9Gbit/s; a 10.0.0.0/8 weight 3").stderr == ""


def test_rack_set_sends_what_was_said_in_bytes_and_nothing_else(bootplane, region) -> None:
    for options, body in (
        (("--cache-size", "2GiB"), {"cache_bytes": 2 << 30}),
        (("--upstream-limit", "250Mbit/s"), {"upstream_bytes_s": 31_250_000}),
        (("--upstream-limit", "none", "--cache-size", "default"), {"cache_bytes": None, "upstream_bytes_s": 0}),
        (("--upstream-limit", "default"), {"upstream_bytes_s": None}),
    ):
        result = bootplane("rack", "set", "rack1", *options)
        assert (result.exit_code, region.calls[-1].method, region.calls[-1].path) == (0, "PATCH", "/racks/rack1")
        assert region.calls[-1].body == body
    assert result.stdout == (
        "Cache limit: 4.0 GiB, by the rack's own command line. "
        "Upstream limit: no limit, by the rack's own command line.\n"
    )
    assert bootplane("rack", "set", "--cache-size", "2GiB").exit_code == 0  # the only one
    assert json.loads(bootplane("rack", "set", "--cache-size", "2GiB", "--json").stdout)["id"] == "rack1"


def test_rack_set_refuses_what_it_cannot_read_and_passes_on_what_the_region_refuses(bootplane, region) -> None:
    before = len(region.calls)
    for options, words in (
        (("--cache-size", "much"), "--cache-size: expected a number with KiB, MiB"),
        (("--upstream-limit", "250"), "--upstream-limit: expected none, or a number with kbit/s"),
    ):
        result = bootplane("rack", "set", "rack1", *options)
        assert (result.exit_code, result.stdout) == (1, "") and words in result.stderr
    assert bootplane("rack", "set", "rack1").exit_code == 2 and len(region.calls) == before
    region.problem("PATCH /racks/rack1", 400, "rack rack1: cache limit: expected more")
    result = bootplane("rack", "set", "rack1", "--cache-size", "1MiB")
    assert (result.exit_code, result.stderr) == (1, "bootplane: rack rack1: cache limit: expected more\n")


def test_rack_cache_says_in_sentences_how_far_it_carries_and_what_is_in_it(bootplane, region) -> None:
    whole = """\
Rack a07, up for 2:01:09.
3.1 GiB of 4.0 GiB used (77 %) in 812 segments: 4.0 MiB protected, 1.0 GiB in lasting use.
97 % of 1,204 transfers found everything here; 30 had to wait for the region, 6 for what others had asked for already.
Upstream gave 404.0 MiB for 25.2 GiB served (64 x).
Nothing was evicted. No chunk was refused.

FILE                                      SIZE       HERE    %
ubuntu/noble/amd64/ga-24.04/squashfs  500.0 MiB  403.0 MiB   80
bbbbbbbbbbbbbbbb (withdrawn)            1.0 MiB    1.0 MiB  100
"""
    for arguments in (("rack", "cache"), ("rack", "cache", "rack1")):
        result = bootplane(*arguments)
        assert [line.split() for line in result.stdout.splitlines()] == [line.split() for line in whole.splitlines()]
        assert (result.stderr, result.exit_code) == ("", 0)
    assert json.loads(bootplane("rack", "cache", "--json").stdout) == region.answers[CACHE]


def test_rack_cache_says_what_went_wrong_and_how_old_it_is(bootplane, region) -> None:
    refusal = {
        "at": "2026-11-21T09:59:00Z",
        "blob": "c" * 64,
        "chunk": 7,
        "source": "10.0.0.1:5241",
        "expected": "d" * 64,
        "got": "e" * 64,
    }
    numbers = {"age_s": 600.0, "files_age_s": 28.0, "files_total": 51, "condemned_bytes": 4 << 20, "in_place_files": 3}
    numbers |= {
        "evicted_segments": 120,
        "evicted_room_segments": 120,
        "evicted_bytes": 480 << 20,
        "refused_chunks": 1,
        "hits": 1203,
        "misses": 1,
        "coalesced": 0,
    }
    region.answers[CACHE] = region.answers[CACHE] | numbers | {"refusals": [refusal]}
    result = bootplane("rack", "cache", "rack1")
    assert "up for 2:01:09; told 10:00 ago (2026-11-21T10:00:00Z), silent since." in result.stdout
    assert "lasting use; 4.0 MiB evicted, but still being read.\n99 % of 1,204 transfers found" in result.stdout
    assert " everything here; 1 had to wait for the region.\n" in result.stdout
    assert (
        "Evicted: 120 segments, 480.0 MiB (120 for room). 1 chunk was refused for a wrong digest; no" in result.stdout
    )
    assert "3 files served from the region's own directory" in result.stdout
    last = result.stdout.splitlines()[-1].split()
    assert last == ["2026-11-21T09:59:00Z", "c" * 16, "7", "10.0.0.1:5241", "d" * 16, "e" * 16]
    assert result.stderr == "The 2 with most bytes here, of 51.\nThe list of files is 28 s older than the rest.\n"


def test_rack_cache_says_what_left_last_why_and_for_whom(bootplane, region) -> None:
    eviction = {
        "at": "2026-11-21T09:59:00Z", "sha256": "c" * 64, "name": "ubuntu/noble/amd64/ga-24.04/squashfs",
        "segments": 12, "bytes": 48 << 20, "reason": "room", "idle_s": 7269.2,
        "wanted_by": "d" * 64, "wanted_name": "centos/8/root-tgz",
    }  # fmt: skip
    unnamed = eviction | {"name": "", "wanted_name": "", "segments": 1, "bytes": 4096, "idle_s": 42}
    region.answers[CACHE] = region.answers[CACHE] | {
        "evictions": [
            eviction,
            unnamed,
            *(eviction | {"reason": reason, "wanted_by": ""} for reason in ("limit", "disk", "dropped", "rotten")),
        ]
    }
    shown = bootplane("rack", "cache").stdout
    whole = "12 segments (48.0 MiB) of ubuntu/noble/amd64/ga-24.04/squashfs"
    assert shown.partition("Left last:\n")[2].splitlines() == [
        f"  2026-11-21T09:59:00Z  {sentence}"
        for sentence in (
            f"{whole} made room for centos/8/root-tgz, unused for 2:01:09.",
            f"1 segment (4.0 KiB) of {'c' * 16} (withdrawn) made room for {'d' * 16}, unused for 42 s.",
            f"{whole} left as the limit was lowered, unused for 2:01:09.",
            f"{whole} left as the disk was full, unused for 2:01:09.",
            f"{whole} left as no catalogue names it any more.",
            f"{whole} left as it was damaged on the disk.",
        )
    ]


def test_rack_cache_says_what_a_larger_one_is_good_for_and_what_the_disk_has_shown(bootplane, region) -> None:
    numbers = {"made_segments": 1000, "ghost_double_segments": 129, "ghost_quadruple_segments": 300}
    numbers |= {
        "evicted_segments": 9,
        "evicted_room_segments": 4,
        "evicted_limit_segments": 3,
        "evicted_disk_segments": 2,
    }
    numbers |= {"kept_segments": 812, "rechecked_chunks": 96, "rotten_chunks": 1, "throttled_s": 187.4}
    numbers |= {"scrub_passes": 2, "scrub_chunks": 1204, "scrub_damaged": 0, "scrub_last_pass_s": 187.0}
    numbers |= {"upstream_limit_bytes_s": 31_250_000}
    region.answers[CACHE] = region.answers[CACHE] | numbers
    numbers |= {"open_segments": 512, "reopened_segments": 96}
    region.answers[CACHE] = region.answers[CACHE] | numbers
    assert bootplane("rack", "cache").stdout.splitlines()[4:10] == [
        "Evicted: 9 segments, 0 B (4 for room, 3 by a lower limit, 2 for a full disk). No chunk was refused.",
        "512 of 812 files are open; one was opened again 96 times.",
        "Of 1000 segments fetched, a cache of 8.0 GiB would still have had 12 %, one of 16.0 GiB 30 %.",
        "Upstream is limited to 250 Mbit/s; machines have waited for that for 3:07.",
        "812 segments kept from the run before; 96 chunks hashed before the first use, 1 found rotten.",
        "Scrub: 1204 chunks read again from the disk, none damaged; 2 whole passes, the last in 3:07.",
    ]
    changes = {"rechecked_chunks": 0, "rotten_chunks": 0, "scrub_passes": 1, "throttled_s": 0.0}
    region.answers[CACHE] = region.answers[CACHE] | changes
    shown = bootplane("rack", "cache").stdout
    region.answers[CACHE] = region.answers[CACHE] | {"misfit_segments": 2}
    misfits = "\n812 segments kept from the run before; 2 did not fit what the catalogue says of their files.\n"
    assert misfits in bootplane("rack", "cache").stdout
    assert "\n812 segments kept from the run before.\n" in shown and "; 1 whole pass, the last" in shown
    assert "Upstream is limited to 250 Mbit/s; nobody has waited for that yet." in shown


def test_a_forecast_says_what_a_storm_fetches_and_what_leaves_for_it(bootplane, region) -> None:
    key = "GET /racks/rack1/forecast?image=ubuntu%2Fnoble%2Famd64%2Fga-24.04"
    image = "ubuntu/noble/amd64/ga-24.04"

    def said(**changes) -> list[str]:
        region.answers[key] = region.answers[key] | changes
        return [" ".join(line.split()) for line in bootplane("rack", "cache", "--forecast", image).stdout.splitlines()]

    needs = (
        f"{image} 20261120 is 512.0 MiB, 12.0 MiB of it in the cache of rack a07: a storm would fetch 500.0 MiB, once."
    )
    assert said() == [
        needs,
        "100.0 MiB of 4.0 GiB are free: 400.0 MiB would leave for it, about in this order.",
        "",
        "WOULD LEAVE SIZE BYTES",
        "centos/8/amd64/generic/root-tgz 300.0 MiB 300.0 MiB",
        "others - 100.0 MiB",
    ]
    does_not_fit = "It does not fit: 7.0 MiB of it would push out its own beginning, "
    does_not_fit += "and be fetched again for machines that come late."
    assert said(short_bytes=7 << 20, age_s=600)[:3] == [
        f"{needs} This is as of 10:00 ago.",
        "100.0 MiB of 4.0 GiB are free: 400.0 MiB would leave for it, about in this order.",
        does_not_fit,
    ]
    assert said(evicted=[], evicted_bytes=0, short_bytes=0, age_s=1)[1:] == [
        "100.0 MiB of 4.0 GiB are free: no other file would leave for it."
    ]
    whole = f"{image} 20261120 is 512.0 MiB: all of it is in the cache of rack a07; a storm would fetch nothing."
    assert said(needed_bytes=0) == [whole]
    store = "in the region's own directory, which the rack reads"
    assert said(in_place_bytes=500 << 20) == [
        f"{image} 20261120 is 512.0 MiB: all of it is in the cache of rack a07 or {store}; a storm would fetch nothing."
    ]
    assert said(present_bytes=0) == [
        f"{image} 20261120 is 512.0 MiB: all of it is {store} (a07); a storm would fetch nothing."
    ]
    assert said(present_bytes=1 << 20, needed_bytes=11 << 20)[0] == (
        f"{image} 20261120 is 512.0 MiB, 1.0 MiB of it in the cache of rack a07 and 500.0 MiB {store}: "
        "a storm would fetch 11.0 MiB, once."
    )
    shown = bootplane("rack", "cache", "rack1", "--forecast", image, "--json").stdout
    assert json.loads(shown) == region.answers[key]


def test_rack_cache_of_a_rack_nobody_has_asked_divides_by_nothing(bootplane, region) -> None:
    zero = {key: 0 for key, value in region.answers[CACHE].items() if isinstance(value, int | float)}
    region.answers[CACHE] = region.answers[CACHE] | zero | {"files": []}
    assert bootplane("rack", "cache").stdout.splitlines() == [
        "Rack a07, up for 0 s.",
        "0 B of 0 B used in 0 segments.",
        "No machine has fetched anything yet.",
        "Upstream gave nothing for 0 B served.",
        "Nothing was evicted. No chunk was refused.",
    ]


def test_rack_cache_needs_an_id_when_there_are_two_racks_and_says_so_when_there_is_none(bootplane, region) -> None:
    rack = region.answers["GET /racks"]["items"][0]
    region.answers["GET /racks"] = {"items": [rack, rack | {"id": "rack2", "name": "b08"}], "next": None}
    two = bootplane("rack", "cache")
    assert (two.exit_code, two.stdout) == (1, "") and "There are 2 racks: say which one, of rack1, b08." in two.stderr
    region.answers["GET /racks"] = {"items": [], "next": None}
    none = bootplane("rack", "cache")
    assert (none.exit_code, none.stdout) == (1, "") and "No rack yet" in none.stderr
    region.problem("GET /racks/x/cache", 404, "rack 'x': there is none of this id or name")
    unknown = bootplane("rack", "cache", "x")
    assert unknown.exit_code == 1 and "rack 'x': there is none of this id or name" in unknown.stderr


def test_rack_without_region_or_token_is_a_usage_error(bootplane) -> None:
    result = bootplane("rack")
    assert result.exit_code == 2
    assert "--region URL and --token-file FILE" in result.stderr


def test_a_racks_token_is_the_only_thing_on_stdout(bootplane, region) -> None:
    region.answers["POST /rack-tokens"] = {"id": "rack9", "token": "bpr1.rack9.s.k"}
    result = bootplane("rack-token", "new", "rack-9")
    assert result.stdout == "bpr1.rack9.s.k\n"
    assert "bpr1" not in result.stderr
    assert region.calls[-1].body == {"name": "rack-9"}


def test_a_racks_token_goes_to_a_new_file_of_mode_0600_and_nowhere_else(bootplane, region, tmp_path: Path) -> None:
    region.answers["POST /rack-tokens"] = {"id": "rack9", "token": "bpr1.rack9.s.k"}
    out = tmp_path / "token"
    result = bootplane("rack-token", "new", "r", "--out", out, "--json")
    assert json.loads(result.stdout) == {"id": "rack9"}
    assert out.read_text() == "bpr1.rack9.s.k\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    calls = len(region.calls)
    again = bootplane("rack-token", "new", "r", "--out", out)
    assert again.exit_code == 1 and "exists already" in again.stderr
    assert len(region.calls) == calls  # no token is made that cannot be kept


def test_status_names_banners_first(bootplane, region) -> None:
    status = copy.deepcopy(region.answers["GET /status"])
    status["banners"] = [
        {"id": "disk", "text": "/srv: 3 bytes missing.", "since": "2026-11-21T10:00:00Z", "remedy": "Make room."}
    ]
    region.answers["GET /status"] = status
    lines = bootplane("status").stdout.splitlines()
    assert lines[0] == "! /srv: 3 bytes missing. [disk] (since 2026-11-21T10:00:00Z) Make room."
    assert lines[1].startswith("region")
    assert "store       /srv/image-storage: 3 files, 5.0 MiB, 9.0 GiB free" in lines


def test_status_says_how_the_store_is_and_what_lies_aside(bootplane, region) -> None:
    lines = bootplane("status").stdout.splitlines()
    assert "hashed      all since 2026-11-20T10:00:00Z" in lines
    assert not any(line.startswith(("set aside", "to go")) for line in lines)
    status = copy.deepcopy(region.answers["GET /status"])
    status["store"]["marked_bytes"] = 7 << 20
    status["store"]["aside"] |= {"files": 2, "bytes": 5 << 20, "until": "2026-11-22T10:00:00Z"}
    status["store"]["audit"] |= {"oldest": None, "due": 4, "found": 1, "found_bytes": 1 << 20, "rotten": 3}
    region.answers["GET /status"] = status
    lines = bootplane("status").stdout.splitlines()
    hashed = "not every file yet, 4 due, 1 found file, 1.0 MiB, first, 3 damaged since the start"
    assert f"hashed      {hashed}" in lines
    assert "to go       7.0 MiB that nothing names any more" in lines
    aside = "set aside   2 files, 5.0 MiB in /srv/image-storage/.aside, the first until 2026-11-22T10:00:00Z"
    assert aside in lines


def test_status_json_is_the_apis_document(bootplane, region) -> None:
    assert json.loads(bootplane("status", "--json").stdout) == region.answers["GET /status"]


def test_events_are_printed_as_they_come_and_a_closed_stream_is_a_failure(bootplane, region) -> None:
    sync = {
        "state": "downloading", "files": [], "bytes_total": 4 << 20, "bytes_done": 1 << 20, "rate": 1 << 20, "eta_s": 3,
    }  # fmt: skip
    stream = f": hello\n\nevent: sync\ndata: {json.dumps(sync)}\n\nevent: banner\ndata: {{}}\n\n".encode()
    region.answers["GET /events"] = (200, "text/event-stream", stream)
    result = bootplane("events")
    assert result.stdout.splitlines() == [
        "sync     downloading: 1.0 MiB of 4.0 MiB (25 %) at 1.0 MiB/s, 3 s left",
        "banner   {}",
    ]
    assert (result.exit_code, "ended the event stream" in result.stderr) == (1, True)
    first = bootplane("events", "--json").stdout.splitlines()[0]
    assert json.loads(first) == {"event": "sync", "data": sync}


def test_web_prints_a_link_that_a_browser_can_open(bootplane, region) -> None:
    region.answers["POST /login-links"] = {"path": "/login?once=abc"}
    assert bootplane("web").stdout == f"http://{region.address}/login?once=abc\n"
