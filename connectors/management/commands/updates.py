"""``manage.py updates MODEL``: what clients sent, and what became of it."""

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
from connectors.rounds.selectors import UpdateStatus
from models_app.models import FederatedModel, ModelUpdate


class Command(ReportCommand):
    """Lists the updates of a model, with the reasons of those that were rejected."""

    help = "List a model's updates, the latest first. Example: manage.py updates 3 --status invalid"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_model_argument(parser)
        parser.add_argument("--status", choices=[name.lower() for name in UpdateStatus.names])
        add_limit_argument(parser, 50)

    def handle(
        self,
        *args: Any,
        model: int,
        status: str | None,
        limit: int,
        as_json: bool,
        **options: Any,
    ) -> None:
        with plain_message():
            updates = found(FederatedModel, model).model_updates.order_by("-pk")
            if status:
                updates = updates.filter(status=getattr(UpdateStatus, status.upper()))
            rows = [row_of(each) for each in updates[:limit]]
        what = f"{status} update" if status else "update"
        self.report(rows, as_json=as_json, empty=f"model {model} has no {what}")


def row_of(update: ModelUpdate) -> dict[str, Any]:
    """An update as the tables show it."""
    return {
        "id": update.pk,
        "client": str(update.client_id),
        "status": UpdateStatus(update.status).name.lower(),
        "examples": _examples(update),
        "base": update.base_aggregate_id,
        "aggregate": update.applied_aggregate_id,
        "norm": update.norm,
        "uploaded": update.uploaded_on,
        "reason": update.rejection_reason,
    }


def _examples(update: ModelUpdate) -> int | None:
    """How many an update counts. An update that was rejected at the door may have 1 only because what
    it claimed was refused, or never looked at."""
    is_rejected = update.status == UpdateStatus.INVALID and update.round_id is None
    return None if is_rejected and update.num_examples == 1 else update.num_examples
