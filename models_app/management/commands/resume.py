"""``manage.py resume MODEL``: rounds of a paused model start again."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from models_app.models import FederatedModel


class Command(BaseCommand):
    """Resumes a federated model, whether it was paused by hand or after failed rounds."""

    help = "Resume a paused model. Example: manage.py resume 3"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", type=int, help="id of the federated model")

    def handle(self, *args: Any, model: int, **options: Any) -> None:
        found = FederatedModel.objects.filter(pk=model)
        paused = found.values_list("allow_aggregation", "pause_reason").first()
        if paused is None:
            raise CommandError(f"there is no federated model with id {model}")
        found.update(allow_aggregation=True, pause_reason="", failed_rounds=0, to_announce=None)
        was = (
            f"it had been paused: {paused[1] or 'by hand'}"
            if not paused[0]
            else "it was not paused"
        )
        self.stdout.write(f"model {model} takes part in rounds; {was}")
