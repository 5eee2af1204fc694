"""``manage.py models``: all federated models, and how they do."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, Max, OuterRef, Q, Subquery

from connectors.management.reports import ReportCommand, plain_message
from connectors.rounds.selectors import members_of
from models_app.models import FederatedModel, ModelAggregate, ModelUpdate


class Command(ReportCommand):
    """Lists the federated models."""

    help = "List the federated models. Example: manage.py models --json"

    def handle(self, *args: Any, as_json: bool, **options: Any) -> None:
        latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
        listed = FederatedModel.objects.annotate(
            members=members_of(OuterRef("pk")),
            latest=Max("aggregates__number"),
            score=Subquery(latest.values("validation_score")[:1]),
            ready=Count(
                "model_updates",
                filter=Q(model_updates__status__in=ModelUpdate.READY),
                distinct=True,
            ),
        )
        with plain_message():
            rows = [_row(model) for model in listed.order_by("pk")]
        self.report(rows, as_json=as_json, empty="no model yet: manage.py create_model makes one")


def _row(model: Any) -> dict[str, Any]:
    state = "active" if model.allow_aggregation else f"paused: {model.pause_reason}"
    return {
        "id": model.pk,
        "name": model.name,
        "rule": model.aggregator,
        "requirement": model.requirement or "any update",
        "clients": model.members,
        "ready": model.ready,
        "aggregates": model.latest or 0,
        "score": model.score,
        "state": state,
    }
