"""The rows that commands print: models, clients, rounds, updates, the lineage and scores.

Every listing takes a constant number of statements, and reads at most ``limit + 1`` rows: one more than is
shown, by which the caller knows that there are more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery

from models_app.models import (
    AggregationRound,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
)
from models_app.overview import ModelCard, RoundSummary, model_cards
from models_app.privacy import privacy_after

Row = dict[str, Any]

#: Models whose cards are read together: their statements have a few parameters for each.
MODELS = 50

#: Rows that are read from the database at a time where all rows are exported.
CHUNK = 2000


def list_models(limit: int) -> list[ModelCard]:
    """Return the cards of the federated models by id, as on the home page of the console."""
    models = list(FederatedModel.objects.order_by("pk")[: limit + 1])
    pages = (models[at : at + MODELS] for at in range(0, len(models), MODELS))
    return [card for page in pages for card in model_cards(page)]


def model_rows(cards: Sequence[ModelCard]) -> list[Row]:
    """Return the cards of models as rows of a table, with a column for privacy if one is private."""
    with_privacy = any(card.privacy for card in cards)
    return [
        _model_row(card) | ({"privacy": card.privacy} if with_privacy else {}) for card in cards
    ]


def _model_row(card: ModelCard) -> Row:
    last = card.last_round
    return {
        "id": card.pk,
        "name": card.name,
        "state": str(card.state),
        "ready": f"{card.ready} of {card.needed}",
        "aggregates": card.aggregates,
        "score": card.score,
        "last_round": last.finished_on if last else None,
        "seconds": last.seconds if last else None,
        "used": last.used if last else None,
        "rejected": last.rejected if last else None,
        "alerts": "; ".join(alert.text for alert in card.alerts),
    }


def model_document(card: ModelCard) -> Row:
    """Return the card of a model with everything on it, for JSON."""
    return _with_id(asdict(card)) | {
        "score": card.score,
        "running": _round_document(card.running),
        "last_round": _round_document(card.last_round),
    }


def _round_document(round: RoundSummary | None) -> Row | None:
    return _with_id(asdict(round)) | {"state": round.state.name.lower()} if round else None


def _with_id(row: Row) -> Row:
    """Return a row whose key is named as in the other listings."""
    return {"id": row.pop("pk"), **row}


def list_clients(model: FederatedModel | None, limit: int) -> list[Row]:
    """Return clients by name, those of one model or all, with the latest update of each."""
    clients = Client.objects.all() if model is None else model.clients.all()
    updates = ModelUpdate.objects.filter(client=OuterRef("pk")).order_by("-pk")
    if model is not None:
        updates = updates.filter(federated_model=model)
    annotated: QuerySet[Any] = clients.annotate(
        latest_status=Subquery(updates.values("status")[:1]),
        latest_upload=Subquery(updates.values("uploaded_on")[:1]),
    )
    return [
        {
            "client": str(client.pk),
            "name": client.name,
            "state": client.state,
            "latest_update": client.latest_upload,
            "status": _status_name(client.latest_status),
        }
        for client in annotated.order_by("name", "pk")[: limit + 1]
    ]


def list_rounds(model: FederatedModel, limit: int) -> list[Row]:
    """Return a model's rounds, the latest first."""
    return [round_row(each) for each in model.rounds.order_by("-pk")[: limit + 1]]


def round_row(each: AggregationRound) -> Row:
    """Return a round as a row."""
    return {
        "id": each.pk,
        "round": each.number,
        "state": AggregationRound.State(each.state).name.lower(),
        "attempt": each.attempt,
        "started": each.started_on,
        "seconds": each.seconds,
        "used": each.updates_used,
        "rejected": each.updates_rejected,
        "bytes": each.bytes_read,
        "aggregate": each.aggregate_id,
        "error": each.error,
    }


def list_updates(model: FederatedModel, status: str | None, limit: int) -> list[Row]:
    """Return a model's updates, the latest first: all, or those of one status, such as ``invalid``."""
    updates = model.model_updates.select_related("client").order_by("-pk")
    if status:
        updates = updates.filter(status=ModelUpdate.Status[status.upper()])
    return [update_row(each) for each in updates[: limit + 1]]


