"""``manage.py pause MODEL``: no round of the model starts until it is resumed."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from models_app.models import FederatedModel, pause


class Command(BaseCommand):
    """Pauses a federated model; what clients upload meanwhile waits."""

    help = 'Pause a model. Example: manage.py pause 3 --reason "new data protection review"'

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", type=int, help="id of the federated model")
        parser.add_argument("--reason", default="paused by hand", help="shown wherever it is asked")

    def handle(self, *args: Any, model: int, reason: str, **options: Any) -> None:
        changed = FederatedModel.objects.filter(pk=model).update(**pause(reason, timezone.now()))
        if not changed:
            raise CommandError(f"there is no federated model with id {model}")
        self.stdout.write(f"model {model} is paused: {reason}")
