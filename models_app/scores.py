"""The validation scores of aggregates, from the scores that clients reported."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

from aggregation.counts import default_cap
from aggregation.scores import MeanScore, examples_of, is_score, weighted_mean_score
from models_app.models import ClientAggregateScore, FederatedModel, ModelAggregate

#: Fields of a model on which the scores of its aggregates depend.
DECIDES_SCORES = frozenset({"score_metric", "max_num_examples"})

#: The first scores of an aggregate, from whose numbers of examples the default cap follows.
SAMPLE = 101

#: After a change of such a field, this many scores of clients are read again, the latest aggregates' first.
MAX_RESCORED = 20_000
MAX_RESCORED_AGGREGATES = 25


def add_score(
    aggregate: ModelAggregate, model: FederatedModel, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of an aggregate's score columns with the result of one more client.

    Other scores are read only while there are fewer than `SAMPLE`, or if the model's metric or cap has
    changed since the last one. The result must be stored already.
    """
    state = aggregate.score_state
    settings = {"metric": model.score_metric, "max_num_examples": model.max_num_examples}
    if not state or state["settings"] != settings or not state["cap_is_final"]:
        return average_scores(aggregate, model)
    mean = MeanScore(aggregate.validation_score, state["weight"])
    mean = mean.add(result, model.score_metric, state["cap"])
    return {"validation_score": mean.value, "score_state": {**state, "weight": mean.weight}}


def average_scores(aggregate: ModelAggregate, model: FederatedModel) -> dict[str, Any]:
    """Return the values of an aggregate's score columns, from all scores that clients reported.

    If the model sets no `max_num_examples`, a score counts at most the median of the first `SAMPLE`
    (docs/decisions/2026-11-28-default-caps.md).
    """
    metric = model.score_metric
    if not metric:
        return {"validation_score": None, "score_state": None}
    scores = ClientAggregateScore.objects.filter(aggregate=aggregate).order_by("pk")
    results = scores.values_list("validation_results", flat=True).iterator()
    first = list(islice(results, SAMPLE))
    counts = (examples_of(result) for result in first if is_score(result.get(metric)))
    cap = model.max_num_examples or default_cap(counts, robust=True)
    mean = weighted_mean_score(chain(first, results), metric, cap)
    state = {
        "settings": {"metric": metric, "max_num_examples": model.max_num_examples},
        "cap": cap,
        "cap_is_final": bool(model.max_num_examples) or len(first) == SAMPLE,
        "weight": mean.weight,
    }
    return {"validation_score": mean.value, "score_state": state}


def rescore(model: FederatedModel) -> None:
    """Compute the validation scores of a model's latest aggregates again, and remove those of others.

    Called when the model's metric changes: scores of different metrics cannot be compared.
    """
    scored = model.aggregates.exclude(validation_score=None)
    scored.update(validation_score=None, score_state=None)
    read = 0
    latest = model.aggregates.order_by("-number")[:MAX_RESCORED_AGGREGATES]
    for position, aggregate in enumerate(latest):
        read += aggregate.client_scores.count()
        if read > MAX_RESCORED and position >= 2:  # The latest and its parent decide on a drop.
            return
        ModelAggregate.objects.filter(pk=aggregate.pk).update(**average_scores(aggregate, model))
