"""The scores of the latest aggregates as a small line."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app.overview import ModelCard

WIDTH, HEIGHT, MARGIN = 120.0, 32.0, 4.0


def sparkline(card: ModelCard) -> SafeString:
    """Draw the scores of a model's latest aggregates; empty for fewer than two."""
    if len(card.scores) < 2:
        return SafeString("")
    values = [each.score for each in card.scores]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (WIDTH - 2 * MARGIN) / (len(values) - 1)
    points = [
        (
            round(MARGIN + index * step, 1),
            round(HEIGHT - MARGIN - (value - low) / span * (HEIGHT - 2 * MARGIN), 1),
        )
        for index, value in enumerate(values)
    ]
    first, last = card.scores[0], card.scores[-1]
    description = (
        f"{card.metric} from {first.score:.4g} at aggregate {first.number} "
        f"to {last.score:.4g} at aggregate {last.number}"
    )
    return format_html(
        '<svg class="sparkline" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<polyline class="line good" points="{}"/><circle class="good" cx="{}" cy="{}" r="3"/></svg>',
        int(WIDTH),
        int(HEIGHT),
        description,
        " ".join(f"{x},{y}" for x, y in points),
        *points[-1],
    )
