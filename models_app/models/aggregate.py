"""The lineages of aggregates."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from models_app.models.federated_model import FederatedModel


class ModelAggregate(models.Model):
    """The result of a round; its parent is the aggregate before it."""

    federated_model = models.ForeignKey(
        FederatedModel,
        on_delete=models.PROTECT,
        related_name="aggregates",
        db_index=False,  # The index of the constraint begins with it.
    )
    parent = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="child"
    )
    number = models.PositiveIntegerField(help_text="Number of its round; the first is 1.")
    result = models.FileField(upload_to="aggregates", max_length=1024)
    server_optimizer = models.CharField(
        max_length=255, blank=True, editable=False, help_text="The optimizer that left the state."
    )
    optimizer_state = models.FileField(
        upload_to="aggregates",
        max_length=1024,
        blank=True,
        editable=False,
        help_text="What the next step of the optimizer starts from.",
    )
    validation_score = models.FloatField(null=True, blank=True)
    score_state = models.JSONField(
        null=True,
        editable=False,
        help_text="What the score averages: the metric, the cap of examples and the sum of weights.",
    )
    scores_pruned = models.BooleanField(
        default=False,
        editable=False,
        help_text="Its clients' scores were deleted; further ones are refused.",
    )
    event_pending = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When its score dropped, until the event has been published.",
    )
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            # The number is the parent's plus one, so the lineage never forks.
            # The index also answers "the latest aggregate of a model".
            models.UniqueConstraint(
                fields=["federated_model", "number"], name="one_aggregate_per_round_number"
            )
        ]
        indexes = [
            # "Aggregates whose event is pending": hardly any at any time.
            models.Index(
                fields=["id"],
                condition=Q(event_pending__isnull=False),
                name="aggregates_with_event",
            )
        ]

    def __str__(self) -> str:
        return f"aggregate {self.number} of {self.federated_model}"

    def dropped(self) -> str:
        """Return by how much it scores worse than its parent, as a sentence.

        Empty if the drop is at most the model's `max_score_drop`, or if a score is missing.
        """
        model, parent = self.federated_model, self.parent
        if model.max_score_drop is None or self.validation_score is None:
            return ""
        if parent is None or parent.validation_score is None:
            return ""
        drop = parent.validation_score - self.validation_score
        if model.lower_is_better:
            drop = -drop
        if drop <= model.max_score_drop:
            return ""
        return (
            f"{self} scores {self.validation_score:.6g}, its parent {parent.validation_score:.6g}: "
            f"worse by {drop:.6g}, and max_score_drop is {model.max_score_drop:.6g}"
        )
