"""``manage.py resume MODEL``: rounds of a paused model start again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from connectors.management.reports import add_model_argument, found, plain_message
from models_app.models import FederatedModel


class Command(BaseCommand):
    """Resumes a federated model, whether it was paused by hand or after failed rounds."""

    help = "Resume a paused model. Example: manage.py resume 3"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_model_argument(parser)

    def handle(self, *args: Any, model: int, **options: Any) -> None:
        with plain_message():
            before = found(FederatedModel, model)
            FederatedModel.objects.filter(pk=model).update(
                allow_aggregation=True, pause_reason="", failed_rounds=0, event_pending=None
            )
        was = (
            "it was not paused"
            if before.allow_aggregation
            else f"it had been paused: {before.pause_reason or 'by hand'}"
        )
        self.stdout.write(f"model {model} takes part in rounds; {was}")
