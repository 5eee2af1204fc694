"""The contents of a federated model's overview: its tiles, plots and tables.

It takes a constant number of statements, and reads a bounded number of rows, however many clients, updates
and rounds there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Case, Count, IntegerField, QuerySet, Value, When
from django.utils.safestring import SafeString

from models_app.control_room.charts import clients_chart, effort_charts
from models_app.control_room.curve import learning_curve
from models_app.control_room.names import Name, as_text
from models_app.control_room.norms import norms_chart
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from models_app.overview import ModelOverview, model_overview

#: The latest rounds that are drawn.
DRAWN = 60

#: Rows of a table, as on the lists of the console.
ROWS = 25

#: The latest rejected updates that are counted.
MAX_COUNTED = 2_000


@dataclass(frozen=True, kw_only=True)
class ControlRoom:
    """What the overview shows.

    Parameters
    ----------
    overview : ModelOverview
    plots : sequence of SafeString
    measures_norms : bool
        Whether the rule measures the norms of updates.
    contributions : sequence of ModelUpdate
        Of the latest aggregate, those whose direction was measured, the most opposed first.
    """

    overview: ModelOverview
    plots: Sequence[SafeString]
    measures_norms: bool
    contributions: Sequence[ModelUpdate]


def control_room(model: FederatedModel, name: Name = as_text) -> ControlRoom:
    """Return the contents of a model's overview; its tables name records as the callable does."""
    overview = model_overview(model)
    finished = model.rounds.exclude(finished_on=None).defer("checkpoint", "workers").order_by("-pk")
    # One more than is drawn: updates rejected before the first drawn round were registered after its start.
    previous, *rounds = [None, *reversed(finished[: DRAWN + 1])]
    if len(rounds) > DRAWN:
        previous, *rounds = rounds
    rule = model.rule()
    charts = [
        learning_curve(overview.curve, name),
        clients_chart(rounds, _rejected_before(model, previous, rounds), name),
        norms_chart(rounds, name),
        *effort_charts(rounds, overview.durations, name),
    ]
    return ControlRoom(
        overview=overview,
        plots=[chart for chart in charts if chart],
        measures_norms=rule.needs_gram or rule.needs_norms,
        contributions=_contributions(model),
    )


def _contributions(model: FederatedModel) -> list[ModelUpdate]:
    latest: ModelAggregate | None = model.aggregates.order_by("-number").first()
    if latest is None:
        return []
    measured = latest.updates_applied.filter(cosine__isnull=False).select_related("client")
    return list(measured.order_by("cosine", "pk")[:ROWS])


def _latest_rejected(model: FederatedModel) -> QuerySet[ModelUpdate]:
    """Return the latest rejected updates of a model, of which there are at most `MAX_COUNTED`."""
    rejected = model.model_updates.filter(status=ModelUpdate.Status.INVALID)
    latest = rejected.order_by("-pk").values("pk")[:MAX_COUNTED]
    return ModelUpdate.objects.filter(pk__in=latest)


def _rejected_before(
    model: FederatedModel,
    previous: AggregationRound | None,
    rounds: Sequence[AggregationRound],
) -> Mapping[int, int]:
    """Return, by round, how many updates were rejected before they were part of a round.

    They are those registered since the round before it had started: refused at intake, superseded, or
    based on too old an aggregate.
    """
    if not rounds:
        return {}
    outside = _latest_rejected(model).filter(round=None, created_on__lte=rounds[-1].started_on)
    if previous is not None:
        outside = outside.filter(created_on__gt=previous.started_on)
    # The first case that is true counts: the rounds stand in the order in which they started.
    starts = [When(created_on__lte=each.started_on, then=Value(each.pk)) for each in rounds]
    next_round = Case(*starts, output_field=IntegerField())
    counts = outside.annotate(next_round=next_round).values("next_round").annotate(n=Count("pk"))
    return {each["next_round"]: each["n"] for each in counts.order_by()}
