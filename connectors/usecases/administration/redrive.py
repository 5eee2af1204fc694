"""Retry what failed: dead-lettered messages, and rounds of models with failed updates."""

from __future__ import annotations

from typing import Protocol

from django.db.models import Exists, OuterRef

from aggregation.errors import Conflict
from connectors.usecases.run_round import RequestsRounds
from models_app.models import FederatedModel, ModelUpdate


class RedrivableQueue(RequestsRounds, Protocol):
    """A queue with a dead-letter queue."""

    def redrive(self) -> int:
        """Move every dead-lettered message back to the queue, and return how many there were."""


def redrive(queue: RedrivableQueue | None) -> tuple[int, list[int]]:
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
    if queue is None:
        raise Conflict("QUEUE_URL is not set: there is no queue to move messages to")
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
