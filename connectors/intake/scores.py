"""Scores: what clients measured of an aggregate on examples of their own.

A score is an object beside the updates, `scores/<federated_model_id>/<client_uuid>/<aggregate_id>.json`:

    {"num_examples": 120, "accuracy": 0.93, "loss": 0.21}

The first score of a client for an aggregate stands: the same event may come again, and what is uploaded
under the same key later changes nothing.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from aggregation.errors import ObjectMissing, TemporarilyUnavailable, UpdateRejected, quoted
from aggregation.scores import MAX_VALUE, is_score, weighted_mean_score
from connectors.errors import translate_database_errors
from connectors.intake.updates import IntakeResult, UnknownUpload
from connectors.runtime.events import Upload
from connectors.storage.port import Objects, read_small
from models_app.models import (
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    publishes_events,
)
from models_app.schemas import SchemaError, compiled

PREFIX = "scores/"
KEY_FORM = "scores/<federated_model_id>/<client_uuid>/<aggregate_id>.json"

_KEY = re.compile(
    r"scores/(?P<model>[1-9][0-9]{0,17})/"
    r"(?P<client>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/"
    r"(?P<aggregate>[1-9][0-9]{0,17})\.json",
    re.ASCII,
)

#: A score is a handful of numbers.
MAX_SCORE_BYTES = 64 << 10


class ScoreIntake:
    """Registers scores.

    Parameters
    ----------
    objects : Objects
        Where they are stored.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def register(self, upload: Upload) -> IntakeResult:
        """Register a score, and with it the aggregate's validation score.

        Raises
        ------
        UnknownUpload
            If it is none of ours; the same upload will never be one.
        TemporarilyUnavailable
            If storage or the database did not answer, or the object cannot be seen yet.
        """
        model_id, client_id, aggregate_id = _parsed(upload)
        with translate_database_errors():
            model = _looked_up(model_id, client_id, aggregate_id)
            if model is None:
                raise UnknownUpload(f"no federated model {model_id}, or no client {client_id}")
            reason, seen_before = "", model.seen_before
            if not seen_before:
                try:
                    results = self._examined(model, aggregate_id, upload)
                    seen_before = not _stored(model, client_id, aggregate_id, results)
                except ObjectMissing as error:
                    raise TemporarilyUnavailable(f"{quoted(upload.key)}: {error}") from error
                except UpdateRejected as error:
                    reason = str(error)
        return IntakeResult(
            model_id=model_id, client=str(client_id), reason=reason, seen_before=seen_before
        )

    def _examined(self, model: Any, aggregate_id: int, upload: Upload) -> dict[str, Any]:
        """What the object tells; it is refused for the first thing that is wrong."""
        if not model.is_member:
            raise UpdateRejected("the client is paused, or not a member of the model")
        if not model.has_aggregate:
            raise UpdateRejected(f"{aggregate_id} is no aggregate of this model")
        body, _ = read_small(self._objects, upload.key, etag=upload.etag, max_bytes=MAX_SCORE_BYTES)
        results = parse_results(body)
        check_results(results, model)
        return results


def best_aggregate(model: FederatedModel) -> ModelAggregate | None:
    """The aggregate with the best validation score; of equals the earliest."""
    scored = model.aggregates.exclude(validation_score=None)
    order = "validation_score" if model.lower_is_better else "-validation_score"
    return scored.order_by(order, "number").first()


def refusal(aggregate: ModelAggregate) -> str:
    """Why no version may be made of an aggregate, by its model's `max_score_drop`; empty if one may.

    The aggregate that is asked about must have a score; a parent without one is not compared with.
    """
    if aggregate.federated_model.max_score_drop is None:
        return ""
    if aggregate.validation_score is None:
        return f"{aggregate} has no validation score yet, and max_score_drop asks for one"
    return aggregate.dropped()


def parse_results(body: bytes) -> dict[str, Any]:
    """What a client's bytes tell; no number beyond `MAX_VALUE`, and no name twice.

    Raises
    ------
    UpdateRejected
    """
    try:
        results = json.loads(
            body.decode("utf-8"),
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_finite,
            object_pairs_hook=_named_once,
        )
        _check_storable(results)
    except (ValueError, RecursionError) as error:
        raise UpdateRejected(f"not the JSON of a score: {quoted(error)}") from error
    if not isinstance(results, dict):
        raise UpdateRejected(f"expected a JSON object, got {quoted(results)}")
    return results


