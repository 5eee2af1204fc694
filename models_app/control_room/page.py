"""The contents of a federated model's overview: its tiles, plots and tables.

It takes a constant number of statements, and reads a bounded number of rows, however many clients, updates
and rounds there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Case, Count, IntegerField, Value, When
from django.utils.safestring import SafeString

from models_app.control_room.charts import clients_chart, effort_charts
from models_app.control_room.curve import learning_curve
from models_app.control_room.names import Name, as_text
from models_app.control_room.norms import norms_chart
from models_app.models import FederatedModel, ModelUpdate
from models_app.overview import ModelOverview, RoundSummary, model_overview
from models_app.overview.clients import ROWS
from models_app.overview.model import latest_rejected

#: The latest rounds that are drawn.
DRAWN = 60


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
    rounds = overview.rounds[:DRAWN][::-1]
    previous = overview.rounds[DRAWN] if len(overview.rounds) > DRAWN else None
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
        contributions=_contributions(overview),
    )


def _contributions(overview: ModelOverview) -> list[ModelUpdate]:
    if not overview.curve.points:
        return []
    latest = overview.curve.points[-1].aggregate
    measured = ModelUpdate.objects.filter(applied_aggregate=latest, cosine__isnull=False)
    return list(measured.select_related("client").order_by("cosine", "pk")[:ROWS])


def _rejected_before(
    model: FederatedModel,
    previous: RoundSummary | None,
    rounds: Sequence[RoundSummary],
) -> Mapping[int, int]:
    """Return, by round, how many updates were rejected before they were part of a round.

    They are those registered since the round before it had started: refused at intake, superseded, or
    based on too old an aggregate.
    """
    if not rounds:
        return {}
    outside = latest_rejected(model).filter(round=None, created_on__lte=rounds[-1].started_on)
    if previous is not None:
        outside = outside.filter(created_on__gt=previous.started_on)
    # The first case that is true counts: the rounds stand in the order in which they started.
    starts = [When(created_on__lte=each.started_on, then=Value(each.pk)) for each in rounds]
    next_round = Case(*starts, output_field=IntegerField())
    counts = outside.annotate(next_round=next_round).values("next_round").annotate(n=Count("pk"))
    return {each["next_round"]: each["n"] for each in counts.order_by()}
