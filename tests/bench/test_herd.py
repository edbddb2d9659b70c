"""What a run of the cold herd says about its samples. The run itself needs root and minutes: ``make bench-herd``."""

from __future__ import annotations

from bench.herd import MIB, Sample, absolutes, comparisons, figures

GOOD = Sample(
    1.0, last_s=13.0, first_s=0.040, first_most_s=0.050, grown=0, grown_most=2 * MIB, cpu_s=1.0, load_cpu_s=1.0
)
BAD = Sample(
    1.000001,
    last_s=26.0,
    first_s=0.070,
    first_most_s=0.080,
    grown=20 * MIB,
    grown_most=20 * MIB,
    cpu_s=2.0,
    load_cpu_s=1.0,
)


def test_goals_that_are_no_ratios_are_told_with_what_was_found() -> None:
    assert [str(line) for line in figures(250, [GOOD, GOOD])] == [
        "cold herd at 250 Mbit/s: upstream copies: 1 [1-1] copies, 2 samples, goal <= 1",
        "cold herd at 250 Mbit/s: anonymous memory: 2 [2-2] MiB, 2 samples, goal <= 16",
        "cold herd at 250 Mbit/s: first byte of the last client: 50 [50-50] ms, 2 samples, goal <= 60",
    ]


def test_what_most_samples_miss_is_missed() -> None:
    assert [line.reached for line in figures(250, [GOOD, BAD, BAD])] == [False] * 3
    assert [line.reached for line in figures(250, [GOOD, GOOD, BAD])] == [True] * 3


def test_each_peer_is_compared_with_the_sample_of_the_same_round() -> None:
    found = {
        line.what + " / " + line.baseline: line
        for line in comparisons(1000, [6.5], {"bootplane": [GOOD], "varnish": [BAD]})
    }
    last = found["cold herd at 1000 Mbit/s: last client / varnish"]
    assert (last.ratio, last.goal, last.reached) == (0.5, 0.9, True)
    assert found["cold herd at 1000 Mbit/s: last client / one lone client"].ratio == 2.0
    assert found["cold herd at 1000 Mbit/s: anonymous memory / varnish"].ratio == 0.1


def test_the_table_names_every_server_and_every_number_of_copies() -> None:
    lines = absolutes(250, [13.0, 13.0], {"bootplane": [GOOD, GOOD], "nginx": [GOOD, BAD]}).splitlines()
    assert lines[0] == "250 Mbit/s; one client over the bare link: 13.00 s"
    assert lines[2].split()[:4] == ["bootplane", "1", "13.00", "s"]
    assert lines[3].split()[:2] == ["nginx", "1/1.000001"]
