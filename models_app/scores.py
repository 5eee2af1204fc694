"""The validation scores of aggregates, from the scores that clients reported."""

from __future__ import annotations

from aggregation.scores import weighted_mean_score
from models_app.models import ClientAggregateScore, FederatedModel, ModelAggregate

#: Fields of a model on which the scores of its aggregates depend.
DECIDES_SCORES = frozenset({"score_metric", "max_num_examples"})

#: After a change of such a field, this many scores of clients are read again, the latest aggregates' first.
MAX_RESCORED = 20_000
MAX_RESCORED_AGGREGATES = 25


def validation_score(aggregate: ModelAggregate, model: FederatedModel) -> float | None:
    """Return the mean of the model's score metric over the clients that scored an aggregate."""
    if not model.score_metric:
        return None
    scores = ClientAggregateScore.objects.filter(aggregate=aggregate).order_by("client_id")
    return weighted_mean_score(
        scores.values_list("validation_results", flat=True).iterator(),
        model.score_metric,
        model.max_num_examples,
    )


def rescore(model: FederatedModel) -> None:
    """Compute the validation scores of a model's latest aggregates again, and remove those of others.

    Called when the model's metric changes: scores of different metrics cannot be compared.
    """
    model.aggregates.exclude(validation_score=None).update(validation_score=None)
    read = 0
    latest = model.aggregates.order_by("-number")[:MAX_RESCORED_AGGREGATES]
    for position, aggregate in enumerate(latest):
        read += aggregate.client_scores.count()
        if read > MAX_RESCORED and position >= 2:  # The latest and its parent decide on a drop.
            return
        ModelAggregate.objects.filter(pk=aggregate.pk).update(
            validation_score=validation_score(aggregate, model)
        )
