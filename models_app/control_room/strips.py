"""Strips of dots, one for each client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from models_app.control_room.frames import (
    BOTTOM,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    Cell,
    Grid,
    Scale,
    figure,
    picture,
    round_ticks,
)

#: Rows of a strip plot: how many are drawn, how high, and how many characters of a name fit.
ROWS, ROW, SHORT = 30, 18.0, 12

#: The width of the words "far out".
FAR_OUT = 64.0

#: The left edge of a strip plot: its names are longer than numbers.
STRIP_LEFT = 96.0


@dataclass(frozen=True)
class Dot:
    """A value of a strip plot, with its description."""

    value: float
    description: str


def strip_plot(
    axes: Axes,
    rows: Mapping[str, Sequence[Dot]],
    limit: float,
    total: int,
    names: Mapping[str, Cell] | None = None,
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
    names : mapping, optional
        What the table calls the rows, such as links.
    """
    greatest = {name: max(dot.value for dot in dots) for name, dots in rows.items() if dots}
    if not greatest:
        return SafeString("")
    shown = sorted(greatest, key=lambda name: (-greatest[name], name))[:ROWS]
    far = [name for name in shown if greatest[name] > limit]
    height = TOP + ROW * len(shown) + BOTTOM
    across = Scale(round_ticks(0.0, max(greatest.values())), STRIP_LEFT, WIDTH - RIGHT)
    contents = format_html(
        "{}{}{}",
        _frame(shown, far, across),
        _fence(across, limit, height),
        _dots(shown, rows, limit, across),
    )
    description = f"{total} values, at most {max(greatest.values()):.4g}; "
    description += f"far out: {', '.join(far)}." if far else "none is far out."
    if len(shown) == ROWS:
        description += f" Drawn are the {ROWS} clients with the greatest."
    drawn = picture(axes, description, contents, width=WIDTH, height=height)
    grid = _grid(axes, shown, rows, far, names or {})
    return figure(axes, drawn, grid, note=description)


def _grid(
    axes: Axes,
    shown: Sequence[str],
    rows: Mapping[str, Sequence[Dot]],
    far: Sequence[str],
    names: Mapping[str, Cell],
) -> Grid:
    return Grid(
        heads=[axes.up.capitalize(), "Values", "Greatest", ""],
        rows=[
            [
                names.get(name, name),
                str(len(rows[name])),
                f"{max(dot.value for dot in rows[name]):.4g}",
                "far out" if name in far else "",
            ]
            for name in shown
        ],
    )


def _dots(
    shown: Sequence[str], rows: Mapping[str, Sequence[Dot]], limit: float, across: Scale
) -> SafeString:
    return format_html_join(
        "",
        '<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}, {}</title></circle>',
        (
            (
                *(("bad", x, y, 5.5) if dot.value > limit else ("good", x, y, 3.5)),
                name,
                dot.description,
            )
            for y, name in ((_down(at), name) for at, name in enumerate(shown))
            for x, dot in ((across.at(dot.value), dot) for dot in rows[name])
        ),
    )


def _down(index: int) -> float:
    return TOP + (index + 0.5) * ROW


def _frame(shown: Sequence[str], far: Sequence[str], across: Scale) -> SafeString:
    """Draw a line for each tick, and a name for each row."""
    bottom = TOP + ROW * len(shown)
    beside = format_html_join(
        "",
        '<text class="{}" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            ("far" if name in far else "", STRIP_LEFT - 10, _down(at) + 4, _shortened(name))
            for at, name in enumerate(shown)
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
    return format_html("{}{}", below, beside)


def _shortened(name: str) -> str:
    return name if len(name) <= SHORT else f"{name[: SHORT - 1]}…"


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
