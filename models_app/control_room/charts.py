"""The charts of rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.utils.safestring import SafeString

from models_app.control_room.frames import Axes, Series
from models_app.control_room.names import Name, as_text
from models_app.control_room.plots import bar_plot
from models_app.models import AggregationRound
from models_app.overview import Durations, RoundSummary

#: Units and how many bytes or seconds they hold, the largest first.
BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
TIMES = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0), ("ms", 1e-3))


def clients_chart(
    rounds: Sequence[RoundSummary], rejected_before: Mapping[int, int], name: Name = as_text
) -> SafeString:
    """Draw how many updates each round used, and how many were rejected in it and before it."""
    axes = Axes(title="Clients of each round", across="round", up="updates", whole=True)
    series = [
        Series(name="used", kind="good", values=[float(each.used) for each in rounds]),
        Series(
            name="rejected in the round",
            kind="bad",
            values=[float(each.rejected) for each in rounds],
        ),
        Series(
            name="rejected before it",
            kind="plain",
            values=[float(rejected_before.get(each.pk, 0)) for each in rounds],
        ),
    ]
    return bar_plot(axes, _labels(rounds), series, names=_names(rounds, name))


def effort_charts(
    rounds: Sequence[RoundSummary], durations: Durations, name: Name = as_text
) -> list[SafeString]:
    """Draw how long each round took, and how much it read."""
    published = [each.state == AggregationRound.State.PUBLISHED for each in rounds]
    spread = ""
    if durations.p95 is not None:
        spread = (
            f"Median {amount(durations.median, TIMES)}, 95th percentile "
            f"{amount(durations.p95, TIMES)} of the latest {durations.rounds} published."
        )
    charts = []
    for title, amounts, units, note in (
        ("Duration of each round", [each.seconds or 0.0 for each in rounds], TIMES, spread),
        ("Read from storage in each round", [float(each.bytes_read) for each in rounds], BYTES, ""),
    ):
        unit, size = _unit(max(amounts, default=0.0), units)
        stacked = _by_outcome([amount / size for amount in amounts], published)
        axes = Axes(title=title, across="round", up=unit)
        names = _names(rounds, name)
        charts.append(bar_plot(axes, _labels(rounds), stacked, names=names, note=note))
    return charts


def _labels(rounds: Sequence[RoundSummary]) -> list[str]:
    return [str(each.number) for each in rounds]


def _names(rounds: Sequence[RoundSummary], name: Name) -> list[str | SafeString]:
    return [name("aggregationround", each.pk, str(each.number)) for each in rounds]


def _by_outcome(amounts: Sequence[float], published: Sequence[bool]) -> list[Series]:
    """Return one series, or two if some rounds made no aggregate."""
    pairs = list(zip(amounts, published, strict=True))
    made = Series(name="published", kind="plain", values=[a if was else 0.0 for a, was in pairs])
    lost = Series(name="no aggregate", kind="bad", values=[0.0 if was else a for a, was in pairs])
    return [made] if all(published) else [made, lost]


def _unit(greatest: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """Return the largest unit of which there is at least one."""
    return next((unit for unit in units if greatest >= unit[1]), units[-1])


def amount(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    """Return a number with its unit, with three digits or more; empty for None."""
    if value is None:
        return ""
    name, size = _unit(value, units)
    shown = value / size
    return f"{shown:.0f} {name}" if shown >= 99.5 else f"{shown:.3g} {name}"