def check_results(results: Mapping[str, Any], model: FederatedModel) -> None:
    """Hold a score to what its model asks.

    Raises
    ------
    UpdateRejected
    """
    count = results.get("num_examples", 1)
    if type(count) is not int or not 1 <= count <= settings.MAX_NUM_EXAMPLES:
        raise UpdateRejected(
            f"num_examples is {quoted(count)}, expected a whole number from 1 to "
            f"{settings.MAX_NUM_EXAMPLES}"
        )
    check = compiled(model.client_agg_results_schema)
    if check:
        try:
            check(results)
        except SchemaError as error:
            raise UpdateRejected(f"against the model's schema: {quoted(error)}") from error
    if not model.score_metric:
        return
    value: Any = results.get(model.score_metric)
    if not is_score(value):
        raise UpdateRejected(f"{quoted(model.score_metric)} is {quoted(value)}, expected a number")


def _parsed(upload: Upload) -> tuple[int, uuid.UUID, int]:
    if upload.bucket != settings.BUCKET:
        raise UnknownUpload(f"bucket {quoted(upload.bucket)} is not the one this function serves")
    match = _KEY.fullmatch(upload.key) if upload.key.isprintable() else None
    if not match:
        raise UnknownUpload("the key is not of the form " + KEY_FORM)
    return int(match["model"]), uuid.UUID(match["client"]), int(match["aggregate"])


def _looked_up(model_id: int, client_id: uuid.UUID, aggregate_id: int) -> Any | None:
    """The model with what is asked of it, in one statement; None without model or client."""
    member = Client.objects.filter(pk=client_id, paused=False, federated_models=OuterRef("pk"))
    aggregate = ModelAggregate.objects.filter(pk=aggregate_id, federated_model=OuterRef("pk"))
    seen = ClientAggregateScore.objects.filter(aggregate_id=aggregate_id, client_id=client_id)
    return (
        FederatedModel.objects.filter(pk=model_id)
        .filter(Exists(Client.objects.filter(pk=client_id)))
        .annotate(
            is_member=Exists(member), has_aggregate=Exists(aggregate), seen_before=Exists(seen)
        )
        .first()
    )


def _stored(
    model: FederatedModel, client_id: uuid.UUID, aggregate_id: int, results: dict[str, Any]
) -> bool:
    """Store a score and average anew, one score of an aggregate at a time; whether it is the first
    of its client."""
    with transaction.atomic():
        aggregate = ModelAggregate.objects.select_for_update().get(pk=aggregate_id)
        _, created = ClientAggregateScore.objects.get_or_create(
            aggregate=aggregate, client_id=client_id, defaults={"validation_results": results}
        )
        if created and model.score_metric:
            _score(aggregate, model)
    return created


def _score(aggregate: ModelAggregate, model: FederatedModel) -> None:
    """Average an aggregate's scores anew; a drop that was none before is to be announced."""
    aggregate.federated_model = model
    had_dropped = aggregate.dropped()
    scores = aggregate.client_scores.order_by("client_id")
    aggregate.validation_score = weighted_mean_score(
        scores.values_list("validation_results", flat=True).iterator(),
        model.score_metric,
        model.max_num_examples,
    )
    if not aggregate.dropped():
        aggregate.event_pending = None
    elif not had_dropped and publishes_events():
        aggregate.event_pending = timezone.now()
    aggregate.save(update_fields=["validation_score", "event_pending"])


def _finite(text: str) -> float:
    """The number, which may become the metric later: it is bounded even where it is none now."""
    value = int(text) if text.removeprefix("-").isdecimal() else float(text)
    if not is_score(value):
        raise ValueError(f"{text} is no finite number up to {MAX_VALUE:g}")
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name is given twice")
    return named


def _check_storable(value: Any, depth: int = 0) -> None:
    """Refuse what JSON may hold and a database's JSON may not."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        value.encode("utf-8")  # PostgreSQL takes no half of a surrogate pair,
        if "\0" in value:  # and no zero.
            raise ValueError("a text with a zero in it")
    elif isinstance(value, dict):
        for item in (*value.keys(), *value.values()):
            _check_storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)


#: How deep a score may be nested. SQLite's JSON ends at 1000.
MAX_DEPTH = 20