def list_round_updates(round: AggregationRound, limit: int) -> list[Row]:
    """Return the updates of a round in claim order."""
    updates = round.updates.select_related("client").order_by("client_id", "pk")
    return [update_row(each) for each in updates[: limit + 1]]


def update_row(update: ModelUpdate) -> Row:
    """Return an update as a row; its client must have been selected with it."""
    return {
        "id": update.pk,
        "client": str(update.client_id),
        "name": update.client.name,
        "status": _status_name(update.status),
        "examples": _examples(update),
        "base": update.base_aggregate_id,
        "aggregate": update.applied_aggregate_id,
        "norm": update.norm,
        "cosine": update.cosine,
        "scaling_factor": update.scaling_factor,
        "uploaded": update.uploaded_on,
        "reason": update.rejection_reason,
    }


def _status_name(status: int | None) -> str:
    return "" if status is None else ModelUpdate.Status(status).name.lower()


def _examples(update: ModelUpdate) -> int | None:
    """Return what an update counts; None if it was rejected at intake before its count was accepted."""
    rejected_at_intake = update.status == ModelUpdate.Status.INVALID and update.round_id is None
    return None if rejected_at_intake and update.num_examples == 1 else update.num_examples


def list_lineage(model: FederatedModel, limit: int) -> list[Row]:
    """Return a model's aggregates, the latest first, with the versions made of them."""
    latest = model.aggregates.order_by("-number")
    versions = _versions_by_key(model, latest.values("result")[: limit + 1])
    aggregates = latest.select_related("round", "parent", "federated_model")[: limit + 1]
    return [_lineage_row(each, versions) for each in aggregates]


def _versions_by_key(model: FederatedModel, keys: QuerySet[Any]) -> Mapping[str, list[str]]:
    versions: dict[str, list[str]] = defaultdict(list)
    artifacts = model.artifacts.filter(values__in=keys).order_by("pk")
    for key, version in artifacts.values_list("values", "version"):
        versions[key].append(version)
    return versions


def _lineage_row(aggregate: ModelAggregate, versions: Mapping[str, list[str]]) -> Row:
    made_by = getattr(aggregate, "round", None)
    return {
        "number": aggregate.number,
        "aggregate": aggregate.pk,
        "parent": aggregate.parent_id,
        "score": aggregate.validation_score,
        "held_back": aggregate.dropped(),
        "epsilon": (privacy_after(made_by) or {}).get("epsilon"),
        "updates": made_by.updates_used if made_by else None,
        "rolled_back_to": made_by.config_snapshot.get("rolled_back_to") if made_by else None,
        "versions": versions.get(str(aggregate.result.name), []),
        "created": aggregate.created_on,
    }


def _export_rounds(model: FederatedModel) -> Iterator[Row]:
    for each in model.rounds.select_related("aggregate").order_by("pk").iterator(CHUNK):
        score = each.aggregate.validation_score if each.aggregate else None
        yield round_row(each) | {"score": score}


def _export_updates(model: FederatedModel) -> Iterator[Row]:
    updates = model.model_updates.select_related("client").order_by("pk")
    return (update_row(each) for each in updates.iterator(CHUNK))


def _export_scores(model: FederatedModel) -> Iterator[Row]:
    """Yield a row for each number that a client reported."""
    scores = (
        ClientAggregateScore.objects.filter(aggregate__federated_model=model)
        .select_related("aggregate", "client")
        .order_by("aggregate__number", "client_id")
    )
    for each in scores.iterator(CHUNK):
        for metric, value in each.validation_results.items():
            if type(value) in (int, float):
                yield {
                    "number": each.aggregate.number,
                    "aggregate": each.aggregate_id,
                    "client": str(each.client_id),
                    "name": each.client.name,
                    "metric": metric,
                    "value": float(value),
                }


#: All rows of a model by what they are, for `manage.py export_metrics`.
EXPORTS: dict[str, Callable[[FederatedModel], Iterator[Row]]] = {
    "rounds": _export_rounds,
    "updates": _export_updates,
    "scores": _export_scores,
}
