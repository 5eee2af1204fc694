"""The published versions."""

from __future__ import annotations

from django.db import models

from models_app.models.federated_model import FederatedModel


class ModelArtifact(models.Model):
    """An aggregate, or the initial model, published under a version."""

    values = models.FileField(upload_to="artifacts", max_length=1024)
    federated_model = models.ForeignKey(
        FederatedModel,
        on_delete=models.PROTECT,
        related_name="artifacts",
        db_index=False,  # The index of the constraint begins with it.
    )
    version = models.CharField(max_length=255)
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["federated_model", "version"], name="version_is_unique_within_model"
            )
        ]

    def __str__(self) -> str:
        return f"{self.federated_model} {self.version}"
