"""Checks of the federated models."""

from __future__ import annotations

from collections.abc import Iterator

from connectors.usecases.health.findings import Finding, ok, warning
from models_app.models import FederatedModel

#: Models that are named one by one.
MAX_NAMED = 20


def check_models() -> Iterator[Finding]:
    """Find models that are paused."""
    paused = FederatedModel.objects.filter(allow_aggregation=False).order_by("pk")
    rows = list(paused.values_list("pk", "pause_reason")[: MAX_NAMED + 1])
    for pk, reason in rows[:MAX_NAMED]:
        fix = f"see manage.py rounds {pk}, then run manage.py resume {pk}"
        yield warning("models", f"model {pk} is paused: {reason}", fix)
    if len(rows) > MAX_NAMED:
        yield warning("models", "more models are paused", "see manage.py models")
    if not rows:
        yield ok("models", "none is paused")
