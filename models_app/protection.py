"""Protect records of the protocol from deletion.

A settled update is the record that its object has been used or rejected: without it, an event of S3 that is
delivered again would count the object a second time. `manage.py prune` deletes old records safely.
"""

from __future__ import annotations

from typing import Any

from django.db.models import ProtectedError
from django.db.models.signals import pre_delete
from django.dispatch import receiver

from models_app.models import AggregationRound, ModelUpdate

#: States of rounds that made an aggregate, or may still make one.
PROTECTED_ROUNDS = (AggregationRound.State.RUNNING, AggregationRound.State.PUBLISHED)


@receiver(pre_delete, sender=ModelUpdate)
def protect_update(instance: ModelUpdate, **kwargs: Any) -> None:
    """Refuse to delete an update that is in a round or settled.

    Raises
    ------
    ProtectedError
    """
    if instance.status not in ModelUpdate.READY:
        status = ModelUpdate.Status(instance.status).name
        raise ProtectedError(
            f"{instance} is {status}: without its record, a repeated event would count it again; "
            "manage.py prune deletes old records safely",
            {instance},
        )


@receiver(pre_delete, sender=AggregationRound)
def protect_round(instance: AggregationRound, **kwargs: Any) -> None:
    """Refuse to delete a round that made an aggregate, or that is running.

    Raises
    ------
    ProtectedError
    """
    if instance.state in PROTECTED_ROUNDS:
        raise ProtectedError(f"{instance} is the record of how an aggregate was made", {instance})
