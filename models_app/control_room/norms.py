"""The chart of the updates' norms, each as a multiple of the median of its round.

Norms shrink while a model learns. A norm is far out if it is more than 3.5 robust standard deviations above
the median (Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, 1993) and at least twice the median.
The standard deviation is estimated from the lower half alone, since attackers enlarge the upper half.

Medians and maxima are computed by the database; the rows that are read are three for each round, and those
of the clients that are drawn.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from django.db.models import Case, Count, F, FloatField, Max, Q, QuerySet, Value, When, Window
from django.db.models.functions import RowNumber
from django.utils.safestring import SafeString

from models_app.control_room.frames import Axes
from models_app.control_room.names import Name, as_text
from models_app.control_room.strips import ROWS, Dot, strip_plot
from models_app.models import ModelUpdate
from models_app.overview import RoundSummary

#: Robust standard deviations, and multiples of the median, beyond which a norm is far out.
FAR_OUT, FAR_OUT_AT_LEAST = 3.5, 2.0

#: The distance between the median and a quartile of a normal distribution, in standard deviations.
QUARTILE = 0.6745

#: Rounds that are drawn, and norms that the database ranks for them: the latest.
MAX_ROUNDS, MAX_RANKED = 30, 20_000


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """Of the norms of one round."""

    count: int
    lower: float
    median: float


def norms_chart(rounds: Sequence[RoundSummary], name: Name = as_text) -> SafeString:
    """Draw the norms of the clients whose updates were the longest.

    Parameters
    ----------
    rounds : sequence of RoundSummary
        In the order in which they started.
    name : callable
        Names a client in the table.
    """
    measured = _measured(_latest_rounds(rounds))
    quartiles = quartiles_by_round(measured)
    if not quartiles:
        return SafeString("")
    medians = {pk: each.median for pk, each in quartiles.items() if each.median > 0}
    drawn = _longest_clients(measured, medians)
    rows: dict[str, list[Dot]] = defaultdict(list)
    names: dict[str, str | SafeString] = {}
    norms = measured.filter(client__in=drawn).order_by("pk")
    for client, known_as, round_id, number, norm in norms.values_list(
        "client_id", "client__name", "round_id", "round__number", "norm"
    ):
        usual = quartiles[round_id].median
        description = f"round {number}: {norm:.6g}, the median is {usual:.6g}"
        label = known_as or str(client)
        names.setdefault(label, name("client", client, label))
        rows[label].append(Dot(float(norm or 0.0) / (usual or 1.0), description))
    title = "Norms of the updates"
    axes = Axes(title=title, across="norm ÷ median norm of its round", up="client")
    total = sum(each.count for each in quartiles.values())
    return strip_plot(axes, rows, fence(quartiles.values()), total, names)


def _latest_rounds(rounds: Sequence[RoundSummary]) -> list[int]:
    """Return the ids of the latest rounds that have `MAX_RANKED` updates together; at least one."""
    chosen: list[int] = []
    updates = 0
    for each in rounds[: -MAX_ROUNDS - 1 : -1]:
        updates += each.used
        if chosen and updates > MAX_RANKED:
            break
        chosen.append(each.pk)
    return chosen


def _measured(rounds: Iterable[int]) -> QuerySet[ModelUpdate]:
    """Return the updates of these rounds whose norm is known and finite."""
    return ModelUpdate.objects.filter(round__in=list(rounds), norm__lte=1.7e308)


def quartiles_by_round(measured: QuerySet[ModelUpdate]) -> dict[int, Quartiles]:
    """Return the number, lower quartile and median of the norms of each round."""
    ranked = measured.annotate(
        rank=Window(RowNumber(), partition_by="round", order_by="norm"),
        count=Window(Count("pk"), partition_by="round"),
    )
    chosen = ranked.filter(
        Q(rank=(F("count") + 3) / 4) | Q(rank=(F("count") + 1) / 2) | Q(rank=(F("count") + 2) / 2)
    )
    found: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
    for round_id, rank, count, norm in chosen.values_list("round", "rank", "count", "norm"):
        found[round_id].append((rank, count, float(norm or 0.0)))
    return {round_id: _quartiles(sorted(rows)) for round_id, rows in found.items()}


def _quartiles(rows: Sequence[tuple[int, int, float]]) -> Quartiles:
    norm_by_rank = {rank: norm for rank, _, norm in rows}
    count = rows[0][1]
    return Quartiles(
        count=count,
        lower=norm_by_rank[(count + 3) // 4],
        median=(norm_by_rank[(count + 1) // 2] + norm_by_rank[(count + 2) // 2]) / 2,
    )


def fence(quartiles: Iterable[Quartiles]) -> float:
    """Return the multiple of the median above which a norm is far out, for all rounds together."""
    deviations = [
        (each.median - each.lower) / each.median / QUARTILE for each in quartiles if each.median > 0
    ]
    deviation = median(deviations) if deviations else 0.0
    return max(1.0 + FAR_OUT * deviation, FAR_OUT_AT_LEAST)


def _longest_clients(
    measured: QuerySet[ModelUpdate], medians: Mapping[int, float]
) -> list[uuid.UUID]:
    """Return the ids of the clients with the greatest multiples of the median."""
    usual = [When(round=pk, then=Value(value)) for pk, value in medians.items()]
    multiple = F("norm") / Case(*usual, default=Value(1.0), output_field=FloatField())
    greatest = measured.values("client").annotate(greatest=Max(multiple))
    return [each["client"] for each in greatest.order_by("-greatest", "client")[:ROWS]]
