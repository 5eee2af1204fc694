"""Reads of the database: each answers one question in a number of statements that no update adds to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import (
    Count,
    Exists,
    FloatField,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Window,
)
from django.db.models.functions import Coalesce, Now, RowNumber

from aggregation.requirements import Readiness
from aggregation.rules import known_rules
from connectors.errors import UnknownModel, translate_database_errors
from models_app.models import AggregationRound, Client, FederatedModel, ModelAggregate, ModelUpdate

State = AggregationRound.State
UpdateStatus = ModelUpdate.Status


@dataclass(frozen=True, kw_only=True)
class ModelSnapshot:
    """The state that decides whether a model may start a round, read at one moment.

    Parameters
    ----------
    now : datetime
        By the clock of the database, which alone judges leases.
    model : FederatedModel
    members : int
        Clients of the model that are not paused.
    parent : ModelAggregate or None
        The latest aggregate.
    running : AggregationRound or None
    ready : list of ModelUpdate
        By client; empty where a round is running or the model is paused, since it is not needed then.
    """

    now: datetime
    model: FederatedModel
    members: int
    parent: ModelAggregate | None
    running: AggregationRound | None
    ready: list[ModelUpdate]

    @property
    def number(self) -> int:
        """The number of the round that would start."""
        return self.parent.number + 1 if self.parent else 1

    @property
    def parent_key(self) -> str | None:
        """The key of the weights that the next aggregate succeeds: the latest, or the initial model."""
        return weights_key(self.model, self.parent)

    @property
    def optimizer_state(self) -> str | None:
        """The key of the state that the model's server optimizer left with the latest aggregate.

        None if another optimizer, or none, made it: the model's then starts from its initial state.
        """
        parent = self.parent
        if parent is None or parent.server_optimizer != self.model.server_optimizer:
            return None
        return parent.optimizer_state.name or None

    @property
    def lease_expired(self) -> bool:
        """Whether a round is running whose lease has expired."""
        return self.running is not None and self.running.lease_expires_at <= self.now

    def readiness(self) -> Readiness:
        """Return what the requirement is checked against."""
        oldest = min((update.created_on for update in self.ready), default=self.now)
        return Readiness(members=self.members, ready=len(self.ready), waited=self.now - oldest)


def model_snapshot(model_id: int) -> ModelSnapshot:
    """Read the state of a model, in two statements.

    Raises
    ------
    UnknownModel
    """
    latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
    running = AggregationRound.objects.filter(federated_model=OuterRef("pk"), state=State.RUNNING)
    model = (
        FederatedModel.objects.filter(pk=model_id)
        .select_related("current_artifact")
        .annotate(
            members=members_of(OuterRef("pk")),
            latest_id=Subquery(latest.values("pk")[:1]),
            latest_number=Subquery(latest.values("number")[:1]),
            latest_result=Subquery(latest.values("result")[:1]),
            latest_optimizer=Subquery(latest.values("server_optimizer")[:1]),
            latest_state=Subquery(latest.values("optimizer_state")[:1]),
            running_id=Subquery(running.values("pk")[:1]),
            database_now=Now(),
        )
        .first()
    )
    if model is None:
        raise UnknownModel(f"there is no federated model with id {model_id}")
    parent = None
    if model.latest_id is not None:
        parent = ModelAggregate(
            pk=model.latest_id,
            federated_model=model,
            number=model.latest_number,
            result=model.latest_result,
            server_optimizer=model.latest_optimizer,
            optimizer_state=model.latest_state,
        )
    found: AggregationRound | None = None
    updates: list[ModelUpdate] = []
    if model.running_id is not None:
        found = AggregationRound.objects.get(pk=model.running_id)
    elif model.allow_aggregation:
        updates = list(ready_updates(model, parent.number if parent else 0))
    return ModelSnapshot(
        now=model.database_now,
        model=model,
        members=model.members,
        parent=parent,
        running=found,
        ready=updates,
    )


def weights_key(model: FederatedModel, aggregate: ModelAggregate | None) -> str | None:
    """Return the key of an aggregate, or of the model's initial weights where there is none."""
    if aggregate:
        return str(aggregate.result.name)
    return str(model.current_artifact.values.name) if model.current_artifact else None


