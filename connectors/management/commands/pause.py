"""``manage.py pause MODEL``: no round of the model starts until it is resumed."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from connectors.management.reports import add_model_argument, found, plain_message
from models_app.models import FederatedModel, pause_changes


class Command(BaseCommand):
    """Pauses a federated model; what clients upload meanwhile waits."""

    help = 'Pause a model. Example: manage.py pause 3 --reason "new data protection review"'

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_model_argument(parser)
        parser.add_argument("--reason", default="paused by hand", help="shown wherever it is asked")

    def handle(self, *args: Any, model: int, reason: str, **options: Any) -> None:
        with plain_message():
            found(FederatedModel, model)
            FederatedModel.objects.filter(pk=model).update(**pause_changes(reason, timezone.now()))
        self.stdout.write(f"model {model} is paused: {reason}")
