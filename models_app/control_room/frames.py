"""The frames of plots: inline SVG with axes, a description in words, and a table.

Nothing in a plot is loaded or runs. Lengths are in units of the view box. The narrow one is as wide as a
phone, so that text stays readable there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

#: The size of the view box; of the wide one, which stands beside nothing, the width.
WIDTH, HEIGHT, WIDE = 360.0, 216.0, 800.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 26.0, 42.0

#: The space for a label below the horizontal axis.
LABEL = 30.0

#: A cell of a table: text, which is escaped, or HTML.
Cell = str | SafeString


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


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values of a plot as a table."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def as_html(self) -> SafeString:
        """Return the table, behind a word that opens it; empty without rows."""
        if not self.rows:
            return SafeString("")
        heads = format_html_join("", '<th scope="col">{}</th>', ((head,) for head in self.heads))
        rows = format_html_join(
            "",
            "<tr>{}</tr>",
            ((format_html_join("", "<td>{}</td>", ((c,) for c in row)),) for row in self.rows),
        )
        return format_html(
            '<details><summary>Show as a table</summary><div class="scroll" tabindex="0" role="group" '
            'aria-label="Values"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>',
            heads,
            rows,
        )


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


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Places of evenly spaced columns with labels, above a horizontal axis at ``bottom``."""

    labels: Sequence[str]
    width: float = WIDTH
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM

    @property
    def step(self) -> float:
        """The distance of two columns."""
        return (self.width - self.left - RIGHT) / len(self.labels)

    def at(self, index: int) -> float:
        """Return the middle of a column."""
        return round(self.left + (index + 0.5) * self.step, 1)

    def frame(self, up: Scale) -> SafeString:
        """Draw a line for each tick, and as many labels as there is space for."""
        every = max(1, math.ceil(LABEL / self.step))
        below = format_html_join(
            "",
            '<text x="{}" y="{}" text-anchor="middle">{}</text>',
            (
                (self.at(index), self.bottom + 16, label)
                for index, label in enumerate(self.labels)
                if index % every == 0
            ),
        )
        right = self.width - RIGHT
        beside = format_html_join(
            "",
            '<line x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
            (
                (self.left, right, up.at(v), up.at(v), self.left - 6, up.at(v) + 4, f"{v:.5g}")
                for v in up.ticks
            ),
        )
        return format_html("{}{}", beside, below)

    def hits(self, texts: Sequence[str], height: float) -> SafeString:
        """Draw invisible columns that have the values as titles, one for each label."""
        return format_html_join(
            "",
            '<rect class="hit" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
            (
                (
                    round(self.left + index * self.step, 1),
                    TOP,
                    round(self.step, 1),
                    height - TOP,
                    text,
                )
                for index, text in enumerate(texts)
            ),
        )


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


def upwards(ticks: Sequence[float], bottom: float = HEIGHT - BOTTOM) -> Scale:
    """Return the scale of a vertical axis."""
    return Scale(ticks, bottom, TOP)


def axis_names(axes: Axes, width: float, height: float) -> SafeString:
    """Draw the names of the axes."""
    return format_html(
        '<text class="axis" x="2" y="{}">{}</text>'
        '<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>',
        *(TOP - 10, axes.up, width - RIGHT, height - 6, axes.across),
    )


def plain(value: float) -> str:
    """Return a number with four digits, or with all digits before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def picture(
    axes: Axes,
    description: str,
    contents: SafeString,
    *,
    width: float,
    height: float,
    kind: str = "",
) -> SafeString:
    """Return the SVG of a plot, with its text alternative."""
    return format_html(
        '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}. {}">{}{}</svg>',
        kind,
        int(width),
        int(height),
        axes.title,
        description,
        contents,
        axis_names(axes, width, height),
    )


def figure(
    axes: Axes,
    pictures: SafeString,
    grid: Grid,
    *,
    key: Sequence[Series] = (),
    kind: str = "",
    note: str = "",
) -> SafeString:
    """Return a plot with its title, its key, a note and its table."""
    return format_html(
        '<figure class="plot {}"><figcaption>{}{}</figcaption>{}{}{}</figure>',
        kind,
        axes.title,
        format_html_join("", '<span class="key {}">{}</span>', ((s.kind, s.name) for s in key)),
        pictures,
        format_html("<p>{}</p>", note) if note else "",
        grid.as_html(),
    )