def members_of(model: OuterRef) -> Coalesce:
    """Return the number of a model's clients that are not paused, as a subquery."""
    counted = (
        Client.objects.filter(federated_models=model, paused=False)
        .order_by()
        .values("federated_models")
        .annotate(count=Count("pk"))
        .values("count")
    )
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def pending_updates(model: FederatedModel) -> QuerySet[ModelUpdate]:
    """Return the PENDING and FAILED updates of the model's members."""
    return ModelUpdate.objects.filter(
        federated_model=model,
        status__in=ModelUpdate.READY,
        client__federated_models=model,
        client__paused=False,
    ).select_related("client", "base_aggregate")


def ready_updates(model: FederatedModel, latest: int) -> QuerySet[ModelUpdate]:
    """Return each member's newest pending update that is based on an aggregate the model allows.

    Parameters
    ----------
    model : FederatedModel
    latest : int
        Number of the latest aggregate; 0 before the first, as for an update without a base.
    """
    newest_first = Window(RowNumber(), partition_by="client", order_by=["-uploaded_on", "-pk"])
    pending = pending_updates(model).filter(~is_stale(model, latest))
    newest = pending.annotate(rank=newest_first).filter(rank=1).order_by("client_id")
    rule = known_rules().get(model.aggregator)
    remembers = rule is not None and rule.needs_directions
    return newest.annotate(direction=_direction(model)) if remembers else newest


def _direction(model: FederatedModel) -> Coalesce:
    """Return the sum of the cosines of a client's earlier updates of the model, as a subquery."""
    earlier = ModelUpdate.objects.filter(
        client=OuterRef("client"), federated_model=model, cosine__isnull=False
    )
    summed = earlier.order_by().values("client").annotate(sum=Sum("cosine")).values("sum")
    return Coalesce(Subquery(summed, output_field=FloatField()), 0.0)


def directions_of(updates: Sequence[ModelUpdate]) -> dict[str, float]:
    """Return the sums that `ready_updates` found, by the ids of the updates; empty if it read none."""
    found = ((update.pk, getattr(update, "direction", None)) for update in updates)
    return {str(pk): round(direction, 6) for pk, direction in found if direction is not None}


def is_stale(model: FederatedModel, latest: int) -> Q:
    """Return the condition that an update's base is further back than the model allows."""
    if model.furthest_base_agg is None:
        return Q(pk__in=[])
    oldest = latest - model.furthest_base_agg + 1
    without_base = Q(base_aggregate=None) if oldest > 0 else Q(pk__in=[])
    return Q(base_aggregate__number__lt=oldest) | without_base


def registered_updates(held: AggregationRound) -> QuerySet[ModelUpdate]:
    """Return the updates of a round that are not settled, by client."""
    running = ModelUpdate.objects.filter(round=held, status=UpdateStatus.RUNNING)
    return running.select_related("base_aggregate").order_by("client_id")


def expired_external_rounds(model_id: int) -> QuerySet[AggregationRound]:
    """Return the model's external round whose lease has expired, if there is one."""
    return AggregationRound.objects.filter(
        federated_model_id=model_id,
        state=State.RUNNING,
        external=True,
        lease_expires_at__lte=Now(),
    )


def due_models() -> list[int]:
    """Return the ids of models, not paused, with ready updates or a round whose lease has expired."""
    ready = ModelUpdate.objects.filter(federated_model=OuterRef("pk"), status__in=ModelUpdate.READY)
    expired = AggregationRound.objects.filter(
        federated_model=OuterRef("pk"), state=State.RUNNING, lease_expires_at__lte=Now()
    )
    due = FederatedModel.objects.filter(Exists(ready) | Exists(expired), allow_aggregation=True)
    with translate_database_errors():
        return list(due.order_by("pk").values_list("pk", flat=True))
