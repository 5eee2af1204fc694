"""What happened between the aggregates of a learning curve."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from django.db.models import QuerySet
from django.db.models.fields.json import KT, KeyTransform

from models_app.models import AggregationRound, ModelAggregate, ModelArtifact

#: Settings in a round's snapshot, and what they are called. The cap of examples is not among them: unless
#: the model sets one, it follows from the updates of each round.
SETTINGS = {
    "rule": "rule",
    "rule_args": "arguments of the rule",
    "pre_aggregation": "steps before the rule",
    "server_optimizer": "optimizer",
    "server_optimizer_args": "arguments of the optimizer",
    "requirement": "requirement",
    "requirement_args": "arguments of the requirement",
    "staleness": "staleness",
    "staleness_args": "arguments of staleness",
}

#: Characters of a text: an error or a list of policies may be long.
MAX_TEXT = 300


class MarkKind(StrEnum):
    """What happened."""

    VERSION = "version"
    ROLLBACK = "rollback"
    REJECTED = "rejected"
    FAILED = "failed"
    SETTINGS = "settings"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at an aggregate.

    Parameters
    ----------
    kind : MarkKind
    number : int
        Of the aggregate; of a failed round, the one that it was to make.
    text : str
        A sentence without a full stop.
    round, artifact : int or None
        The id of what the mark stands for.
    """

    kind: MarkKind
    number: int
    text: str
    round: int | None = None
    artifact: int | None = None


def with_settings(rounds: QuerySet[AggregationRound]) -> QuerySet[Any]:
    """Return rounds with the settings that marks are made of, instead of their large columns."""
    settings = {f"setting_{name}": KeyTransform(name, "config_snapshot") for name in SETTINGS}
    return rounds.defer("checkpoint", "workers", "config_snapshot").annotate(
        **settings,
        setting_policies=KeyTransform("pairs", KeyTransform("policies", "config_snapshot")),
        rolled_back_to=KT("config_snapshot__rolled_back_to"),
    )


def marks_of(
    rounds: Sequence[Any],
    aggregates: Sequence[ModelAggregate],
    versions: Iterable[ModelArtifact],
    rolled_back_to: Mapping[int, int],
) -> list[Mark]:
    """Return the marks of a curve in the order of the aggregates.

    Parameters
    ----------
    rounds : sequence of AggregationRound
        From `with_settings`, in the order in which they started.
    aggregates : sequence of ModelAggregate
        Those that are drawn, by their numbers; marks before the first are left out.
    versions : iterable of ModelArtifact
    rolled_back_to : mapping
        The number of an aggregate by its id.
    """
    number_of = {str(each.result.name): each.number for each in aggregates}
    marks = [
        Mark(
            kind=MarkKind.VERSION,
            number=number_of[str(each.values.name)],
            text=f"version {each.version}",
            artifact=each.pk,
        )
        for each in versions
    ]
    marks += (mark for each in rounds for mark in _marks_of_round(each, rolled_back_to))
    marks += _settings_marks(rounds)
    first = aggregates[0].number if aggregates else 0
    return sorted((m for m in marks if m.number >= first), key=lambda m: (m.number, m.kind))


def _marks_of_round(round: Any, numbers: Mapping[int, int]) -> Iterator[Mark]:
    place = {"number": round.number, "round": round.pk}
    if round.rolled_back_to is not None:
        original = numbers.get(int(round.rolled_back_to))
        what = f"aggregate {original}" if original else "an earlier aggregate"
        yield Mark(kind=MarkKind.ROLLBACK, text=f"rolled back to {what}", **place)
    if round.state != AggregationRound.State.PUBLISHED:
        error = f": {round.error}" if round.error else ""
        yield Mark(kind=MarkKind.FAILED, text=_cut(f"the round made no aggregate{error}"), **place)
    if round.updates_rejected:
        updates = "1 update" if round.updates_rejected == 1 else f"{round.updates_rejected} updates"
        yield Mark(kind=MarkKind.REJECTED, text=f"{updates} rejected in the round", **place)


def _settings_marks(rounds: Sequence[Any]) -> Iterator[Mark]:
    """Yield a mark for each round that was claimed with other settings than the one before it."""
    names = {**SETTINGS, "policies": "tensor policies"}
    for before, after in pairwise(rounds):
        changes = [
            f"{words}: {_shown(new)} (was {_shown(old)})"
            for name, words in names.items()
            if _differ(
                old := getattr(before, f"setting_{name}"), new := getattr(after, f"setting_{name}")
            )
        ]
        if changes:
            yield Mark(
                kind=MarkKind.SETTINGS,
                number=after.number,
                text=_cut("; ".join(changes)),
                round=after.pk,
            )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _differ(old: Any, new: Any) -> bool:
    return (old or None) != (new or None)


def _shown(value: Any) -> str:
    if not value:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
