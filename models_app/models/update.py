"""The updates of clients."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from models_app.models.aggregate import ModelAggregate
from models_app.models.client import Client
from models_app.models.events import publishes_events
from models_app.models.federated_model import FederatedModel
from models_app.models.round import AggregationRound

#: The `published_status` of an update that no document shows yet.
UNPUBLISHED = -1


def initial_published_status() -> int | None:
    """Return the `published_status` of a new update."""
    return UNPUBLISHED if settings.CLIENT_STATUS and settings.BUCKET else None


class ModelUpdate(models.Model):
    """One client's contribution: an object in storage, and its metadata."""

    class Status(models.IntegerChoices):
        """PENDING and FAILED updates are ready for a round; COMPLETE and INVALID are final."""

        PENDING = 0
        RUNNING = 1
        COMPLETE = 2
        FAILED = 3
        INVALID = 4

    #: The name of the statuses in the system whose interface is taken over.
    TaskStatus = Status

    #: Statuses from which a round may take an update.
    READY = (Status.PENDING, Status.FAILED)

    client = models.ForeignKey(
        Client,
        on_delete=models.PROTECT,
        related_name="model_updates",
        db_index=False,  # `updates_by_client` begins with it.
    )
    federated_model = models.ForeignKey(
        FederatedModel,
        on_delete=models.PROTECT,
        related_name="model_updates",
        db_index=False,  # `updates_by_model` begins with it.
    )
    data = models.FileField(upload_to="updates", max_length=1024)
    status = models.IntegerField(choices=Status.choices, default=Status.PENDING)
    rejection_reason = models.TextField(blank=True)
    num_examples = models.PositiveBigIntegerField(default=1, validators=[MinValueValidator(1)])
    num_steps = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Steps of local training, if the client states them.",
    )
    base_aggregate = models.ForeignKey(
        ModelAggregate,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="updates_based_on",
    )
    applied_aggregate = models.ForeignKey(
        ModelAggregate,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="updates_applied",
    )
    round = models.ForeignKey(
        AggregationRound,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="updates",
        db_index=False,  # `updates_by_round` begins with it.
    )
    size = models.PositiveBigIntegerField(null=True, blank=True)
    etag = models.CharField(max_length=255, blank=True)
    storage_version = models.CharField(
        max_length=255,
        blank=True,
        help_text="The version or ETag in its event.",
    )
    version_id = models.CharField(
        max_length=255, blank=True, help_text="The version that is read; empty without versioning."
    )
    uploaded_on = models.DateTimeField(
        default=timezone.now,
        help_text="When the object was stored: a round takes the newest update of a client.",
    )
    norm = models.FloatField(
        null=True,
        blank=True,
        help_text="Of its difference from the parent, if the rule measures it.",
    )
    cosine = models.FloatField(
        null=True,
        blank=True,
        help_text="Of its difference from the parent and the aggregate's, if the rule compares updates.",
    )
    scaling_factor = models.FloatField(
        null=True,
        blank=True,
        help_text="Its share of the aggregate; empty before, and if a workflow made the aggregate.",
    )
    event_pending = models.BooleanField(default=publishes_events, editable=False)
    published_status = models.SmallIntegerField(
        null=True,
        default=initial_published_status,
        editable=False,
        help_text="The status that the client's document shows; empty if it has no document.",
    )
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["data", "storage_version"], name="one_update_per_stored_object"
            ),
            models.CheckConstraint(
                condition=Q(num_examples__gte=1), name="num_examples_is_positive"
            ),
        ]
        indexes = [
            # "The latest updates of a model."
            models.Index(fields=["federated_model", "id"], name="updates_by_model"),
            # "The ready updates of a model", "its latest rejected updates".
            models.Index(fields=["federated_model", "status", "id"], name="updates_by_status"),
            # "When a client of a model was last seen", "its latest rejected update".
            models.Index(
                fields=["client", "federated_model", "uploaded_on"], name="updates_by_client"
            ),
            # "A client's update in a round": looked up for each update that it supersedes.
            models.Index(fields=["round", "client"], name="updates_by_round"),
            # "Updates whose status is not the one that their client's document shows."
            models.Index(
                fields=["federated_model"],
                condition=Q(published_status__isnull=False) & ~Q(published_status=F("status")),
                name="updates_with_status",
            ),
            # "Rejected updates whose event is pending."
            models.Index(
                fields=["id"],
                condition=Q(event_pending=True, status=4),
                name="updates_with_event",
            ),
        ]

    def __str__(self) -> str:
        return f"update {self.pk} of {self.client_id} for {self.federated_model_id}"
