"""The rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import models
from django.db.models import Q

from models_app.models.aggregate import ModelAggregate
from models_app.models.events import publishes_events
from models_app.models.federated_model import FederatedModel


class AggregationRound(models.Model):
    """One attempt to turn the ready updates of a model into one aggregate."""

    class State(models.IntegerChoices):
        """PUBLISHED, FAILED and REJECTED are final."""

        RUNNING = 0
        PUBLISHED = 1
        FAILED = 2, "Failed: an error; its updates are ready again"
        REJECTED = 3, "Rejected: too few usable updates; the usable ones are ready again"

    federated_model = models.ForeignKey(
        FederatedModel,
        on_delete=models.PROTECT,
        related_name="rounds",
        db_index=False,  # `rounds_by_model` begins with it.
    )
    number = models.PositiveIntegerField(
        help_text="Number of the aggregate it is to make; after a failure the next round has it again."
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
    differential_privacy = models.JSONField(
        null=True,
        editable=False,
        help_text="Settings of the noise, and what the account had spent before the round.",
    )
    privacy_charge = models.PositiveBigIntegerField(
        default=0,
        editable=False,
        help_text="What the round adds to the model's privacy account, in units of 2^-48 of mu squared.",
    )
    privacy_released = models.TextField(
        blank=True,
        editable=False,
        help_text="Digests of the sets of updates of which a result has, or may have, become readable.",
    )
    sealed_seed = models.TextField(
        blank=True, editable=False, help_text="The seed of the noise, encrypted."
    )
    external = models.BooleanField(
        default=False, help_text="Opened by a workflow that calls the connector step by step."
    )
    attempt = models.PositiveIntegerField(
        default=1, help_text="The fencing token: an earlier attempt cannot change the round."
    )
    lease_expires_at = models.DateTimeField()
    started_on = models.DateTimeField()
    finished_on = models.DateTimeField(null=True)
    request_id = models.CharField(max_length=128, blank=True)
    updates_used = models.PositiveIntegerField(default=0)
    updates_rejected = models.PositiveIntegerField(default=0)
    bytes_read = models.PositiveBigIntegerField(default=0)
    workers = models.JSONField(
        default=dict,
        help_text="What the functions did that shared the round; empty for one function.",
    )
    error = models.TextField(blank=True)
    checkpoint = models.JSONField(null=True, help_text="The progress of an unfinished round.")
    attempts_without_progress = models.PositiveIntegerField(
        default=0, help_text="Attempts in a row that did not get any further."
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
            # "The latest rounds of a model."
            models.Index(fields=["federated_model", "id"], name="rounds_by_model"),
            # "What the private rounds of a model have spent."
            models.Index(
                fields=["federated_model"],
                condition=Q(privacy_charge__gt=0),
                name="rounds_with_charge",
            ),
            # "Finished rounds whose event is pending": hardly any at any time.
            models.Index(
                fields=["id"],
                condition=Q(event_pending=True, state__gt=0),
                name="rounds_with_event",
            ),
        ]

    @property
    def seconds(self) -> float | None:
        """How long the round took; None while it runs."""
        return (self.finished_on - self.started_on).total_seconds() if self.finished_on else None

    def task_rows(self) -> list[dict[str, Any]]:
        """Return what the tasks did, if several functions shared the round; otherwise nothing."""
        return [
            {
                "task": each["kind"],
                "range": _range("part" if each["kind"] == "combine" else "segment", each),
                "tasks": each["tasks"],
                "bytes": each["bytes_read"],
                "seconds": each["seconds"],
                "retries": each["retries"],
            }
            for each in self.workers.get("tasks", ())
        ]

    def __str__(self) -> str:
        return f"round {self.number} of {self.federated_model}, attempt {self.attempt}"


def _range(noun: str, group: Mapping[str, Any]) -> str:
    """Return which parts or segments tasks did, counted from 1."""
    first, last = group["first"] + 1, group["last"]
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"
