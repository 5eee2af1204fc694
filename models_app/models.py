"""What is known of a federation: clients, models, updates, rounds and the line of aggregates.

What must not happen is held by the database, on PostgreSQL and SQLite alike: two rounds of one model at
the same time, two aggregates with one number, one upload registered twice. Nothing cascades into the
lineage: what an aggregate was made from cannot be deleted.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from aggregation.errors import RuleError
from aggregation.requirements import Requirement, create_requirement
from aggregation.rules import Rule, create_rule
from models_app.schemas import SchemaError, compiled


def publishes_events() -> bool:
    """Whether what happens from now on is to be announced: there is a bus to announce it on."""
    return bool(settings.EVENT_BUS)


def pause(reason: str, now: datetime) -> dict[str, Any]:
    """What is written to pause a model, as the arguments of an update."""
    return {
        "allow_aggregation": False,
        "pause_reason": reason,
        "event_pending": now if publishes_events() else None,
    }


class Client(models.Model):
    """One participant."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    paused = models.BooleanField(
        default=False, help_text="Uploads are rejected, and no round waits for this client."
    )
    created_on = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.uuid)


class FederatedModel(models.Model):
    """What is being trained.

    Raises
    ------
    ValidationError
        On saving, if the aggregation rule, the requirement or their arguments are not known.
    """

    class UpdateKind(models.TextChoices):
        """What a client's tensors are."""

        WEIGHTS = "weights"
        DIFFERENCES = "differences"

    name = models.CharField(max_length=255)
    developer = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="models",
    )
    clients = models.ManyToManyField(Client, related_name="federated_models", blank=True)
    current_artifact = models.OneToOneField(
        "ModelArtifact", related_name="+", null=True, blank=True, on_delete=models.PROTECT
    )
    aggregator = models.CharField(
        max_length=255, default="weighted_mean", help_text="Name of the aggregation rule."
    )
    aggregator_args = models.JSONField(
        default=dict, blank=True, help_text='Arguments of the rule by name, such as {"beta": 0.1}.'
    )
    requirement = models.CharField(
        max_length=255,
        blank=True,
        help_text="When a round may start; empty: as soon as one update is ready.",
    )
    requirement_args = models.JSONField(
        null=True, blank=True, help_text="By position, such as [3], or by name, such as {'x': 3}."
    )
    update_kind = models.CharField(
        max_length=16, choices=UpdateKind.choices, default=UpdateKind.WEIGHTS
    )
    max_num_examples = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="An update counts no more examples than this, whatever it claims.",
    )
    furthest_base_agg = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="An update may be based on one of this many latest aggregates; empty: on any.",
    )
    update_schema = models.JSONField(null=True, blank=True)
    client_agg_results_schema = models.JSONField(
        null=True, blank=True, help_text="JSON schema of the scores that clients report."
    )
    score_metric = models.CharField(
        max_length=255,
        blank=True,
        help_text="Which of the numbers clients report is the score; empty: none is.",
    )
    lower_is_better = models.BooleanField(default=False, help_text="The score is a loss.")
    max_score_drop = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="No version is made of an aggregate that scores worse than its parent by more.",
    )
    pointer_number = models.PositiveIntegerField(
        null=True, editable=False, help_text="Of the aggregate that latest.json tells, at least."
    )
    allow_aggregation = models.BooleanField(default=True, help_text="Unset: the model is paused.")
    pause_reason = models.TextField(blank=True, editable=False)
    event_pending = models.DateTimeField(
        null=True, editable=False, help_text="When it was paused, until that is announced."
    )
    failed_rounds = models.PositiveIntegerField(
        default=0, editable=False, help_text="In a row, since a round was published or resumed."
    )
    created_on = models.DateTimeField(auto_now_add=True)
    last_modified = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(furthest_base_agg__isnull=True) | Q(furthest_base_agg__gte=1),
                name="furthest_base_agg_counts_from_one",
            ),
            models.CheckConstraint(
                condition=Q(max_num_examples__isnull=True) | Q(max_num_examples__gte=1),
                name="max_num_examples_is_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        problems = {}
        for field, create in (("aggregator", self.rule), ("requirement", self.requirement_object)):
            try:
                create()
            except RuleError as error:
                problems[field] = str(error)
        try:
            compiled(self.client_agg_results_schema)
        except SchemaError as error:
            problems["client_agg_results_schema"] = str(error)
        if problems:
            raise ValidationError(problems)

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.clean()
        super().save(*args, **kwargs)

    def rule(self) -> Rule:
        """The aggregation rule with its arguments."""
        return create_rule(self.aggregator, self.aggregator_args)

    def requirement_object(self) -> Requirement:
        """The requirement with its arguments."""
        return create_requirement(self.requirement, self.requirement_args)


class ModelArtifact(models.Model):
    """An aggregate, or the initial model, published under a version."""

    values = models.FileField(upload_to="artifacts", max_length=1024)
    federated_model = models.ForeignKey(
        FederatedModel, on_delete=models.PROTECT, related_name="artifacts"
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


class ModelAggregate(models.Model):
    """The result of a round; its parent is the aggregate before it."""

    federated_model = models.ForeignKey(
        FederatedModel, on_delete=models.PROTECT, related_name="aggregates"
    )
    parent = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="child"
    )
    number = models.PositiveIntegerField(help_text="Of the round that made it; the first is 1.")
    result = models.FileField(upload_to="aggregates", max_length=1024)
    validation_score = models.FloatField(null=True, blank=True)
    event_pending = models.DateTimeField(
        null=True, editable=False, help_text="When its score dropped, until that is announced."
    )
    created_on = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            # The number is the parent's plus one, so that the lineage is a line and never forks.
            # Its index also answers "the latest aggregate of a model".
            models.UniqueConstraint(
                fields=["federated_model", "number"], name="one_aggregate_per_round_number"
            )
        ]
        indexes = [
            # "Whose score has dropped and is not announced yet": next to none at any time.
            models.Index(
                fields=["id"],
                condition=Q(event_pending__isnull=False),
                name="aggregates_with_event",
            )
        ]

    def __str__(self) -> str:
        return f"aggregate {self.number} of {self.federated_model}"

    def dropped(self) -> str:
        """By how much it scores worse than its parent, in words; empty where that is no more than its
        model's `max_score_drop`, or not known."""
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


