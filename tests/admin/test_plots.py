"""Plots are whole SVG, whatever the values."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_app.plots import HEIGHT, WIDTH, Series, bar_plot, far_out, line_plot, strip_plot

VALUES = st.lists(st.none() | st.floats(-1e300, 1e300), min_size=1, max_size=70)


@given(values=VALUES)
def test_every_point_lies_in_the_picture(values: list[float | None]) -> None:
    """Dots of a line lie within the view box; without any value there is no plot."""
    labels = [str(number) for number in range(len(values))]
    plot = line_plot("title", labels, Series(name="score", kind="good", values=values))
    if not any(value is not None for value in values):
        assert plot == ""
        return
    dots = ElementTree.fromstring(plot).findall(".//circle")
    assert len(dots) == sum(value is not None for value in values)
    for dot in dots:
        assert 0 <= float(dot.get("cx", "-1")) <= WIDTH
        assert 0 <= float(dot.get("cy", "-1")) <= HEIGHT


def test_bars_are_stacked() -> None:
    """The second series stands on the first, and the words tell both sums."""
    used = Series(name="used", kind="good", values=[3.0, 4.0])
    rejected = Series(name="rejected", kind="bad", values=[1.0, None])
    plot = bar_plot("Clients", ["1", "2"], [used, rejected])
    low, high, _ = ElementTree.fromstring(plot).findall(".//rect")
    assert float(high.get("y", "0")) + float(high.get("height", "0")) == pytest.approx(
        float(low.get("y", "0")), abs=0.11
    )
    assert "used: 7 in 2 rounds, at most 4; rejected: 1 in 2 rounds, at most 1." in plot


def test_an_outlier_is_seen_and_named() -> None:
    """A norm far from all others is drawn apart, and told in words."""
    honest = {f"client-{n}": [("round 1", 1.0 + n / 100)] for n in range(9)}
    plot = strip_plot("Norms", {**honest, "attacker": [("round 1", 50.0)]})
    assert re.findall(r'class="bad"', plot) == ['class="bad"']
    assert "far out: attacker." in plot
    assert "none is far out." in strip_plot("Norms", honest)
    assert far_out([1.0, 1.0, 1.0]) == 1.0


def test_names_are_text() -> None:
    """What strangers may have written is escaped."""
    plot = strip_plot("<b>", {"<script>": [("<i>", 1.0)]})
    assert "<script>" not in plot
    assert ElementTree.fromstring(plot) is not None
