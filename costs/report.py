"""An estimate as it is told: all of it as JSON-able values, and as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costs.estimate import Federation, Line
from costs.published import SHARDED, Sharded, beside
from costs.rounds import MEASURED_MB_A_SECOND, NETWORK_MB_A_SECOND, NeverEnds
from costs.stack import server

#: The longest that Lambda lets one invocation run.
FIFTEEN_MINUTES = 900

#: The template's default of MaxUpdateBytes.
DEFAULT_MAX_UPDATE_BYTES = 10 << 30

Row = dict[str, Any]


def told(federation: Federation) -> Row:
    """All that is told of a federation.

    Raises
    ------
    ValueError
        If the rounds do not fit in a day.
    NeverEnds
        If a round would not.
    """
    took, prices = federation.duration, federation.prices
    if took.billed_seconds * federation.rounds_a_day > 86_400:
        raise ValueError(
            f"a round takes {took.billed_seconds:.4g} s, and a model has one at a time: "
            f"{federation.rounds_a_day:g} a day do not fit"
        )
    return {
        "region": prices.region,
        "prices_noted_on": str(prices.noted_on),
        "mb_a_second": federation.mb_a_second,
        "round": _round(federation),
        "idle_month": federation.stack.idle(prices),
        "month": federation.month,
        "dollars_a_month": sum(federation.month.values()),
        "always_on_server_month": server(prices),
        "sharded": [_compared(each, federation) for each in SHARDED],
        "notes": _notes(federation),
    }


def _round(federation: Federation) -> Row:
    took, work = federation.duration, federation.work
    return {
        "update_bytes": work.layout.nbytes,
        "bytes_read": work.nbytes,
        "seconds": took.seconds,
        "billed_seconds": took.billed_seconds,
        "invocations": took.invocations,
        "fits_in_15_minutes": took.seconds <= FIFTEEN_MINUTES,
        "requests": dict(federation.requests),
        "lines": [_line(each, federation.rounds_a_month) for each in federation.lines],
        "dollars": sum(each.a_round for each in federation.lines),
    }


def _line(each: Line, rounds_a_month: float) -> Row:
    return {
        "what": each.what,
        "amount": each.amount,
        "unit": each.unit,
        "dollars_a_round": each.a_round,
        "dollars_a_month": each.a_round * rounds_a_month,
    }


def _compared(published: Sharded, federation: Federation) -> Row:
    row: Row = {
        "model": published.model,
        "clients": published.clients,
        "measured_seconds": published.seconds,
        "measured_dollars_a_thousand": published.dollars,
    }
    same = beside(published, federation)
    try:
        row["modelled_seconds"] = same.duration.billed_seconds
        row["modelled_dollars_a_thousand"] = 1000 * same.round_alone
    except NeverEnds:
        row["modelled_seconds"] = row["modelled_dollars_a_thousand"] = None
    return row


def _notes(federation: Federation) -> list[str]:
    """What the figures do not say by themselves."""
    took, prices = federation.duration, federation.prices
    notes = [
        f"{federation.mb_a_second:g} MB/s are taken in: {MEASURED_MB_A_SECOND:g} were measured over S3 "
        f"where this project is tested, not on AWS; {NETWORK_MB_A_SECOND:g} are assumed of the network "
        "of one function",
        f"a small server that is always on, with its database: {server(prices):.2f} a month, and the "
        "same for S3",
        f"aggregates are never deleted: {federation.aggregates_gb:.4g} GB more each month",
        f"clients outside AWS that fetch each aggregate: {federation.fetched_gb:.4g} GB a month for "
        f"{federation.fetched_gb * prices.internet_gb:.2f}, which is not in the sum",
        "what AWS gives away is not taken off",
    ]
    if took.invocations > 1:
        notes.append(
            f"the round goes on over {took.invocations} invocations"
            + (f", {took.sweeps} times only after a sweep" if took.sweeps else "")
        )
    if federation.work.layout.nbytes > DEFAULT_MAX_UPDATE_BYTES:
        notes.append("updates of this size are refused until MaxUpdateBytes is raised")
    return notes


def tables(report: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """The tables of what was told, with their titles."""
    sources = f"modelled by prices of {report['region']}, {report['prices_noted_on']}"
    return [
        (f"A round, {sources}", [_summary(report["round"])]),
        ("What it costs ($)", _in_words(report["round"]["lines"])),
        ("A month ($)", _costs(report["month"])),
        ("A month in which nobody uploads ($)", _costs(report["idle_month"])),
        ("Beside a sharded serverless aggregator", _in_words(report["sharded"])),
    ]


def _summary(a_round: Mapping[str, Any]) -> Row:
    return {
        "MB read": a_round["bytes_read"] / 1e6,
        "seconds": round(a_round["seconds"], 1),
        "invocations": a_round["invocations"],
        "fits in 15 minutes": a_round["fits_in_15_minutes"],
        "$": round(a_round["dollars"], 6),
    }


def _in_words(rows: list[Row]) -> list[Row]:
    """Rows as people read them, to three digits."""
    return [{name.replace("_", " "): _short(value) for name, value in row.items()} for row in rows]


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _costs(costs: Mapping[str, float]) -> list[Row]:
    rows = {name: dollars for name, dollars in costs.items() if dollars}
    rows["sum"] = sum(costs.values())
    return [{"what": name, "$": f"{dollars:.2f}"} for name, dollars in rows.items()]
