"""Plots as inline SVG: no scripts, no requests, colours of the page, and a description in words.

Lengths are in units of the view box. It is as wide as a phone, so that text stays readable there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 360.0, 216.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 26.0, 42.0

#: The largest number of labels below the horizontal axis.
LABELS = 10

#: Rows of a strip plot: how many are drawn, how high, and how many characters of a name fit.
ROWS, ROW, SHORT = 30, 18.0, 8

#: The width of the words "far out".
FAR_OUT = 64.0

#: The left edge of a strip plot: its names are longer than numbers.
STRIP_LEFT = 76.0


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The title and axes of a plot."""

    title: str
    #: The names of the axes, with their units.
    across: str
    up: str
    #: Whether only whole numbers make sense.
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values in order, None for a missing one; the kind is a class of the stylesheet."""

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Dot:
    """A value of a strip plot, with its description."""

    value: float
    description: str


@dataclass(frozen=True)
class Scale:
    """Maps values to places from ``begin`` to ``end``; the ticks are round numbers around the values."""

    ticks: Sequence[float]
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        share = (value - low) / (high - low)
        return round(self.begin + share * (self.end - self.begin), 1)


def round_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return at most eight round numbers, evenly spaced, of which the first and last enclose the values."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-280):
        margin = 0.01 * abs(low) if abs(low) > 1e-280 else 1.0
        low, high = (low - margin, high + margin) if low else (0.0, margin)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((n * power for n in (1, 2, 5) if n * power >= rough), 10 * power)
    step = max(step, 1.0) if whole else step
    return [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]


def line_plot(axes: Axes, labels: Sequence[str], series: Series) -> SafeString:
    """Draw points joined by a line; empty if there is no value."""
    values = [value for value in series.values if value is not None]
    if not values:
        return SafeString("")
    up = _upwards(round_ticks(min(values), max(values)))
    points = [
        (_across(index, len(labels)), up.at(value), labels[index], value)
        for index, value in enumerate(series.values)
        if value is not None
    ]
    path = " ".join(f"{x},{y}" for x, y, _, _ in points)
    dots = format_html_join(
        "",
        '<circle class="{}" cx="{}" cy="{}" r="3.5"><title>{} {}: {}</title></circle>',
        ((series.kind, x, y, axes.across, label, f"{v:.6g}") for x, y, label, v in points),
    )
    line = format_html('<polyline class="line {}" points="{}"/>', series.kind, path)
    value_at = {label: value for _, _, label, value in points}
    first, *_, last = [*value_at, *value_at]
    lowest, highest = (
        min(value_at, key=value_at.__getitem__),
        max(value_at, key=value_at.__getitem__),
    )
    description = (
        f"{series.name} from {value_at[first]:.4g} at {first} to {value_at[last]:.4g} at {last}; "
    )
    description += (
        f"lowest {value_at[lowest]:.4g} at {lowest}, highest {value_at[highest]:.4g} at {highest}."
    )
    return _figure(axes, description, _columns(axes, labels, up), format_html("{}{}", line, dots))


def bar_plot(axes: Axes, labels: Sequence[str], stacked: Sequence[Series]) -> SafeString:
    """Draw bars, the series stacked; empty if there is no label."""
    if not labels:
        return SafeString("")
    columns = list(zip(*([v or 0.0 for v in each.values] for each in stacked), strict=True))
    up = _upwards(round_ticks(0.0, max(map(sum, columns)), whole=axes.whole))
    width = round(min(36.0, 0.8 * (WIDTH - LEFT - RIGHT) / len(labels)), 1)
    rects = []
    for index, (label, column) in enumerate(zip(labels, columns, strict=True)):
        x = round(_across(index, len(labels)) - width / 2, 1)
        floors = [sum(column[:count]) for count in range(len(column) + 1)]
        for each, (floor, ceiling) in zip(stacked, pairwise(floors), strict=True):
            top, height = up.at(ceiling), round(up.at(floor) - up.at(ceiling), 1)
            description = f"{axes.across} {label}, {each.name}: {_plain(ceiling - floor)} {axes.up}"
            if ceiling > floor:
                rects.append((each.kind, x, top, width, max(height, 1.0), description))
    shapes = format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
        rects,
    )
    where = f"{len(labels)} {axes.across}{'s' if len(labels) > 1 else ''}"
    description = "; ".join(
        f"{each.name}: {_plain(sum(v or 0.0 for v in each.values))} {axes.up} in {where}, "
        f"at most {_plain(max(v or 0.0 for v in each.values))}"
        for each in stacked
    )
    frame = _columns(axes, labels, up)
    return _figure(axes, f"{description}.", frame, shapes, key=stacked if len(stacked) > 1 else ())


def strip_plot(
    axes: Axes, rows: Mapping[str, Sequence[Dot]], limit: float, total: int
) -> SafeString:
    """Draw a row of dots for each name, the greatest values first; dots beyond the limit are marked.

    Parameters
    ----------
    axes : Axes
    rows : mapping
        Dots by name. If there are more than `ROWS` names, those with the greatest values are drawn.
    limit : float
    total : int
        How many values there are, drawn or not.
    """
    every = [dot.value for dots in rows.values() for dot in dots]
    if not every:
        return SafeString("")
    names = sorted(rows, key=lambda name: (-max(dot.value for dot in rows[name]), name))[:ROWS]
    height = TOP + ROW * len(names) + BOTTOM
    across = Scale(round_ticks(0.0, max(every)), STRIP_LEFT, WIDTH - RIGHT)
    shapes = format_html_join(
        "",
        '<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}, {}</title></circle>',
        (
            (
                *(("bad", x, y, 5.5) if dot.value > limit else ("good", x, y, 3.5)),
                name,
                dot.description,
            )
            for y, name in ((_down(at), name) for at, name in enumerate(names))
            for x, dot in ((across.at(dot.value), dot) for dot in rows[name])
        ),
    )
    far = [name for name in names if any(dot.value > limit for dot in rows[name])]
    description = f"{total} values, at most {max(every):.4g}; "
    description += f"far out: {', '.join(far)}." if far else "none is far out."
    if len(names) == ROWS:
        description += f" Drawn are the {ROWS} clients with the greatest."
    frame = format_html("{}{}", _rows(axes, names, far, across), _fence(across, limit, height))
    return _figure(axes, description, frame, shapes, height=height)


def _plain(value: float) -> str:
    """Return a number with four digits, or with all digits before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _across(index: int, count: int) -> float:
    return round(LEFT + (index + 0.5) * (WIDTH - LEFT - RIGHT) / count, 1)


