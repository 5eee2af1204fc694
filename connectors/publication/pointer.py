"""`latest.json`: how a client that sees only the bucket knows which aggregate to train from.

The object follows the database. It is written after the round is published, on the condition that it is
still what was read, and only ever to tell a higher number: whoever comes late writes nothing. A number is
believed only of an aggregate that the database knows, since the bucket may be older than the database, or
the database restored. An attempt that dies before it has written leaves `pointer_number` behind the latest
aggregate, by which the next sweep finds the model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.db.models import F, IntegerField, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from aggregation.errors import (
    AggregationError,
    ObjectMissing,
    TemporarilyUnavailable,
    UpdateRejected,
)
from connectors.errors import UnknownModel, translate_database_errors
from connectors.storage.keys import pointer_key
from connectors.storage.port import Objects, PreconditionFailed, read_small
from models_app.models import FederatedModel, ModelAggregate

#: Times a pointer is read and written again because somebody else wrote it meanwhile.
TRIES = 5

#: A pointer is some 300 bytes; an object that is larger is none, and is replaced.
MAX_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Latest:
    """What `latest.json` tells, field by field.

    Parameters
    ----------
    model_id : int
    aggregate_id : int or None
        What an update that is trained from it gives as its `base-aggregate`; None for the initial model.
    number : int
        Of the aggregate; 0 for the initial model.
    key, etag : str
        Of the weights, in the same bucket.
    published_on : str
        ISO 8601, with its zone.
    update_kind : str
        What an update contains: ``weights``, or ``differences`` from what it is based on.
    rule, rule_args : str, and dict or list or None
        The aggregation rule.
    requirement, requirement_args : str, and dict or list or None
        The condition under which a round starts.
    max_num_examples, furthest_base_agg : int or None
        As of the federated model.
    max_update_bytes : int
        Larger updates are rejected.
    schema : int
        The version of this format.
    """

    model_id: int
    aggregate_id: int | None
    number: int
    key: str
    etag: str
    published_on: str
    update_kind: str
    rule: str
    rule_args: Any
    requirement: str
    requirement_args: Any
    max_num_examples: int | None
    furthest_base_agg: int | None
    max_update_bytes: int
    schema: int = 1


def write_pointer(objects: Objects, model_id: int) -> Latest | None:
    """Make a model's `latest.json` tell its latest aggregate, or one that is later still.

    Returns
    -------
    Latest or None
        What was, or had been, written; None where the model has neither aggregate nor initial model.

    Raises
    ------
    UnknownModel
    TemporarilyUnavailable
        If the database or storage did not answer; the sweep tries again.
    """
    latest = _read(objects, model_id)
    if latest is None:
        return None
    for _ in range(TRIES):
        told, etag = _told(objects, pointer_key(model_id))
        if told is not None and is_current(told, latest):
            break
        try:
            text = json.dumps(asdict(latest), indent=1)
            objects.replace(pointer_key(model_id), text.encode(), etag=etag)
            break
        except PreconditionFailed:
            continue
    else:
        raise TemporarilyUnavailable(f"{pointer_key(model_id)} is being written by many at once")
    record_pointer(model_id, latest.number)
    return latest


def try_write_pointer(objects: Objects, model_id: int) -> str:
    """`write_pointer` for who has done the work already and must not fail any more: why it could not be
    told, in words; empty if it was. The next sweep tells what is not told."""
    try:
        write_pointer(objects, model_id)
    except (AggregationError, DatabaseError, OSError) as error:
        return f"latest.json of model {model_id} is written by the next sweep, for now: {error}"
    return ""


def invalidate_pointer(model_id: int) -> None:
    """Have the next sweep look whether a model's `latest.json` is right: somebody trained from what the
    database does not know, as a pointer tells that is from before the database was restored."""
    with translate_database_errors():
        FederatedModel.objects.filter(pk=model_id).update(pointer_number=None)


def stale_pointers() -> list[int]:
    """Ids of the models whose `latest.json` is not known to tell their latest weights."""
    latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
    numbered = FederatedModel.objects.annotate(
        latest=Coalesce(Subquery(latest.values("number")[:1]), 0, output_field=IntegerField())
    )
    has_weights = Q(latest__gt=0) | Q(current_artifact__isnull=False)
    untold = numbered.filter(has_weights).filter(
        Q(pointer_number=None) | Q(pointer_number__lt=F("latest"))
    )
    with translate_database_errors():
        return list(untold.order_by("pk").values_list("pk", flat=True))


def _read(objects: Objects, model_id: int) -> Latest | None:
    """The latest weights, as the database has them."""
    with translate_database_errors():
        model = (
            FederatedModel.objects.select_related("current_artifact").filter(pk=model_id).first()
        )
        if model is None:
            raise UnknownModel(f"there is no federated model with id {model_id}")
        aggregate = model.aggregates.order_by("-number").first()
    if aggregate:
        key, since = str(aggregate.result.name), aggregate.created_on
    elif model.current_artifact:
        key, since = str(model.current_artifact.values.name), model.current_artifact.created_on
    else:
        return None
    return Latest(
        model_id=model_id,
        aggregate_id=aggregate.pk if aggregate else None,
        number=aggregate.number if aggregate else 0,
        key=key,
        etag=objects.stat(key).etag,
        published_on=since.isoformat(),
        update_kind=model.update_kind,
        rule=model.aggregator,
        rule_args=model.aggregator_args,
        requirement=model.requirement,
        requirement_args=model.requirement_args,
        max_num_examples=model.max_num_examples,
        furthest_base_agg=model.furthest_base_agg,
        max_update_bytes=settings.MAX_UPDATE_BYTES,
    )


@dataclass(frozen=True, kw_only=True)
class PointerRecord:
    """What a pointer that was found says: whose number it gives, and which weights."""

    number: int
    aggregate_id: int
    key: str


def _told(objects: Objects, key: str) -> tuple[PointerRecord | None, str]:
    """What the pointer tells of an aggregate, and its ETag; nothing where it is missing or no pointer."""
    try:
        etag = objects.stat(key).etag
    except ObjectMissing:
        return None, ""
    try:
        body, _ = read_small(objects, key, etag=etag, max_bytes=MAX_BYTES)
        found = json.loads(body)
        told = PointerRecord(**{each: found[each] for each in ("number", "aggregate_id", "key")})
    except UpdateRejected:  # Replaced since, which the write will find out; or much too large.
        return None, etag
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, etag
    return (told if type(told.number) is int else None), etag


def is_current(told: PointerRecord, latest: Latest) -> bool:
    """Whether what is told is the model's latest aggregate, or one that came after it was looked up."""
    if told.number < latest.number or told.number < 1:
        return False
    with translate_database_errors():
        aggregates = ModelAggregate.objects.filter(federated_model=latest.model_id)
        known = aggregates.filter(number=told.number).values_list("pk", "result").first()
    return known == (told.aggregate_id, told.key)


def record_pointer(model_id: int, number: int) -> None:
    """Record the number that a model's pointer has at least; it never goes down here."""
    behind = Q(pointer_number=None) | Q(pointer_number__lt=number)
    with translate_database_errors():
        FederatedModel.objects.filter(behind, pk=model_id).update(pointer_number=number)
