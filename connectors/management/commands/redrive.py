"""``manage.py redrive``: dead letters and failed updates get another chance."""

from __future__ import annotations

from typing import Any

import boto3
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from connectors.management.reports import plain_message
from connectors.runtime.queue import RoundQueue
from models_app.models import FederatedModel, ModelUpdate


class Command(BaseCommand):
    """Puts dead-lettered messages back into the queue, and asks for rounds of failed updates."""

    help = (
        "Put dead-lettered messages back into the queue, and ask for a round of every model that has "
        "FAILED updates. Example: manage.py redrive"
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.QUEUE_URL:
            raise CommandError("QUEUE_URL is not set: there is no queue to put anything back into")
        failed = FederatedModel.objects.filter(model_updates__status=ModelUpdate.Status.FAILED)
        with plain_message():
            queue = RoundQueue(boto3.client("sqs"), settings.QUEUE_URL)
            model_ids = list(failed.order_by("pk").values_list("pk", flat=True).distinct())
            try:
                moved = queue.redrive()
            except LookupError as error:
                raise CommandError(str(error)) from error
            queue.request_rounds(model_ids)
        self.stdout.write(f"{moved} dead letters are back in the queue")
        self.stdout.write(f"a round is asked for of {len(model_ids)} models with failed updates")