def _down(index: int) -> float:
    return TOP + (index + 0.5) * ROW


def _upwards(ticks: Sequence[float]) -> Scale:
    return Scale(ticks, HEIGHT - BOTTOM, TOP)


def _columns(axes: Axes, labels: Sequence[str], up: Scale) -> SafeString:
    """Draw the frame of a plot with vertical values: a line for each tick, a label for each column."""
    step = -(-len(labels) // LABELS)
    below = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (_across(index, len(labels)), HEIGHT - BOTTOM + 16, label)
            for index, label in enumerate(labels)
            if index % step == 0
        ),
    )
    beside = format_html_join(
        "",
        '<line x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (LEFT, WIDTH - RIGHT, up.at(v), up.at(v), LEFT - 6, up.at(v) + 4, f"{v:.5g}")
            for v in up.ticks
        ),
    )
    return format_html("{}{}{}", beside, below, _axis_names(axes, HEIGHT))


def _rows(axes: Axes, names: Sequence[str], far: Sequence[str], across: Scale) -> SafeString:
    """Draw the frame of a plot with horizontal values: a line for each tick, a name for each row."""
    bottom = TOP + ROW * len(names)
    beside = format_html_join(
        "",
        '<text class="{}" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            ("far" if name in far else "", STRIP_LEFT - 10, _down(at) + 4, name[:SHORT])
            for at, name in enumerate(names)
        ),
    )
    below = format_html_join(
        "",
        '<line x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (across.at(v), across.at(v), TOP, bottom, across.at(v), bottom + 16, f"{v:.5g}")
            for v in across.ticks
        ),
    )
    return format_html("{}{}{}", below, beside, _axis_names(axes, bottom + BOTTOM))


def _fence(across: Scale, limit: float, height: float) -> SafeString:
    """Draw the line beyond which values are far out; empty if it is outside the picture."""
    if limit >= across.ticks[-1]:
        return SafeString("")
    x = across.at(limit)
    beside = (x + 6, "start") if x < WIDTH - FAR_OUT else (WIDTH - RIGHT, "end")
    return format_html(
        '<line class="fence" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="far" x="{}" text-anchor="{}" y="{}">far out</text>',
        *(x, x, TOP - 12, height - BOTTOM, *beside, TOP - 10),
    )


def _axis_names(axes: Axes, height: float) -> SafeString:
    return format_html(
        '<text class="axis" x="2" y="{}">{}</text>'
        '<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>',
        *(TOP - 10, axes.up, WIDTH - RIGHT, height - 6, axes.across),
    )


def _figure(
    axes: Axes,
    description: str,
    frame: SafeString,
    shapes: SafeString,
    *,
    height: float = HEIGHT,
    key: Sequence[Series] = (),
) -> SafeString:
    """Return a plot with its title, its key and its description."""
    return format_html(
        '<figure class="plot"><figcaption>{}{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}. {}">{}{}</svg><p>{}</p></figure>',
        axes.title,
        format_html_join("", '<span class="key {}">{}</span>', ((s.kind, s.name) for s in key)),
        int(WIDTH),
        int(height),
        axes.title,
        description,
        frame,
        shapes,
        description,
    )
