"""How many updates of each model are ready, and which clients are silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import (
    Case,
    Count,
    DateTimeField,
    Exists,
    F,
    IntegerField,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from aggregation.requirements import Readiness
from models_app.models import FederatedModel, ModelUpdate

Membership = FederatedModel.clients.through


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The clients of a model whose update a round could use, and when the oldest was registered."""

    clients: int = 0
    oldest: datetime | None = None


def count_members(models: Sequence[FederatedModel]) -> dict[int, int]:
    """Return, by model, how many clients it has that are not paused."""
    rows = Membership.objects.filter(federatedmodel__in=_ids(models), client__paused=False)
    return _count_by_model(rows)


def count_ready(models: Sequence[FederatedModel], latest: Mapping[int, int]) -> dict[int, Ready]:
    """Return, by model, what is ready, as a claim would see it.

    Parameters
    ----------
    models : sequence of FederatedModel
    latest : mapping
        The number of the latest aggregate, by the id of the model.
    """
    oldest_base = {
        model.pk: latest.get(model.pk, 0) - model.furthest_base_agg + 1
        for model in models
        if model.furthest_base_agg is not None
    }
    members = Membership.objects.filter(
        client=OuterRef("client"), federatedmodel=OuterRef("federated_model")
    )
    pending = ModelUpdate.objects.filter(
        Exists(members),
        federated_model__in=_ids(models),
        status__in=ModelUpdate.READY,
        client__paused=False,
    )
    if oldest_base:
        pending = pending.annotate(
            base=Coalesce("base_aggregate__number", 0),
            oldest_base=_by_model("federated_model", oldest_base, IntegerField(), default=0),
        ).exclude(base__lt=F("oldest_base"))
    counted = pending.order_by().values("federated_model_id")
    rows = counted.annotate(n=Count("client", distinct=True), oldest=Min("created_on"))
    return {
        pk: Ready(clients=n, oldest=oldest)
        for pk, n, oldest in rows.values_list("federated_model_id", "n", "oldest")
    }


def silent_members(since: Mapping[int, datetime]) -> QuerySet[Any]:
    """Return the memberships whose client, not paused, has sent its model nothing since a time.

    Parameters
    ----------
    since : mapping
        The time by the id of the model.
    """
    cut_off = _by_model("federatedmodel", since, DateTimeField())
    heard = ModelUpdate.objects.filter(
        client=OuterRef("client"),
        federated_model=OuterRef("federatedmodel"),
        uploaded_on__gte=OuterRef("cut_off"),
    )
    members = Membership.objects.filter(federatedmodel__in=list(since), client__paused=False)
    members = members.annotate(cut_off=cut_off).filter(client__created_on__lt=cut_off)
    return members.exclude(Exists(heard))


def count_silent(since: Mapping[int, datetime]) -> dict[int, int]:
    """Return how many members of each model are silent."""
    return _count_by_model(silent_members(since))


def _count_by_model(memberships: QuerySet[Any]) -> dict[int, int]:
    counted = memberships.order_by().values("federatedmodel_id").annotate(n=Count("pk"))
    return {each["federatedmodel_id"]: each["n"] for each in counted}


def readiness_of(members: int, ready: Ready, now: datetime) -> Readiness:
    """Return what a requirement is checked against."""
    waited = max(timedelta(0), now - (ready.oldest or now))
    return Readiness(members=members, ready=ready.clients, waited=waited)


def _ids(models: Sequence[FederatedModel]) -> list[int]:
    return [model.pk for model in models]


def _by_model(field: str, values: Mapping[int, Any], kind: Any, default: Any = None) -> Case:
    """Return an expression with the value of a row's model."""
    cases = [When(Q(**{field: pk}), then=Value(v, kind)) for pk, v in values.items()]
    return Case(*cases, default=Value(default, kind), output_field=kind)
