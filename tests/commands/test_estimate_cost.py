"""`estimate_cost`: what it tells, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError

Said = Callable[..., str]

EXAMPLE = ("--params", "25e6", "--clients", "100", "--rounds-a-day", "24")


def estimate(said: Said, *more: Any) -> Any:
    """The estimate of the example in the documentation, with these options more, or instead."""
    return json.loads(said("estimate_cost", *EXAMPLE, *more, "--json"))


def test_the_tables_tell_a_round_and_a_month(said: Said) -> None:
    """For people: where the prices are from, what each line costs, and what is measured and what not."""
    out = said("estimate_cost", *EXAMPLE)
    for told in (
        "modelled by prices of us-east-1, 2026-11-24",
        "Lambda, the round",
        "GB-seconds",
        "S3, updates kept",
        "A month in which nobody uploads",
        "measured dollars a thousand",
        "where this project is tested, not on AWS",
        "a small server that is always on",
    ):
        assert told in out


def test_the_sums_are_those_of_the_lines(said: Said) -> None:
    """JSON has all of it, in numbers that add up."""
    report = estimate(said)
    lines = report["round"]["lines"]
    assert report["round"]["dollars"] == pytest.approx(sum(e["dollars_a_round"] for e in lines))
    assert report["dollars_a_month"] == pytest.approx(sum(report["month"].values()))
    for each in lines:
        assert each["dollars_a_month"] == pytest.approx(each["dollars_a_round"] * 730)
        assert report["month"][each["what"]] == pytest.approx(each["dollars_a_month"])
    assert report["round"]["bytes_read"] == 100 * 100_000_000
    assert report["round"]["fits_in_15_minutes"]


def test_a_rule_that_measures_reads_twice(said: Said) -> None:
    """Krum reads all updates and the parent, and then the one it chose."""
    report = estimate(said, "--rule", "krum", "--rule-arg", "f=10")
    assert report["round"]["bytes_read"] == 102 * 100_000_000


@pytest.mark.parametrize(
    ("option", "part", "cheaper"),
    [
        (("--architecture", "x86_64"), "Lambda, the round", False),
        (("--memory-mb", "1024"), "snapshot of the live version", True),
        (("--dtype", "float16"), "S3, updates kept", True),
        (("--updates-a-round", "50"), "SQS", True),
        (("--upload-minutes", "30"), "Aurora, awake for the round", False),
        (("--throughput", "140"), "Lambda, the round", True),
        (("--parameter", "EndpointZones=0"), "interface endpoints", True),
        (("--parameter", "UpdateRetentionDays=7"), "S3, updates kept", True),
        (("--parameter", "DatabaseMinCapacity=0.5"), "Aurora, never paused", False),
        (("--parameter", "SweepSchedule=rate(15 minutes)"), "Aurora, woken by sweeps", False),
    ],
)
def test_each_option_counts(option: tuple[str, str], part: str, cheaper: bool, said: Said) -> None:
    """What an option is about becomes cheaper, or dearer, by it."""
    plain, changed = estimate(said)["month"][part], estimate(said, *option)["month"][part]
    assert (changed < plain) is cheaper
    assert changed != plain


def test_a_database_of_ones_own_is_not_counted(said: Said) -> None:
    """Without Aurora, nothing of it is in the bill."""
    report = estimate(said, "--database", "none")
    assert not sum(cost for name, cost in report["month"].items() if "Aurora" in name)
    assert not sum(cost for name, cost in report["idle_month"].items() if "Aurora" in name)


def test_a_round_that_goes_on_is_told(said: Said) -> None:
    """Longer than the timeout: over how many invocations, and which of them a sweep must begin."""
    more = ("--params", "1e10", "--rounds-a-day", "1")
    report = estimate(said, *more)
    assert not report["round"]["fits_in_15_minutes"]
    notes = " ".join(report["notes"])
    assert f"over {report['round']['invocations']} invocations" in notes
    assert "times only after a sweep" in notes
    assert "until MaxUpdateBytes is raised" in notes
    assert "no" in said("estimate_cost", *EXAMPLE, *more).splitlines()[2]


def test_what_cannot_be_compared_is_left_out(said: Said) -> None:
    """At a rate at which the largest of the published rounds would never end, it has no figure."""
    report = estimate(said, "--params", "1e3", "--throughput", "0.25")
    assert [each["modelled_seconds"] for each in report["sharded"]][1:] == [None, None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--params", "0"), "expected a whole number from 1"),
        (("--params", "-5"), "expected a whole number from 1"),
        (("--params", "2.5"), "expected a whole number from 1"),
        (("--params", "many"), "'many' given, expected a number such as 25e6"),
        (("--params", "1e30"), "expected a whole number from 1"),
        (("--params", "1e400"), "expected a number such as"),
        (("--params", "nan"), "expected a number such as"),
        (("--params", "5e12"), "bytes; an update has"),
        (("--clients", "0"), "expected a whole number from 1 to"),
        (("--clients", "1e8"), "expected a whole number from 1 to"),
        (("--rounds-a-day", "0"), "expected a number above 0"),
        (("--rounds-a-day", "1000"), "1000 a day do not fit"),
        (("--updates-a-round", "101"), "101 updates a round of 100 clients"),
        (("--upload-minutes", "-1"), "expected a number from 0"),
        (("--throughput", "0"), "expected a number above 0"),
        (("--throughput", "0.1"), "would never end"),
        (("--clients", "1e7"), "would never end"),
        (("--memory-mb", "128"), "from 512 to 10240"),
        (("--dtype", "int"), "invalid choice: 'int'"),
        (("--region", "mars"), "invalid choice: 'mars'"),
        (("--rule", "best"), "unknown aggregation rule 'best'"),
        (("--rule", "krum"), "krum takes the arguments f"),
        (("--rule", "krum", "--rule-arg", "f=many"), "f must be a whole number"),
        (("--rule", "krum", "--rule-arg", "f=60"), "at least 123 updates a round, 100 are there"),
        (("--rule", "geometric_median", "--clients", "1e4"), "compares each update with each"),
        (("--rule-arg", "f"), "--rule-arg is given as NAME=VALUE"),
        (("--parameter", "EndpointZones"), "--parameter is given as NAME=VALUE"),
        (("--parameter", "EndpointZones=3"), "EndpointZones=3: expected 0 to 2"),
        (("--parameter", "MemoryMb=abc"), "MemoryMb=abc: expected 512 to 10240"),
        (("--parameter", "MaxConcurrency=3"), "no parameter that costs depend on"),
    ],
)
def test_what_cannot_be_is_refused(wrong: tuple[str, ...], message: str, said: Said) -> None:
    """A wrong argument is named, with what is expected."""
    with pytest.raises(CommandError, match=message):
        said("estimate_cost", *EXAMPLE, *wrong)
