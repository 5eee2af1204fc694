"""Checks of the federated models."""

from __future__ import annotations

from collections.abc import Iterator

from aggregation.rules import known_rules
from connectors.usecases.health.findings import Finding, ok, warning
from models_app.models import FederatedModel

#: Models that are named one by one.
MAX_NAMED = 20


def check_models() -> Iterator[Finding]:
    """Find models that are paused, and models without a cap on the examples that clients claim."""
    findings = [*_paused_models(), *_models_without_cap()]
    yield from findings or [ok("models", "none is paused, all cap the claimed examples")]


def _paused_models() -> Iterator[Finding]:
    paused = FederatedModel.objects.filter(allow_aggregation=False).order_by("pk")
    rows = list(paused.values_list("pk", "pause_reason")[: MAX_NAMED + 1])
    for pk, reason in rows[:MAX_NAMED]:
        fix = f"see manage.py rounds {pk}, then run manage.py resume {pk}"
        yield warning("models", f"model {pk} is paused: {reason}", fix)
    if len(rows) > MAX_NAMED:
        yield warning("models", "more models are paused", "see manage.py models")


def _models_without_cap() -> Iterator[Finding]:
    uncapped = [name for name, rule in known_rules().items() if rule.weighs_by_examples]
    models = FederatedModel.objects.filter(max_num_examples=None, aggregator__in=uncapped)
    ids = list(models.order_by("pk").values_list("pk", flat=True)[: MAX_NAMED + 1])
    if ids:
        named = ", ".join(map(str, ids[:MAX_NAMED])) + (" and more" if len(ids) > MAX_NAMED else "")
        yield warning(
            "models",
            f"no max_num_examples: model {named}; an update counts at most a multiple of the median "
            "of its round",
            f"manage.py set_model {ids[0]} --max-num-examples N",
        )
