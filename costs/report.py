"""An estimate as values for JSON and as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from costs.duration import MEASURED_MB_A_SECOND, NETWORK_MB_A_SECOND, NoProgress
from costs.estimate import UPDATES_KEPT, Federation, Line
from costs.published import LONGEST_SECONDS, SHARDED, Sharded, same_work
from costs.stack import server

#: The default of the template's parameter MaxUpdateBytes.
DEFAULT_MAX_UPDATE_BYTES = 10 << 30

#: The shortest retention that the template allows, for comparison.
SHORT_RETENTION_DAYS = 7

Row = dict[str, Any]


def report(federation: Federation) -> Row:
    """Return the estimate of a federation.

    Raises
    ------
    ValueError
        If the rounds do not fit into a day.
    NoProgress
        If a round would never end.
    """
    prices = federation.prices
    if federation.elapsed_seconds * federation.rounds_a_day > 86_400:
        raise ValueError(
            f"a round takes {federation.elapsed_seconds:.4g} s, and a model has one at a time: "
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
        "sharded": [_compare(each, federation) for each in SHARDED],
        "notes": _notes(federation),
    }


def _round(federation: Federation) -> Row:
    duration, work = federation.duration, federation.work
    return {
        "update_bytes": work.layout.nbytes,
        "bytes_read": work.nbytes,
        "seconds": duration.seconds,
        "billed_seconds": duration.billed_seconds,
        "invocations": duration.invocations,
        "functions": federation.shared.functions if federation.shared else 1,
        "fits_in_15_minutes": duration.seconds <= LONGEST_SECONDS,
        "requests": dict(federation.requests),
        "lines": [_line(each, federation.rounds_a_month) for each in federation.lines],
        "dollars": sum(each.dollars for each in federation.lines),
    }


def _line(each: Line, rounds_a_month: float) -> Row:
    return {
        "what": each.what,
        "amount": each.amount,
        "unit": each.unit,
        "dollars_a_round": each.dollars,
        "dollars_a_month": each.dollars * rounds_a_month,
    }


def _compare(published: Sharded, federation: Federation) -> Row:
    row: Row = {
        "model": published.model,
        "clients": published.clients,
        "measured_seconds": published.seconds,
        "measured_dollars_a_thousand": published.dollars,
    }
    for name, shared in (("one_function", False), ("several_functions", True)):
        seconds, dollars = _modelled(same_work(published, federation, shared=shared))
        row |= {f"{name}_seconds": seconds, f"{name}_dollars_a_thousand": dollars}
    return row


def _modelled(federation: Federation) -> tuple[float | None, float | None]:
    """Return the seconds of a round and the dollars of a thousand rounds; None if it would never end."""
    try:
        return federation.elapsed_seconds, 1000 * federation.round_dollars
    except NoProgress:
        return None, None


def _notes(federation: Federation) -> list[str]:
    """Return what the figures do not say by themselves."""
    duration, prices = federation.duration, federation.prices
    notes = [
        *_kept_updates(federation),
        f"the function reads {federation.mb_a_second:g} MB/s: {MEASURED_MB_A_SECOND:g} were measured "
        f"over S3 where this project is tested, not on AWS; {NETWORK_MB_A_SECOND:g} are assumed for "
        "the network of one function",
        f"a small server that always runs, with its database: {server(prices):.2f} a month, and the "
        "same for S3",
        f"aggregates are never deleted: {federation.aggregates_gb:.4g} GB more each month",
        f"clients outside AWS that fetch each aggregate: {federation.fetched_gb:.4g} GB a month for "
        f"{federation.fetched_gb * prices.internet_gb:.2f}, which is not in the sum",
        "free quantities of AWS are not deducted",
    ]
    if federation.shared:
        notes.append(
            f"{federation.shared.functions} functions share a round, in {federation.shared.tasks} tasks"
        )
    if duration.invocations > 1:
        notes.append(
            f"the round continues over {duration.invocations} invocations"
            + (f", {duration.sweeps} times only after a sweep" if duration.sweeps else "")
        )
    if federation.work.layout.nbytes > DEFAULT_MAX_UPDATE_BYTES:
        notes.append("updates of this size are rejected until MaxUpdateBytes is raised")
    return notes


def _kept_updates(federation: Federation) -> list[str]:
    """Say so if kept updates are most of the costs, and what a shorter retention would save."""
    kept, total = federation.month[UPDATES_KEPT], sum(federation.month.values())
    if kept <= total / 2:
        return []
    note = f"{kept / total:.0%} of the month is for updates that are kept: {kept:.2f}"
    stack = federation.stack
    if stack.update_retention_days > SHORT_RETENTION_DAYS:
        short = replace(
            federation, stack=replace(stack, update_retention_days=SHORT_RETENTION_DAYS)
        )
        note += (
            f"; with UpdateRetentionDays={SHORT_RETENTION_DAYS} instead of "
            f"{stack.update_retention_days}: {short.month[UPDATES_KEPT]:.2f}"
        )
    return [note]


def tables(values: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """Return the tables of a report with their titles."""
    source = f"modelled with prices of {values['region']}, {values['prices_noted_on']}"
    return [
        (f"A round, {source}", [_summary(values["round"])]),
        ("The costs of a round ($)", _readable(values["round"]["lines"])),
        ("A month ($)", _costs(values["month"])),
        ("A month without uploads ($)", _costs(values["idle_month"])),
        ("Comparison with a sharded serverless aggregator", _readable(values["sharded"])),
    ]


def _summary(values: Mapping[str, Any]) -> Row:
    return {
        "MB read": values["bytes_read"] / 1e6,
        "seconds": round(values["seconds"], 1),
        "invocations": values["invocations"],
        "functions": values["functions"],
        "fits in 15 minutes": values["fits_in_15_minutes"],
        "$": round(values["dollars"], 6),
    }


def _readable(rows: list[Row]) -> list[Row]:
    """Return rows for people, with three digits."""
    return [{name.replace("_", " "): _short(value) for name, value in row.items()} for row in rows]


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _costs(costs: Mapping[str, float]) -> list[Row]:
    rows = {name: dollars for name, dollars in costs.items() if dollars}
    rows["sum"] = sum(costs.values())
    return [{"what": name, "$": f"{dollars:.2f}"} for name, dollars in rows.items()]
