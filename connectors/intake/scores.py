"""Registration of scores: what clients measured of an aggregate on their own examples.

A score is an object at ``scores/<federated_model_id>/<client_uuid>/<aggregate_id>.json``:

    {"num_examples": 120, "accuracy": 0.93, "loss": 0.21}

The first score of a client for an aggregate counts. The same event may be delivered again, and an object
that is uploaded later under the same key changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from aggregation.errors import UpdateRejected
from connectors.intake.registration import Intake, UnknownUpload, find_model
from connectors.intake.results import check_results, parse_results
from connectors.intake.upload import Upload
from connectors.storage.keys import SCORE_KEY_FORM, ScoreKey, parse_score_key
from connectors.storage.port import known_version, read_small
from models_app.models import (
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    publishes_events,
)
from models_app.scores import add_score

#: A score has a few numbers.
MAX_SCORE_BYTES = 64 << 10


class ScoreIntake(Intake[ScoreKey, ClientAggregateScore]):
    """Registers scores, and updates the validation scores of their aggregates."""

    def _parse_key(self, upload: Upload) -> ScoreKey:
        key = parse_score_key(upload.key)
        if key is None:
            raise UnknownUpload("the key is not of the form " + SCORE_KEY_FORM)
        return key

    def _new_row(self, key: ScoreKey, upload: Upload) -> ClientAggregateScore:
        return ClientAggregateScore(aggregate_id=key.aggregate_id, client_id=key.client_id)

    def _find_model(self, key: ScoreKey, row: ClientAggregateScore) -> Any | None:
        aggregate = ModelAggregate.objects.filter(
            pk=key.aggregate_id, federated_model=OuterRef("pk")
        )
        seen = ClientAggregateScore.objects.filter(
            aggregate_id=key.aggregate_id, client_id=key.client_id
        )
        return find_model(
            key,
            Exists(seen),
            has_aggregate=Exists(aggregate),
            scores_pruned=Exists(aggregate.filter(scores_pruned=True)),
        )

    def _examine(self, row: ClientAggregateScore, model: Any, upload: Upload) -> None:
        if not model.has_aggregate:
            raise UpdateRejected(f"{row.aggregate_id} is no aggregate of this model")
        if model.scores_pruned:
            raise UpdateRejected(f"the scores of aggregate {row.aggregate_id} were deleted")
        body, _ = read_small(
            self._objects,
            upload.key,
            etag=upload.etag,
            version=known_version(upload.version),
            max_bytes=MAX_SCORE_BYTES,
        )
        row.validation_results = parse_results(body)
        check_results(row.validation_results, model)

    def _save(self, row: ClientAggregateScore, model: Any, reason: str) -> bool:
        if reason:
            return True
        with transaction.atomic():
            aggregate = ModelAggregate.objects.select_for_update().get(pk=row.aggregate_id)
            _, is_new = ClientAggregateScore.objects.get_or_create(
                aggregate=aggregate,
                client_id=row.client_id,
                defaults={"validation_results": row.validation_results},
            )
            if is_new and model.score_metric:
                _update_validation_score(aggregate, model, row.validation_results)
        return is_new


def _update_validation_score(
    aggregate: ModelAggregate, model: FederatedModel, result: Mapping[str, Any]
) -> None:
    """Add a score to an aggregate's mean; mark a drop that was not there before for publication."""
    aggregate.federated_model = model
    had_dropped = aggregate.dropped()
    for column, value in add_score(aggregate, model, result).items():
        setattr(aggregate, column, value)
    if not aggregate.dropped():
        aggregate.event_pending = None
    elif not had_dropped and publishes_events():
        aggregate.event_pending = timezone.now()
    aggregate.save(update_fields=["validation_score", "score_state", "event_pending"])
