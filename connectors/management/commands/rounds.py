"""``manage.py rounds MODEL``: a model's rounds, the latest first."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from connectors.management.reports import (
    ReportCommand,
    add_limit_argument,
    add_model_argument,
    found,
    plain_message,
)
from connectors.rounds.selectors import State
from models_app.models import AggregationRound, FederatedModel


class Command(ReportCommand):
    """Lists the rounds of a model."""

    help = "List a model's rounds, the latest first. Example: manage.py rounds 3 --limit 50"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        add_limit_argument(parser, 20)

    def handle(self, *args: Any, model: int, limit: int, as_json: bool, **options: Any) -> None:
        with plain_message():
            rounds = found(FederatedModel, model).rounds.order_by("-pk")[:limit]
            rows = [row_of(each) for each in rounds]
        self.report(rows, as_json=as_json, empty=f"model {model} has had no round yet")


def row_of(each: AggregationRound) -> dict[str, Any]:
    """A round as the tables show it."""
    took = (each.finished_on - each.started_on).total_seconds() if each.finished_on else None
    return {
        "id": each.pk,
        "round": each.number,
        "state": State(each.state).name.lower(),
        "attempt": each.attempt,
        "started": each.started_on,
        "seconds": took,
        "used": each.updates_used,
        "rejected": each.updates_rejected,
        "bytes": each.bytes_read,
        "aggregate": each.aggregate_id,
        "error": each.error,
    }
