"""The scores that clients report."""

from __future__ import annotations

from django.db import models

from models_app.models.aggregate import ModelAggregate
from models_app.models.client import Client


class ClientAggregateScore(models.Model):
    """The score that one client measured of one aggregate."""

    aggregate = models.ForeignKey(
        ModelAggregate,
        on_delete=models.PROTECT,
        related_name="client_scores",
        db_index=False,  # The index of the constraint begins with it.
    )
    client = models.ForeignKey(Client, on_delete=models.PROTECT, related_name="aggregate_scores")
    validation_results = models.JSONField()
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["aggregate", "client"], name="one_score_per_client_and_aggregate"
            )
        ]
