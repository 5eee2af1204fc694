"""`aggregates/<model>/progress.json`: how many updates are ready for a model's next round, for the API.

It is replaced as `latest.json` is: see `connectors.publication.replacement`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, OuterRef, Subquery
from django.db.models.functions import Now

from aggregation.errors import AggregationError, ObjectMissing
from aggregation.requirements import Readiness, Requirement
from connectors.errors import UnknownModel, translate_database_errors
from connectors.publication.replacement import replace_document
from connectors.rounds.selectors import members_of, ready_updates
from connectors.storage.keys import progress_key
from connectors.storage.port import Objects
from models_app.models import FederatedModel, ModelAggregate
from models_app.requirements import needed_updates, requirement_in_words

#: While no more updates than these are ready, all their clients' documents say how many are. Beyond, only
#: the documents of clients whose own updates have changed are written. The cost estimate knows it, too.
MAX_REFRESHED = 16


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a model is from its next round.

    Parameters
    ----------
    ready : int
        Updates that a round could use.
    requirement : str
        The condition under which a round starts, in words.
    needed : int
        How many updates it needs now.
    deadline : str or None
        When fewer updates will be enough, in ISO 8601; None if the requirement has no such time, or
        nothing is ready.
    """

    ready: int
    requirement: str
    needed: int
    deadline: str | None


def read_progress(model_id: int) -> tuple[Progress, list[int]]:
    """Return the progress of a model, and the ids of the ready updates while there are few of them.

    Raises
    ------
    UnknownModel
    """
    latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
    model: Any = (
        FederatedModel.objects.filter(pk=model_id)
        .annotate(
            members=members_of(OuterRef("pk")),
            latest_number=Subquery(latest.values("number")[:1]),
            database_now=Now(),
        )
        .first()
    )
    if model is None:
        raise UnknownModel(f"there is no federated model with id {model_id}")
    ready = ready_updates(model, model.latest_number or 0)
    found = ready.order_by().aggregate(count=Count("pk"), oldest=Min("created_on"))
    waited = model.database_now - (found["oldest"] or model.database_now)
    readiness = Readiness(members=model.members, ready=found["count"], waited=waited)
    few = list(ready.values_list("pk", flat=True)) if found["count"] <= MAX_REFRESHED else []
    progress = Progress(
        ready=found["count"],
        requirement=requirement_in_words(model, model.members),
        needed=needed_updates(model, readiness),
        deadline=_deadline(model.requirement_object(), found["oldest"]),
    )
    return progress, few


def write_progress(objects: Objects, model_id: int) -> tuple[Progress, list[int]]:
    """Write the progress of a model, and return it as `read_progress` does.

    Raises
    ------
    UnknownModel
    TemporarilyUnavailable
    """
    key = progress_key(model_id)

    def attempt() -> tuple[Progress, list[int]]:
        etag = _etag(objects, key)
        with translate_database_errors():
            progress, few = read_progress(model_id)
        objects.replace(key, json.dumps(asdict(progress)).encode(), etag=etag)
        return progress, few

    return replace_document(key, attempt)


def try_write_progress(objects: Objects, model_id: int) -> str:
    """Write the progress after a change of the model, if there is an API.

    Returns
    -------
    str
        Why it was not written, and will be with the next update; empty if it was.
    """
    if not (settings.CLIENT_API and settings.CLIENT_STATUS):
        return ""
    try:
        write_progress(objects, model_id)
    except AggregationError as error:
        return (
            f"progress.json of model {model_id} was not written; the next update writes it: {error}"
        )
    return ""


def _etag(objects: Objects, key: str) -> str:
    try:
        return objects.stat(key).etag
    except ObjectMissing:
        return ""


def _deadline(requirement: Requirement, oldest: datetime | None) -> str | None:
    patience = requirement.patience
    return (oldest + patience).isoformat() if oldest and patience is not None else None