class AggregationRound(models.Model):
    """One attempt to turn the ready updates of a model into one aggregate."""

    class State(models.IntegerChoices):
        """PUBLISHED, FAILED and REJECTED are final."""

        RUNNING = 0
        PUBLISHED = 1
        FAILED = 2, "Failed: an error; the updates are ready again"
        REJECTED = 3, "Rejected: too few usable updates; those that are left wait on"

    federated_model = models.ForeignKey(
        FederatedModel, on_delete=models.PROTECT, related_name="rounds"
    )
    number = models.PositiveIntegerField(
        help_text="Of the aggregate it is to make: a round that fails leaves its number to the next."
    )
    parent = models.ForeignKey(
        ModelAggregate, null=True, on_delete=models.PROTECT, related_name="rounds_based_on"
    )
    aggregate = models.OneToOneField(
        ModelAggregate, null=True, on_delete=models.PROTECT, related_name="round"
    )
    state = models.IntegerField(choices=State.choices, default=State.RUNNING)
    config_snapshot = models.JSONField(
        default=dict, help_text="The model's settings as they were when the updates were claimed."
    )
    external = models.BooleanField(
        default=False, help_text="Opened by a workflow that calls the connector step by step."
    )
    attempt = models.PositiveIntegerField(
        default=1, help_text="The fencing token: whoever holds a lower one changes nothing."
    )
    lease_expires_at = models.DateTimeField()
    started_on = models.DateTimeField()
    finished_on = models.DateTimeField(null=True)
    request_id = models.CharField(max_length=128, blank=True)
    updates_used = models.PositiveIntegerField(default=0)
    updates_rejected = models.PositiveIntegerField(default=0)
    bytes_read = models.PositiveBigIntegerField(default=0)
    error = models.TextField(blank=True)
    checkpoint = models.JSONField(null=True, help_text="How far an unfinished round got.")
    attempts_without_progress = models.PositiveIntegerField(
        default=0, help_text="Attempts in a row that ended no further than they began."
    )
    event_pending = models.BooleanField(default=publishes_events, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["federated_model"],
                condition=Q(state=0),
                name="one_running_round_per_model",
            )
        ]
        indexes = [
            # "What has ended and is not announced yet": next to nothing at any time.
            models.Index(
                fields=["id"],
                condition=Q(event_pending=True, state__gt=0),
                name="rounds_with_event",
            )
        ]

    def __str__(self) -> str:
        return f"round {self.number} of {self.federated_model}, attempt {self.attempt}"


class ModelUpdate(models.Model):
    """One client's contribution: an object in storage, and what it says of itself."""

    class Status(models.IntegerChoices):
        """PENDING and FAILED updates are ready for a round; COMPLETE and INVALID are final."""

        PENDING = 0
        RUNNING = 1
        COMPLETE = 2
        FAILED = 3
        INVALID = 4

    #: The name the statuses had in the system whose interface is taken over.
    TaskStatus = Status

    #: Statuses from which a round may take an update.
    READY = (Status.PENDING, Status.FAILED)

    client = models.ForeignKey(Client, on_delete=models.PROTECT, related_name="model_updates")
    federated_model = models.ForeignKey(
        FederatedModel, on_delete=models.PROTECT, related_name="model_updates"
    )
    data = models.FileField(upload_to="updates", max_length=1024)
    status = models.IntegerField(choices=Status.choices, default=Status.PENDING)
    rejection_reason = models.TextField(blank=True)
    num_examples = models.PositiveBigIntegerField(default=1, validators=[MinValueValidator(1)])
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
        db_index=False,  # The one of round and client serves.
    )
    size = models.PositiveBigIntegerField(null=True, blank=True)
    etag = models.CharField(max_length=255, blank=True)
    storage_version = models.CharField(max_length=255, blank=True)
    uploaded_on = models.DateTimeField(
        default=timezone.now, help_text="When the object was stored: the newest of a client counts."
    )
    norm = models.FloatField(
        null=True, blank=True, help_text="Of its difference from the parent, where it was measured."
    )
    event_pending = models.BooleanField(default=publishes_events, editable=False)
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
            # "The ready updates of a model", and "the updates of a round that are RUNNING".
            models.Index(fields=["federated_model", "status"], name="updates_by_status"),
            # "A client's update in a round": looked up for each update that it supersedes.
            models.Index(fields=["round", "client"], name="updates_by_round"),
            # "The rejected updates that are not announced yet".
            models.Index(
                fields=["id"],
                condition=Q(event_pending=True, status=4),
                name="updates_with_event",
            ),
        ]

    def __str__(self) -> str:
        return f"update {self.pk} of {self.client_id} for {self.federated_model_id}"


class ClientAggregateScore(models.Model):
    """What one client measured of one aggregate."""

    aggregate = models.ForeignKey(
        ModelAggregate, on_delete=models.PROTECT, related_name="client_scores"
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
