"""Publishing an aggregate under a version."""

from __future__ import annotations

import re

from django.db import IntegrityError, transaction

from aggregation.errors import AggregationError, quoted
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
        If the version exists or is not one, or the model's `max_score_drop` forbids it.
    """
    _check_version(version)
    reason = score_refusal(aggregate)
    if reason:
        raise NotPublished(
            f"{reason}; to publish it anyway, raise the limit: manage.py set_model "
            f"{aggregate.federated_model_id} --max-score-drop X"
        )
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


#: A release such as 1.2.0 or 2026.11, then a suffix as in PEP 440 (rc1, .post2) or in semantic versioning
#: (-rc.1, +build.5).
_VERSION = re.compile(
    r"v?[0-9]+(\.[0-9]+)*"
    r"([-_.]?(a|b|c|rc|alpha|beta|pre|preview|post|rev|r|dev)[-_.]?[0-9]*)*"
    r"(-[0-9a-z-]+(\.[0-9a-z-]+)*)?(\+[0-9a-z-]+([-_.][0-9a-z]+)*)?",
    re.ASCII | re.IGNORECASE,
)


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version) or len(version) > MAX_VERSION:
        raise NotPublished(
            f"{quoted(version)} is not a version: expected numbers with dots, such as 1.2.0, with a "
            f"suffix such as rc1, -rc.1 or +build.5 if needed, at most {MAX_VERSION} characters"
        )
