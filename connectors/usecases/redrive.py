"""Retry what failed: dead-lettered messages, and rounds of models with failed updates."""

from __future__ import annotations

import boto3
from django.conf import settings
from django.db.models import Exists, OuterRef

from aggregation.errors import Conflict
from connectors.runtime.queue import RoundQueue
from models_app.models import FederatedModel, ModelUpdate


def redrive() -> tuple[int, list[int]]:
    """Move dead-lettered messages back to the queue, and request rounds of models with FAILED updates.

    Returns
    -------
    int
        How many messages were moved.
    list of int
        Ids of the models.

    Raises
    ------
    Conflict
        If there is no queue, or if it has no dead-letter queue.
    """
    if not settings.QUEUE_URL:
        raise Conflict("QUEUE_URL is not set: there is no queue to move messages to")
    queue = RoundQueue(boto3.client("sqs"), settings.QUEUE_URL)
    failed = ModelUpdate.objects.filter(
        federated_model=OuterRef("pk"), status=ModelUpdate.Status.FAILED
    )
    models = FederatedModel.objects.filter(Exists(failed)).order_by("pk")
    model_ids = list(models.values_list("pk", flat=True))
    try:
        moved = queue.redrive()
    except LookupError as error:
        raise Conflict(str(error)) from error
    queue.request_rounds(model_ids)
    return moved, model_ids
