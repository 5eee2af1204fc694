"""`estimate_cost`: what it reports, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError

RunCommand = Callable[..., str]

EXAMPLE = ("--params", "25e6", "--clients", "100", "--rounds-a-day", "24")


def estimate(run_command: RunCommand, *more: Any) -> Any:
    """Return the estimate of the documented example with further or other options."""
    return json.loads(run_command("estimate_cost", *EXAMPLE, *more, "--json"))


def test_the_tables_show_a_round_and_a_month(run_command: RunCommand) -> None:
    """The tables show the source of the prices, the costs of each line, and what is measured or assumed."""
    out = run_command("estimate_cost", *EXAMPLE)
    for text in (
        "modelled with prices of us-east-1, 2026-11-24",
        "Lambda, the round",
        "GB-seconds",
        "S3, updates kept",
        "A month without uploads",
        "measured dollars a thousand",
        "where this project is tested, not on AWS",
        "a small server that always runs",
    ):
        assert text in out


def test_the_sums_are_those_of_the_lines(run_command: RunCommand) -> None:
    """The JSON contains all lines, and their sums."""
    report = estimate(run_command)
    lines = report["round"]["lines"]
    assert report["round"]["dollars"] == pytest.approx(sum(e["dollars_a_round"] for e in lines))
    assert report["dollars_a_month"] == pytest.approx(sum(report["month"].values()))
    for each in lines:
        assert each["dollars_a_month"] == pytest.approx(each["dollars_a_round"] * 730)
        assert report["month"][each["what"]] == pytest.approx(each["dollars_a_month"])
    assert report["round"]["bytes_read"] == 100 * 100_000_000
    assert report["round"]["fits_in_15_minutes"]


def test_a_rule_that_measures_reads_twice(run_command: RunCommand) -> None:
    """Krum reads all updates and the parent, and then the selected update."""
    report = estimate(run_command, "--rule", "krum", "--rule-arg", "f=10")
    assert report["round"]["bytes_read"] == 102 * 100_000_000


@pytest.mark.parametrize(
    ("option", "part", "cheaper"),
    [
        (("--architecture", "x86_64"), "Lambda, the round", False),
        (("--memory-mb", "1024"), "snapshot of the live version", True),
        (("--dtype", "float16"), "S3, updates kept", True),
        (("--optimizer", "fedadam"), "S3, aggregates of one month kept", False),
        (("--updates-a-round", "50"), "SQS", True),
        (("--upload-minutes", "30"), "Aurora, active for the round", False),
        (("--throughput", "140"), "Lambda, the round", True),
        (("--parameter", "EndpointZones=0"), "interface endpoints", True),
        (("--parameter", "UpdateRetentionDays=7"), "S3, updates kept", True),
        (("--parameter", "DatabaseMinCapacity=0.5"), "Aurora, never paused", False),
        (("--parameter", "SweepSchedule=rate(15 minutes)"), "Aurora, resumed by sweeps", False),
    ],
)
def test_each_option_has_an_effect(
    option: tuple[str, str], part: str, cheaper: bool, run_command: RunCommand
) -> None:
    """An option makes its line cheaper or more expensive."""
    plain, changed = (
        estimate(run_command)["month"][part],
        estimate(run_command, *option)["month"][part],
    )
    assert (changed < plain) is cheaper
    assert changed != plain


def test_an_existing_database_is_not_counted(run_command: RunCommand) -> None:
    """Without Aurora, no line contains it."""
    report = estimate(run_command, "--database", "none")
    assert not sum(cost for name, cost in report["month"].items() if "Aurora" in name)
    assert not sum(cost for name, cost in report["idle_month"].items() if "Aurora" in name)


def test_a_long_round_is_explained(run_command: RunCommand) -> None:
    """The notes say how many invocations a long round needs, and how often a sweep must continue it."""
    more = ("--params", "1e10", "--rounds-a-day", "1")
    report = estimate(run_command, *more)
    assert not report["round"]["fits_in_15_minutes"]
    notes = " ".join(report["notes"])
    assert f"over {report['round']['invocations']} invocations" in notes
    assert "times only after a sweep" in notes
    assert "until MaxUpdateBytes is raised" in notes
    assert "no" in run_command("estimate_cost", *EXAMPLE, *more).splitlines()[2]


def test_several_functions_are_faster_for_their_price(run_command: RunCommand) -> None:
    """If MaxFunctions allows it, functions share a round that one would not read within the target."""
    allowed = ("--parameter", "MaxFunctions=20")
    alone, shared = estimate(run_command), estimate(run_command, *allowed, "--target-seconds", "40")
    assert alone["round"]["functions"] == 1
    assert shared["round"]["functions"] == 5
    assert shared["round"]["seconds"] < 40 < alone["round"]["seconds"]
    assert shared["month"]["Step Functions"] > 0
    assert "5 functions share a round, in 5 tasks" in shared["notes"]
    unhurried = estimate(run_command, *allowed, "--target-seconds", "200")
    assert unhurried["round"] == alone["round"]


def test_a_comparison_without_progress_has_no_figures(run_command: RunCommand) -> None:
    """A published round that would never end at this rate has no figures."""
    report = estimate(run_command, "--params", "1e3", "--throughput", "0.25")
    for name in ("one_function_seconds", "one_function_dollars_a_thousand"):
        assert [each[name] for each in report["sharded"]][1:] == [None, None, None]


def test_kept_updates_are_named_as_the_largest_cost(run_command: RunCommand) -> None:
    """If kept updates are most of the month, a note gives their share and a shorter retention."""
    values = estimate(run_command)
    kept, total = values["month"]["S3, updates kept"], values["dollars_a_month"]
    (note,) = [each for each in values["notes"] if "updates that are kept" in each]
    assert note.startswith(f"{kept / total:.0%} of the month")
    short = estimate(run_command, "--parameter", "UpdateRetentionDays=7")["month"][
        "S3, updates kept"
    ]
    assert f"UpdateRetentionDays=7 instead of 90: {short:.2f}" in note


def test_kept_updates_are_not_named_otherwise(run_command: RunCommand) -> None:
    """If other costs are larger, no note is about kept updates."""
    notes = " ".join(estimate(run_command, "--params", "1e4")["notes"])
    assert "updates that are kept" not in notes


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
        (("--pre-aggregation", "nnm(f=2)"), "weighted_mean withstands no hostile update"),
        (("--rule", "krum", "--rule-arg", "f=many"), "f must be a whole number"),
        (("--rule", "krum", "--rule-arg", "f=60"), "at least 123 updates a round, not 100"),
        (("--rule", "geometric_median", "--clients", "2e4"), "compares all pairs of updates"),
        (("--rule-arg", "f"), "--rule-arg must be NAME=VALUE"),
        (("--parameter", "EndpointZones"), "--parameter must be NAME=VALUE"),
        (("--rule-arg", "f=1", "--rule-arg", "f=2"), "--rule-arg: 'f' is given twice"),
        (("--parameter", "EndpointZones=3"), "EndpointZones=3: expected 0 to 2"),
        (("--parameter", "MemoryMb=abc"), "MemoryMb=abc: expected 512 to 10240"),
        (("--target-seconds", "0"), "expected a number above 0"),
        (("--parameter", "MaxFunctions=0"), "MaxFunctions=0: expected 1 to 1000"),
        (("--parameter", "MaxConcurrency=3"), "costs do not depend on a parameter MaxConcurrency"),
    ],
)
def test_an_impossible_value_is_refused(
    wrong: tuple[str, ...], message: str, run_command: RunCommand
) -> None:
    """The message names the wrong argument and what is expected."""
    with pytest.raises(CommandError, match=message):
        run_command("estimate_cost", *EXAMPLE, *wrong)
