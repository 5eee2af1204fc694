"""Lines with marks, and stacked bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from models_app.control_room.frames import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDE,
    WIDTH,
    Axes,
    Cell,
    Columns,
    Grid,
    Scale,
    Series,
    figure,
    picture,
    plain,
    round_ticks,
    upwards,
)

#: The height of a row of marks below a line, and the left edge where their names fit.
MARK_ROW, MARK_LEFT = 18.0, 84.0

#: A mark is a diamond, half as wide as this.
MARK = 5.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """A mark below a line.

    Parameters
    ----------
    row : str
        The name of its row.
    kind : str
        A class of the stylesheet.
    label : str
        The label of its column.
    text : str
    """

    row: str
    kind: str
    label: str
    text: str


def line_plot(
    axes: Axes,
    labels: Sequence[str],
    series: Series,
    events: Sequence[Event] = (),
    names: Sequence[Cell] = (),
) -> SafeString:
    """Draw points joined by a line, and rows of marks below it; empty if there is no value.

    Parameters
    ----------
    axes : Axes
    labels : sequence of str
    series : Series
    events : sequence of Event
    names : sequence of cells
        What the table calls the columns, such as links; by default their labels.
    """
    if all(value is None for value in series.values):
        return SafeString("")
    description = _line_description(labels, series, events)
    pictures = format_html_join(
        "",
        "{}",
        (
            (_line_picture(axes, description, labels, series, events, width, kind),)
            for width, kind in ((WIDTH, "narrow"), (WIDE, "broad"))
        ),
    )
    happened = [_events_at(label, events) for label in labels]
    grid = Grid(
        heads=[axes.across.capitalize(), series.name, *(["What happened"] if events else [])],
        rows=[
            [name, "" if value is None else f"{value:.6g}", *([what] if events else [])]
            for name, value, what in zip(names or labels, series.values, happened, strict=True)
        ],
    )
    return figure(axes, pictures, grid, kind="wide")


def _line_description(labels: Sequence[str], series: Series, events: Sequence[Event]) -> str:
    value_at = {
        label: value
        for label, value in zip(labels, series.values, strict=True)
        if value is not None
    }
    first, *_, last = [*value_at, *value_at]
    lowest = min(value_at, key=value_at.__getitem__)
    highest = max(value_at, key=value_at.__getitem__)
    words = (
        f"{series.name} from {value_at[first]:.4g} at {first} to {value_at[last]:.4g} at {last}; "
        f"lowest {value_at[lowest]:.4g} at {lowest}, highest {value_at[highest]:.4g} at {highest}."
    )
    counts = Counter(each.row for each in events)
    marked = ", ".join(f"{row}: {count}" for row, count in counts.items())
    return f"{words} Marked are {marked}." if marked else words


def _events_at(label: str, events: Sequence[Event]) -> str:
    return "; ".join(each.text for each in events if each.label == label)


def _line_picture(
    axes: Axes,
    description: str,
    labels: Sequence[str],
    series: Series,
    events: Sequence[Event],
    width: float,
    kind: str,
) -> SafeString:
    values = [value for value in series.values if value is not None]
    rows = list(dict.fromkeys(each.row for each in events))
    height = HEIGHT + MARK_ROW * len(rows)
    columns = Columns(labels=labels, width=width, left=MARK_LEFT if rows else LEFT)
    up = upwards(round_ticks(min(values), max(values)))
    points = [
        (columns.at(index), up.at(value))
        for index, value in enumerate(series.values)
        if value is not None
    ]
    dots = format_html_join(
        "", '<circle class="{}" cx="{}" cy="{}" r="3"/>', ((series.kind, x, y) for x, y in points)
    )
    texts = [
        f"{axes.across.capitalize()} {label}\n{series.name}: "
        + ("none" if value is None else f"{value:.6g}")
        + "".join(f"\n{each.text}" for each in events if each.label == label)
        for label, value in zip(labels, series.values, strict=True)
    ]
    contents = format_html(
        '{}{}<polyline class="line {}" points="{}"/>{}{}',
        columns.frame(up),
        _mark_rows(columns, rows, events),
        series.kind,
        " ".join(f"{x},{y}" for x, y in points),
        dots,
        columns.hits(texts, height - 20) if width == WIDE else "",  # A phone has no pointer.
    )
    return picture(axes, description, contents, width=width, height=height, kind=kind)


def _mark_rows(columns: Columns, rows: Sequence[str], events: Sequence[Event]) -> SafeString:
    """Draw a row of diamonds for each kind of event."""
    first = columns.bottom + 34
    down = {row: first + index * MARK_ROW for index, row in enumerate(rows)}
    names = format_html_join(
        "",
        '<line x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (columns.left, columns.width - RIGHT, y, y, columns.left - 6, y + 4, row)
            for row, y in down.items()
        ),
    )
    places = {label: columns.at(index) for index, label in enumerate(columns.labels)}
    marks = format_html_join(
        "",
        '<polygon class="mark {}" points="{},{} {},{} {},{} {},{}"/>',
        (
            (each.kind, x - MARK, y, x, y - MARK, x + MARK, y, x, y + MARK)
            for each in events
            if (x := places.get(each.label)) is not None
            for y in (down[each.row],)
        ),
    )
    return format_html("{}{}", names, marks)


def bar_plot(
    axes: Axes,
    labels: Sequence[str],
    stacked: Sequence[Series],
    *,
    names: Sequence[Cell] = (),
    note: str = "",
) -> SafeString:
    """Draw bars, the series stacked; empty if there is no label.

    Parameters
    ----------
    axes : Axes
    labels : sequence of str
    stacked : sequence of Series
    names : sequence of cells
        What the table calls the columns, such as links; by default their labels.
    note : str
        The first sentence of the description, which is also shown.
    """
    if not labels:
        return SafeString("")
    columns = list(zip(*([v or 0.0 for v in each.values] for each in stacked), strict=True))
    description = f"{note} {_bar_description(axes, labels, stacked)}".strip()
    places = Columns(labels=labels)
    up = upwards(round_ticks(0.0, max(map(sum, columns)), whole=axes.whole))
    texts = [
        f"{axes.across.capitalize()} {label}"
        + "".join(
            f"\n{each.name}: {plain(value)} {axes.up}"
            for each, value in zip(stacked, column, strict=True)
            if value or each is stacked[0]
        )
        for label, column in zip(labels, columns, strict=True)
    ]
    contents = format_html(
        "{}{}{}",
        places.frame(up),
        format_html_join(
            "",
            '<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>',
            (
                (each.kind, *bar)
                for index, column in enumerate(columns)
                for each, bar in _bars(index, column, stacked, places, up)
            ),
        ),
        places.hits(texts, HEIGHT - BOTTOM),
    )
    grid = Grid(
        heads=[axes.across.capitalize(), *(f"{each.name}, {axes.up}" for each in stacked)],
        rows=[
            [name, *(plain(value) for value in column)]
            for name, column in zip(names or labels, columns, strict=True)
        ],
    )
    drawn = picture(axes, description, contents, width=WIDTH, height=HEIGHT)
    return figure(axes, drawn, grid, key=stacked if len(stacked) > 1 else (), note=note)


def _bars(
    index: int,
    column: Sequence[float],
    stacked: Sequence[Series],
    places: Columns,
    up: Scale,
) -> list[tuple[Series, tuple[float, float, float, float]]]:
    """Return the left edge, top, width and height of each part of a bar that has a value."""
    width = round(min(36.0, 0.8 * places.step), 1)
    left = round(places.at(index) - width / 2, 1)
    floors = [sum(column[:count]) for count in range(len(column) + 1)]
    bars = []
    for each, (floor, ceiling) in zip(stacked, pairwise(floors), strict=True):
        top, bottom = up.at(ceiling), up.at(floor)
        if ceiling > floor:
            bars.append((each, (left, top, width, max(round(bottom - top, 1), 1.0))))
    return bars


def _bar_description(axes: Axes, labels: Sequence[str], stacked: Sequence[Series]) -> str:
    where = f"{len(labels)} {axes.across}{'s' if len(labels) > 1 else ''}"
    words = "; ".join(
        f"{each.name}: {plain(sum(v or 0.0 for v in each.values))} {axes.up} in {where}, "
        f"at most {plain(max(v or 0.0 for v in each.values))}"
        for each in stacked
    )
    return f"{words}."
