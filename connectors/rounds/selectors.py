"""What is asked of the database, each question in a number of statements that no update adds to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Value,
    When,
    Window,
)
from django.db.models.functions import Cast, Coalesce, Concat, RowNumber

from aggregation.requirements import Readiness
from connectors.errors import UnknownModel, translate_database_errors
from models_app.models import AggregationRound, Client, FederatedModel, ModelAggregate, ModelUpdate

State = AggregationRound.State
UpdateStatus = ModelUpdate.Status


@dataclass(frozen=True, kw_only=True)
class ModelSnapshot:
    """What decides whether a model may start a round, read at one moment.

    Parameters
    ----------
    members : int
        Clients of the model that are not paused.
    parent : ModelAggregate or None
        The latest aggregate.
    running : AggregationRound or None
    ready : list of ModelUpdate
        By client; empty where a round is running or the model is paused: nobody asks then.
    """

    model: FederatedModel
    members: int
    parent: ModelAggregate | None
    running: AggregationRound | None
    ready: list[ModelUpdate]

    @property
    def number(self) -> int:
        """Of the round that would start."""
        return self.parent.number + 1 if self.parent else 1

    def readiness(self, now: datetime) -> Readiness:
        """What the requirement looks at."""
        oldest = min((update.created_on for update in self.ready), default=now)
        return Readiness(members=self.members, ready=len(self.ready), waited=now - oldest)


def lock_model(model_id: int) -> None:
    """Wait for, and hold, the lock under which a model's rounds begin.

    A statement of its own: what a locking statement reads besides the row it waits for is as old as
    its beginning.
    """
    list(FederatedModel.objects.select_for_update().filter(pk=model_id).values("pk"))


def model_snapshot(model_id: int) -> ModelSnapshot:
    """Read the situation of a model, in two statements.

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
            running_id=Subquery(running.values("pk")[:1]),
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
        )
    found: AggregationRound | None = None
    updates: list[ModelUpdate] = []
    if model.running_id is not None:
        found = AggregationRound.objects.get(pk=model.running_id)
    elif model.allow_aggregation:
        updates = list(ready_updates(model, parent.number if parent else 0))
    return ModelSnapshot(
        model=model, members=model.members, parent=parent, running=found, ready=updates
    )


def members_of(model: OuterRef) -> Coalesce:
    """How many clients of a model are not paused, as a subquery."""
    counted = (
        Client.objects.filter(federated_models=model, paused=False)
        .order_by()
        .values("federated_models")
        .annotate(count=Count("pk"))
        .values("count")
    )
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def pending_updates(model: FederatedModel) -> QuerySet[ModelUpdate]:
    """PENDING and FAILED updates of the model's members."""
    return ModelUpdate.objects.filter(
        federated_model=model,
        status__in=ModelUpdate.READY,
        client__federated_models=model,
        client__paused=False,
    ).select_related("client")


def ready_updates(model: FederatedModel, latest: int) -> QuerySet[ModelUpdate]:
    """The newest pending update of each member that is based on an aggregate the model allows.

    Parameters
    ----------
    model : FederatedModel
    latest : int
        Number of the latest aggregate; 0 before the first, as for an update without a base.
    """
    newest_first = Window(RowNumber(), partition_by="client", order_by=["-uploaded_on", "-pk"])
    pending = pending_updates(model).filter(~_stale(model, latest))
    return pending.annotate(rank=newest_first).filter(rank=1).order_by("client_id")


def _stale(model: FederatedModel, latest: int) -> Q:
    """Based on an aggregate that is further back than the model allows."""
    if model.furthest_base_agg is None:
        return Q(pk__in=[])
    oldest = latest - model.furthest_base_agg + 1
    without_base = Q(base_aggregate=None) if oldest > 0 else Q(pk__in=[])
    return Q(base_aggregate__number__lt=oldest) | without_base


def reject_superseded(claimed: AggregationRound) -> None:
    """Mark the ready updates INVALID of whose client the round has taken a newer one."""
    newer = ModelUpdate.objects.filter(round=claimed, client=OuterRef("client"))
    newest = Cast(Subquery(newer.values("pk")[:1]), output_field=CharField())
    ModelUpdate.objects.filter(
        federated_model_id=claimed.federated_model_id,
        status__in=ModelUpdate.READY,
        client__in=ModelUpdate.objects.filter(round=claimed, status=UpdateStatus.RUNNING).values(
            "client"
        ),
    ).update(
        status=UpdateStatus.INVALID,
        rejection_reason=Concat(Value("superseded by update "), newest, output_field=TextField()),
    )


def reject_stale(model: FederatedModel, latest: int) -> None:
    """Mark pending updates INVALID whose base the model allows no more, nor ever will again."""
    if model.furthest_base_agg is None:
        return
    reason = (
        f"based on an older aggregate than the model allows: the latest is {latest}, "
        f"furthest_base_agg is {model.furthest_base_agg}"
    )
    stale = ModelUpdate.objects.filter(federated_model=model, status__in=ModelUpdate.READY)
    stale.filter(_stale(model, latest)).update(status=UpdateStatus.INVALID, rejection_reason=reason)


def registered_updates(held: AggregationRound) -> QuerySet[ModelUpdate]:
    """The updates of a round that are not settled; by client."""
    return ModelUpdate.objects.filter(round=held, status=UpdateStatus.RUNNING).order_by("client_id")


def reject_updates(updates: QuerySet[ModelUpdate], reasons: Mapping[int, str]) -> None:
    """Mark some of the updates INVALID, each with its reason, in one statement."""
    if reasons:
        cases = [When(pk=pk, then=Value(reason)) for pk, reason in reasons.items()]
        updates.filter(pk__in=reasons).update(
            status=UpdateStatus.INVALID,
            rejection_reason=Case(*cases, output_field=TextField()),
        )


def due_models(now: datetime) -> list[int]:
    """Ids of the models, not paused, that have ready updates or a round whose lease is over."""
    ready = ModelUpdate.objects.filter(federated_model=OuterRef("pk"), status__in=ModelUpdate.READY)
    left = AggregationRound.objects.filter(
        federated_model=OuterRef("pk"), state=State.RUNNING, lease_expires_at__lte=now
    )
    due = FederatedModel.objects.filter(Exists(ready) | Exists(left), allow_aggregation=True)
    with translate_database_errors():
        return list(due.order_by("pk").values_list("pk", flat=True))
