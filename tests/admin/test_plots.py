"""Plots are well-formed SVG for all values."""

from __future__ import annotations

import re
import statistics
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_app.control_room.frames import HEIGHT, WIDE, WIDTH, Axes, Series, round_ticks
from models_app.control_room.norms import Quartiles, fence
from models_app.control_room.plots import Event, bar_plot, line_plot
from models_app.control_room.strips import ROWS, Dot, strip_plot

AXES = Axes(title="title", across="round", up="clients")

VALUES = st.lists(st.none() | st.floats(-1e300, 1e300), min_size=1, max_size=70)


@given(values=VALUES)
def test_every_point_lies_in_the_picture(values: list[float | None]) -> None:
    """Dots of a line lie within the view box; without any value there is no plot."""
    labels = [str(number) for number in range(len(values))]
    plot = line_plot(AXES, labels, Series(name="score", kind="good", values=values))
    if not any(value is not None for value in values):
        assert plot == ""
        return
    pictures = ElementTree.fromstring(plot).findall(".//svg")
    for picture, width in zip(pictures, (WIDTH, WIDE), strict=True):
        dots = picture.findall("circle")
        assert len(dots) == sum(value is not None for value in values)
        for dot in dots:
            assert 0 <= float(dot.get("cx", "-1")) <= width
            assert 0 <= float(dot.get("cy", "-1")) <= HEIGHT


def test_marks_are_drawn_described_and_listed() -> None:
    """A mark is drawn in its row, counted in the description, shown with its column and listed."""
    score = Series(name="score", kind="good", values=[0.5, 0.75])
    events = [Event(row="versions", kind="good", label="2", text="version 1.0")]
    plot = line_plot(AXES, ["1", "2"], score, events)
    narrow, broad = ElementTree.fromstring(plot).findall(".//svg")
    for picture in (narrow, broad):
        assert len(picture.findall("polygon")) == 1
        assert (picture.get("aria-label") or "").endswith("Marked are versions: 1.")
    titles = [each.text for each in broad.findall(".//title")]
    assert titles == ["Round 1\nscore: 0.5", "Round 2\nscore: 0.75\nversion 1.0"]
    assert "<td>2</td><td>0.75</td><td>version 1.0</td>" in plot


def test_every_plot_has_a_table_of_its_values() -> None:
    """The table has a row for each column, with the value of each series."""
    used = Series(name="used", kind="good", values=[3.0, 4.0])
    table = ElementTree.fromstring(bar_plot(AXES, ["1", "2"], [used], names=["a", "b"])).find(
        ".//table"
    )
    assert table is not None
    assert [[cell.text for cell in row] for row in table.findall(".//tr")] == [
        ["Round", "used, clients"],
        ["a", "3"],
        ["b", "4"],
    ]


def test_bars_are_stacked() -> None:
    """The second series is stacked on the first, and the text contains both sums."""
    used = Series(name="used", kind="good", values=[3.0, 4.0])
    rejected = Series(name="rejected", kind="bad", values=[1.0, None])
    plot = bar_plot(AXES, ["1", "2"], [used, rejected])
    low, high, _ = ElementTree.fromstring(plot).findall(".//svg/rect[@height]")[:3]
    assert float(high.get("y", "0")) + float(high.get("height", "0")) == pytest.approx(
        float(low.get("y", "0")), abs=0.11
    )
    assert (
        "used: 7 clients in 2 rounds, at most 4; rejected: 1 clients in 2 rounds, at most 1."
        in plot
    )


@given(low=st.floats(-1e300, 1e300), span=st.floats(0, 1e300), whole=st.booleans())
def test_ticks_are_few_even_and_around_the_values(low: float, span: float, whole: bool) -> None:
    """Two to eight ticks enclose all values, and ticks of counts are integers."""
    high = low + span
    ticks, hair = round_ticks(low, high, whole=whole), 1e-9 * max(abs(low), abs(high))
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + hair
    assert ticks[-1] >= high - hair
    assert ticks == sorted(set(ticks))
    assert not whole or all(tick == round(tick) for tick in ticks)


def test_ticks_are_round_numbers() -> None:
    """Steps are one, two or five of a power of ten."""
    assert round_ticks(0.0, 3.0, whole=True) == [0.0, 1.0, 2.0, 3.0]
    assert round_ticks(0.0, 1.0, whole=True) == [0.0, 1.0]
    assert [round(tick, 9) for tick in round_ticks(0.52, 0.93)] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert round_ticks(0.0, 0.0) == [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]


def dots(*values: float) -> list[Dot]:
    return [Dot(value, f"round 1: {value}") for value in values]


def test_an_outlier_is_marked_and_named() -> None:
    """An outlying norm has the first row, is drawn apart, and is named in the text."""
    honest = {f"client-{n}": dots(1.0 + n / 100) for n in range(9)}
    plot = strip_plot(AXES, {**honest, "attacker": dots(50.0)}, 2.0, 10)
    assert re.findall(r'class="bad"', plot) == ['class="bad"']
    assert re.findall(r'<text class="(?:far)?" [^>]*>([^<]*)<', plot)[0] == "attacker"
    assert "far out: attacker." in plot
    assert "none is far out." in strip_plot(AXES, honest, 2.0, 9)


def quartiles(*norms: float) -> Quartiles:
    ordered = sorted(norms)
    return Quartiles(
        count=len(norms), lower=ordered[(len(norms) - 1) // 4], median=statistics.median(norms)
    )


def test_the_fence_withstands_attackers() -> None:
    """Three attackers of eight are beyond the fence; where all norms are alike, none is."""
    attacked = quartiles(1.0, 0.9, 1.1, 1.0, 0.95, 9.0, 9.0, 9.0)
    assert fence([attacked]) * attacked.median < 9.0
    assert fence([quartiles(1.0, 1.0, 1.0, 1.001)]) == 2.0
    assert fence([]) == 2.0
    assert fence([quartiles(0.0, 0.0)]) == 2.0


def test_only_some_of_many_clients_are_drawn() -> None:
    """If there are too many clients, those with the greatest values are drawn."""
    plot = strip_plot(AXES, {f"client-{n:03}": dots(1.0 + n) for n in range(ROWS + 5)}, 1e9, 99)
    assert f"Drawn are the {ROWS} clients with the greatest." in plot
    assert len(ElementTree.fromstring(plot).findall(".//circle")) == ROWS


def test_names_are_text() -> None:
    """Untrusted names are escaped."""
    plot = strip_plot(AXES, {"<script>": [Dot(1.0, "<i>")]}, 2.0, 1)
    assert "<script>" not in plot
    assert ElementTree.fromstring(plot) is not None
