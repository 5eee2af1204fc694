"""Publishing an aggregate under a version."""

from __future__ import annotations

from django.db import IntegrityError, transaction

from aggregation.errors import AggregationError
from connectors.errors import translate_database_errors
from models_app.models import FederatedModel, ModelAggregate, ModelArtifact

#: Length of the database's column.
MAX_VERSION = 255


class NotPublished(AggregationError):
    """An aggregate was not published; the message says why."""


def publish(aggregate: ModelAggregate, version: str) -> ModelArtifact:
    """Publish an aggregate under a version, and make that the model's current artifact.

    The artifact names the aggregate's own object: nothing is copied
    (docs/decisions/2026-11-24-publish-and-roll-back.md).

    Raises
    ------
    NotPublished
        If the version exists or is not a name, or the model's `max_score_drop` forbids it.
    """
    _check_version(version)
    reason = score_refusal(aggregate)
    if reason:
        raise NotPublished(f"{reason}; to publish it anyway, change max_score_drop in the admin")
    model_id = aggregate.federated_model_id
    try:
        with translate_database_errors(), transaction.atomic():
            artifact = ModelArtifact.objects.create(
                federated_model_id=model_id, values=str(aggregate.result.name), version=version
            )
            FederatedModel.objects.filter(pk=model_id).update(current_artifact=artifact)
    except IntegrityError as error:
        raise NotPublished(
            f"model {model_id} has a version {version!r} already: versions never change, choose another"
        ) from error
    return artifact


def score_refusal(aggregate: ModelAggregate) -> str:
    """Return why the model's `max_score_drop` forbids a version of an aggregate, or an empty string.

    The aggregate must have a score. It is not compared with a parent that has none.
    """
    if aggregate.federated_model.max_score_drop is None:
        return ""
    if aggregate.validation_score is None:
        return f"{aggregate} has no validation score yet, and max_score_drop requires one"
    return aggregate.dropped()


def _check_version(version: str) -> None:
    if not version.strip() or not version.isprintable() or len(version) > MAX_VERSION:
        raise NotPublished(
            f"a version needs a name of at most {MAX_VERSION} printable characters, such as 1.2.0"
        )
