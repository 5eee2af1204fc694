"""Plots as inline SVG: no script, no request, colours from the page, and words for who cannot see them.

Lengths are in the units of the view box, which is as wide as a phone, so that text stays readable there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 420.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 10.0, 12.0, 30.0

#: Labels below the horizontal axis, at most.
TICKS = 8

#: Characters of a client's id that have room there.
SHORT = 5


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values in order, None where there is none; the kind is a class of the stylesheet."""

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` as heights."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], *, from_zero: bool) -> Scale:
        """A scale that holds the values; a little wider where they are all the same."""
        low, high = min(values), max(values)
        if from_zero:
            low = min(low, 0.0)
        if low == high:
            margin = max(0.5, 0.01 * abs(low))
            return cls(low - (0.0 if from_zero else margin), high + margin)
        return cls(low, high)

    def y(self, value: float) -> float:
        """How far down a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def line_plot(title: str, labels: Sequence[str], series: Series) -> SafeString:
    """Points joined by a line; empty text where there is no value."""
    values = [value for value in series.values if value is not None]
    if not values:
        return SafeString("")
    scale = Scale.of(values, from_zero=False)
    points = [
        (_x(index, len(labels)), scale.y(value), labels[index], value)
        for index, value in enumerate(series.values)
        if value is not None
    ]
    path = " ".join(f"{x},{y}" for x, y, _, _ in points)
    dots = format_html_join(
        "",
        '<circle class="{}" cx="{}" cy="{}" r="3"><title>{}: {}</title></circle>',
        ((series.kind, x, y, label, f"{value:.6g}") for x, y, label, value in points),
    )
    line = format_html('<polyline class="line {}" points="{}"/>', series.kind, path)
    first, last = points[0], points[-1]
    told = f"{series.name} from {first[3]:.4g} at {first[2]} to {last[3]:.4g} at {last[2]}"
    told += f"; lowest {min(values):.4g}, highest {max(values):.4g}."
    return _plot(title, told, labels, scale, format_html("{}{}", line, dots))


def bar_plot(title: str, labels: Sequence[str], stacked: Sequence[Series]) -> SafeString:
    """Bars, the series upon each other; empty text where there is no label."""
    if not labels:
        return SafeString("")
    columns = list(zip(*([v or 0.0 for v in each.values] for each in stacked), strict=True))
    scale = Scale.of([sum(column) for column in columns], from_zero=True)
    width = round(0.8 * (WIDTH - LEFT - RIGHT) / len(labels), 1)
    rects = []
    for index, (label, column) in enumerate(zip(labels, columns, strict=True)):
        floors = [sum(column[:count]) for count in range(len(column) + 1)]
        for each, (floor, ceiling) in zip(stacked, pairwise(floors), strict=True):
            top, height = scale.y(ceiling), round(scale.y(floor) - scale.y(ceiling), 1)
            x = round(_x(index, len(labels)) - width / 2, 1)
            said = f"{label}: {ceiling - floor:.6g} {each.name}"
            if height > 0:
                rects.append((each.kind, x, top, width, height, said))
    shapes = format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
        rects,
    )
    told = "; ".join(
        f"{each.name}: {sum(v or 0.0 for v in each.values):.6g} in {len(labels)} rounds, "
        f"at most {max(v or 0.0 for v in each.values):.6g}"
        for each in stacked
    )
    return _plot(title, f"{told}.", labels, scale, shapes)


def strip_plot(title: str, rows: Mapping[str, Sequence[tuple[str, float]]]) -> SafeString:
    """A column of dots for each name, each dot a labelled value; those far out are marked."""
    every = [value for dots in rows.values() for _, value in dots]
    if not every:
        return SafeString("")
    scale, names, limit = Scale.of(every, from_zero=True), list(rows), far_out(every)
    shapes = format_html_join(
        "",
        '<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}, {}: {}</title></circle>',
        (
            ("bad", x, scale.y(value), 5, name, label, f"{value:.6g}")
            if value > limit
            else ("good", x, scale.y(value), 3, name, label, f"{value:.6g}")
            for x, name in ((_x(at, len(names)), name) for at, name in enumerate(names))
            for label, value in rows[name]
        ),
    )
    outliers = [name for name, dots in rows.items() if any(value > limit for _, value in dots)]
    told = f"{len(every)} values of {len(rows)} clients, at most {max(every):.4g}; "
    told += f"far out: {', '.join(outliers)}." if outliers else "none is far out."
    return _plot(title, told, [name[:SHORT] for name in names], scale, shapes)


def far_out(values: Sequence[float]) -> float:
    """Above which a value is far out: Tukey's outer fence, three interquartile ranges above the third
    quartile."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
    return high + 3 * (high - low)


def _x(index: int, count: int) -> float:
    return round(LEFT + (index + 0.5) * (WIDTH - LEFT - RIGHT) / count, 1)


def _plot(
    title: str, told: str, labels: Sequence[str], scale: Scale, shapes: SafeString
) -> SafeString:
    """The frame around shapes, with what they show in words."""
    step = -(-len(labels) // TICKS)
    below = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle">{}</text>',
        (
            (_x(index, len(labels)), HEIGHT - 10, label)
            for index, label in enumerate(labels)
            if index % step == 0
        ),
    )
    heights = (scale.low, (scale.low + scale.high) / 2, scale.high)
    beside = format_html_join(
        "",
        '<line x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (LEFT, WIDTH - RIGHT, scale.y(v), scale.y(v), LEFT - 5, scale.y(v) + 4, f"{v:.3g}")
            for v in heights
        ),
    )
    return format_html(
        '<figure class="plot"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}. {}">'
        "{}{}{}</svg><p>{}</p></figure>",
        title,
        int(WIDTH),
        int(HEIGHT),
        title,
        told,
        beside,
        below,
        shapes,
        told,
    )
