"""Writes of the round protocol: how rounds and updates go from one state to the next.

The caller is in a transaction and holds the lock of the model (`lock_model`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import (
    CharField,
    F,
    OuterRef,
    QuerySet,
    Subquery,
    TextField,
    Value,
)
from django.db.models.functions import Cast, Concat, Now
from django.utils import timezone

from aggregation.errors import Conflict
from connectors.rounds.private import charge_after
from connectors.rounds.selectors import (
    ModelSnapshot,
    State,
    UpdateStatus,
    directions_of,
    is_stale,
    registered_updates,
)
from connectors.rounds.snapshot import ConfigSnapshot, take_config_snapshot
from connectors.rounds.sql import ValueById, ids_in
from models_app.models import (
    AggregationRound,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    pause_changes,
)


def lock_model(model_id: int) -> None:
    """Wait for the lock under which a model's rounds begin and end, and hold it.

    This is a statement of its own, since a locking statement reads everything but the locked row as it
    was when the statement began.
    """
    list(FederatedModel.objects.select_for_update().filter(pk=model_id).values("pk"))


# Rounds


def open_round(
    snapshot: ModelSnapshot,
    updates: Sequence[ModelUpdate],
    *,
    lease: timedelta,
    request_id: str = "",
    external: bool = False,
    **privacy: Any,
) -> AggregationRound:
    """Begin a round with these updates, and reject what they supersede.

    Parameters
    ----------
    snapshot, updates, lease, request_id, external
    privacy
        The fields of a private round.

    Raises
    ------
    Conflict
        If one of the updates is no longer ready.
    """
    config = take_config_snapshot(
        snapshot.model,
        snapshot.members,
        snapshot.parent_key,
        snapshot.optimizer_state,
        snapshot.number,
        [update.num_examples for update in updates],
    )
    directions = directions_of(updates)
    if directions:
        config["directions"] = directions
    opened = AggregationRound.objects.create(
        federated_model=snapshot.model,
        number=snapshot.number,
        parent=snapshot.parent,
        config_snapshot=config,
        external=external,
        lease_expires_at=snapshot.now + lease,
        started_on=snapshot.now,
        request_id=request_id,
        **privacy,
    )
    chosen = ModelUpdate.objects.filter(pk__in=ids_in(update.pk for update in updates))
    taken = chosen.filter(status__in=ModelUpdate.READY).update(
        status=UpdateStatus.RUNNING, round=opened
    )
    if taken != len(updates):
        raise Conflict(f"{len(updates) - taken} of {len(updates)} updates are not ready any more")
    reject_superseded(opened)
    return opened


def record_external_round(
    snapshot: ModelSnapshot, aggregate: ModelAggregate, **changes: Any
) -> AggregationRound:
    """Record the round of an aggregate that was made without registered updates."""
    config: ConfigSnapshot = take_config_snapshot(
        snapshot.model, snapshot.members, snapshot.parent_key, None, aggregate.number
    )
    return AggregationRound.objects.create(
        federated_model=snapshot.model,
        number=aggregate.number,
        parent=snapshot.parent,
        aggregate=aggregate,
        state=State.PUBLISHED,
        config_snapshot={**config, **changes},
        external=True,
        lease_expires_at=snapshot.now,
        started_on=snapshot.now,
        finished_on=snapshot.now,
    )


def close_round(held: AggregationRound, state: int, **outcome: Any) -> None:
    """End a round."""
    AggregationRound.objects.filter(pk=held.pk).update(
        state=state, finished_on=Now(), checkpoint=None, **outcome
    )


def fail_round(held: AggregationRound, reason: str) -> None:
    """Close a round as failed and make its updates ready again; too many in a row pause the model."""
    registered_updates(held).order_by().update(status=UpdateStatus.FAILED)
    close_round(held, State.FAILED, error=reason, **charge_after(held))
    model = FederatedModel.objects.filter(pk=held.federated_model_id)
    model.update(failed_rounds=F("failed_rounds") + 1)
    limit = settings.MAX_FAILED_ROUNDS
    model.filter(failed_rounds__gte=limit, allow_aggregation=True).update(
        **pause_changes(f"{limit} rounds failed in a row; the last: {reason}", timezone.now())
    )


def publish_round(held: AggregationRound, aggregate: ModelAggregate, **outcome: Any) -> None:
    """Close a round whose updates are settled, and settle what its aggregate changes for others."""
    close_round(held, State.PUBLISHED, aggregate=aggregate, **outcome)
    model = held.federated_model
    if model.failed_rounds:
        FederatedModel.objects.filter(pk=model.pk).update(failed_rounds=0)
    reject_stale(model, aggregate.number)


def recover_external_round(held: AggregationRound) -> None:
    """Close an external round whose workflow did not finish it before its lease expired.

    If it posted its aggregate, its updates are in it; otherwise the round has failed.
    """
    if held.aggregate is None:
        fail_round(held, "its workflow did not finish it before its lease expired")
        return
    used = (
        registered_updates(held)
        .order_by()
        .update(status=UpdateStatus.COMPLETE, applied_aggregate=held.aggregate)
    )
    publish_round(held, held.aggregate, updates_used=used)


def append_aggregate(
    snapshot: ModelSnapshot, parent: ModelAggregate | None, key: str, **state: str
) -> ModelAggregate:
    """Create the aggregate after the latest one; ``state`` are the fields of its optimizer.

    Raises
    ------
    Conflict
        If ``parent`` is not the latest aggregate.
    """
    check_parent(snapshot, parent)
    return ModelAggregate.objects.create(
        federated_model=snapshot.model, parent=parent, number=snapshot.number, result=key, **state
    )


def check_parent(snapshot: ModelSnapshot, parent: ModelAggregate | None) -> None:
    """Refuse to append an aggregate after any but the latest.

    Raises
    ------
    Conflict
    """
    latest = snapshot.parent.pk if snapshot.parent else None
    given = parent.pk if parent else None
    if latest != given:
        raise Conflict(
            f"aggregate {given} is not the latest of model {snapshot.model.pk}, {latest} is: an "
            "aggregate can only succeed the latest one"
        )


# Updates


def reject_superseded(opened: AggregationRound) -> None:
    """Mark ready updates INVALID if the round has a newer update of the same client."""
    newer = ModelUpdate.objects.filter(round=opened, client=OuterRef("client"))
    newest = Cast(Subquery(newer.values("pk")[:1]), output_field=CharField())
    ModelUpdate.objects.filter(
        federated_model_id=opened.federated_model_id,
        status__in=ModelUpdate.READY,
        client__in=ModelUpdate.objects.filter(round=opened, status=UpdateStatus.RUNNING).values(
            "client"
        ),
    ).update(
        status=UpdateStatus.INVALID,
        rejection_reason=Concat(Value("superseded by update "), newest, output_field=TextField()),
    )


def reject_stale(model: FederatedModel, latest: int) -> None:
    """Mark pending updates INVALID whose base the model does not allow any more."""
    if model.furthest_base_agg is None:
        return
    reason = (
        f"based on an older aggregate than the model allows: the latest is {latest}, "
        f"furthest_base_agg is {model.furthest_base_agg}"
    )
    ready = ModelUpdate.objects.filter(federated_model=model, status__in=ModelUpdate.READY)
    ready.filter(is_stale(model, latest)).update(
        status=UpdateStatus.INVALID, rejection_reason=reason
    )


def reject_updates(updates: QuerySet[ModelUpdate], reasons: Mapping[int, str]) -> None:
    """Mark some of the updates INVALID, each with its reason."""
    if reasons:
        updates.filter(pk__in=ids_in(reasons)).update(
            status=UpdateStatus.INVALID, rejection_reason=ValueById(reasons)
        )
