"""The learning curve, with marks for what happened meanwhile."""

from __future__ import annotations

from django.utils.safestring import SafeString

from models_app.control_room.frames import Axes, Series
from models_app.control_room.names import Name, as_text
from models_app.control_room.plots import Event, line_plot
from models_app.overview import Curve, MarkKind

#: The rows of marks, from top to bottom: their names, and their classes of the stylesheet.
MARKS = {
    MarkKind.VERSION: ("versions", "good"),
    MarkKind.ROLLBACK: ("roll-backs", "bad"),
    MarkKind.SETTINGS: ("settings", "plain"),
    MarkKind.REJECTED: ("rejections", "bad"),
    MarkKind.FAILED: ("failures", "bad"),
}


def learning_curve(curve: Curve, name: Name = as_text) -> SafeString:
    """Draw the score of each aggregate; empty if none has a score."""
    labels = [str(each.number) for each in curve.points]
    marks = [each for kind in MARKS for each in curve.marks if each.kind == kind]
    events = [
        Event(row=row, kind=style, label=str(each.number), text=each.text)
        for each in marks
        for row, style in (MARKS[each.kind],)
    ]
    metric = curve.metric
    return line_plot(
        Axes(title=f"Learning curve: {metric} of each aggregate", across="aggregate", up=metric),
        labels,
        Series(name=metric, kind="good", values=[each.score for each in curve.points]),
        [each for each in events if each.label in set(labels)],
        [name("modelaggregate", each.aggregate, str(each.number)) for each in curve.points],
    )
