"""`latest.json`: which weights a client trains from, and what the model expects of an update.

The object follows the database. It is read first, then compared with the database, and replaced only if it
is still the object that was read. A slow writer therefore never replaces a newer pointer by an older one,
and whatever another database has left in the bucket is replaced.

`FederatedModel.pointer_digest` records what was written. A sweep finds the models whose pointer is stale by
it: a round died before it wrote the pointer, or the model's settings were changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.db.models import F, OuterRef, QuerySet, Subquery

from aggregation.errors import (
    AggregationError,
    ObjectMissing,
    UpdateRejected,
)
from aggregation.formats import format_of
from aggregation.freeze import FreezeSchedule
from aggregation.layout import DTYPE_NAMES
from connectors.errors import UnknownModel, translate_database_errors
from connectors.publication.replacement import replace_document
from connectors.storage.keys import pointer_key
from connectors.storage.port import (
    Objects,
    StoredObject,
    read_small,
    stored_layout,
)
from models_app.models import FederatedModel, ModelAggregate
from models_app.privacy import public_privacy, spent_of

#: The layouts of models have up to some 20,000 tensors. A pointer to a model that has more leaves it out.
MAX_LAYOUT_BYTES = 2 << 20

#: A pointer has about a kilobyte beside the layout. A larger object is not one, and is replaced.
MAX_BYTES = MAX_LAYOUT_BYTES + (1 << 16)


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The content of `latest.json`.

    Parameters
    ----------
    model_id : int
    aggregate_id : int or None
        The `base-aggregate` of an update that is trained from it; None for the initial model.
    number : int
        The number of the aggregate; 0 for the initial model.
    key, etag : str
        The weights, in the same bucket.
    published_on : str
        ISO 8601, with its zone.
    dtypes : list of str or None
        The dtypes of the model's tensors, by their names in safetensors; None for JSON,
        and if the weights cannot be read.
    layout : list of dict or None
        The name, dtype and shape of each tensor; None as for ``dtypes``, and for a model of so many
        tensors that clients should read the header of its weights.
    update_kind : str
        `weights` or `differences`.
    rule, rule_args, requirement, requirement_args
        How and when the updates are aggregated; the requirement is empty if one update is enough.
    tensor_policies : list
        Pairs of a glob and a policy; the first match counts. Clients leave out the tensors whose policy
        is ``exclude``.
    frozen : list of str
        Globs of the tensors that an update must leave as they are in these weights.
    max_num_examples : int or None
        More examples than this count as this many.
    furthest_base_agg : int or None
        An update may be based on one of this many latest aggregates; None: on any.
    max_update_bytes : int
        A larger update is rejected.
    secure_aggregation : dict or None
        How updates are masked (`aggregation.masks.settings.SecureAggregation`); None if they are not.
    differential_privacy : dict or None
        The settings of the noise in the aggregates, and ``epsilon``: what all aggregates so far reveal of a
        client at most, for the neighbouring relation ``neighbours``; None for a model without noise.
    schema : int
        The version of this format.
    """

    model_id: int
    aggregate_id: int | None
    number: int
    key: str
    etag: str
    published_on: str
    dtypes: list[str] | None
    update_kind: str
    rule: str
    rule_args: dict[str, Any]
    requirement: str
    requirement_args: dict[str, Any] | list[Any] | None
    tensor_policies: list[list[str]]
    frozen: list[str]
    max_num_examples: int | None
    furthest_base_agg: int | None
    max_update_bytes: int
    layout: list[dict[str, Any]] | None
    secure_aggregation: dict[str, Any] | None
    differential_privacy: dict[str, Any] | None
    schema: int = 1


def write_pointer(objects: Objects, model_id: int) -> Latest | None:
    """Bring a model's `latest.json` up to date.

    Returns
    -------
    Latest or None
        What it says; None if the model has neither an aggregate nor an initial model.

    Raises
    ------
    UnknownModel
    TemporarilyUnavailable
        If the database or storage did not answer; the next sweep tries again.
    """

    def attempt() -> Latest | None:
        found, etag = _read_pointer(objects, model_id)
        state = _model_state(model_id)
        if state is None:
            return None
        latest = _latest(objects, state)
        body = json.dumps(asdict(latest)).encode()
        if body != found:
            objects.replace(pointer_key(model_id), body, etag=etag)
        record_pointer(model_id, _digest(state))
        return latest

    return replace_document(pointer_key(model_id), attempt)


def try_write_pointer(objects: Objects, model_id: int) -> str:
    """Call `write_pointer` after work that is done and must not fail any more.

    Returns
    -------
    str
        Why the pointer was not written, and will be by the next sweep; empty if it was.
    """
    try:
        write_pointer(objects, model_id)
    except (AggregationError, DatabaseError, OSError) as error:
        return f"latest.json of model {model_id} was not written; the next sweep writes it: {error}"
    return ""


def record_pointer(model_id: int, digest: str) -> None:
    """Record what a model's pointer says."""
    with translate_database_errors():
        FederatedModel.objects.filter(pk=model_id).update(pointer_digest=digest)


def invalidate_pointer(model_id: int) -> None:
    """Let the next sweep compare a model's pointer with the database, as after a restore."""
    record_pointer(model_id, "")


def stale_pointers() -> list[int]:
    """Return the ids of the models whose pointer is not known to be up to date."""
    with translate_database_errors():
        return [
            state["pk"]
            for state in _states(FederatedModel.objects.order_by("pk"))
            if state["key"] is not None and state["pointer_digest"] != _digest(state)
        ]


#: The settings of a model that its pointer states.
_SETTINGS = {
    "update_kind": "update_kind",
    "rule": "aggregator",
    "rule_args": "aggregator_args",
    "requirement": "requirement",
    "requirement_args": "requirement_args",
    "tensor_policies": "tensor_policies",
    "max_num_examples": "max_num_examples",
    "furthest_base_agg": "furthest_base_agg",
}


def _model_state(model_id: int) -> dict[str, Any] | None:
    """Return what the database says about a model's latest weights and settings."""
    with translate_database_errors():
        state = next(iter(_states(FederatedModel.objects.filter(pk=model_id))), None)
    if state is None:
        raise UnknownModel(f"there is no federated model with id {model_id}")
    return state if state["key"] is not None else None


def _states(models: QuerySet[FederatedModel]) -> list[dict[str, Any]]:
    latest = ModelAggregate.objects.filter(federated_model=OuterRef("pk")).order_by("-number")
    rows = models.values(
        "pk",
        "pointer_digest",
        "freeze",
        "secure_aggregation",
        "differential_privacy",
        *_SETTINGS.values(),
        aggregate_id=Subquery(latest.values("pk")[:1]),
        number=Subquery(latest.values("number")[:1]),
        result=Subquery(latest.values("result")[:1]),
        created=Subquery(latest.values("created_on")[:1]),
        spent=spent_of(OuterRef("pk")),
        initial=F("current_artifact__values"),
        initial_created=F("current_artifact__created_on"),
    )
    return [_state(row) for row in rows]


def _state(row: Mapping[str, Any]) -> dict[str, Any]:
    has_aggregate = row["aggregate_id"] is not None
    created: datetime | None = row["created"] if has_aggregate else row["initial_created"]
    return {
        "pk": row["pk"],
        "pointer_digest": row["pointer_digest"],
        "aggregate_id": row["aggregate_id"],
        "number": row["number"] or 0,
        "key": row["result"] if has_aggregate else row["initial"],
        "published_on": created.isoformat() if created else "",
        "frozen": FreezeSchedule.from_json(row["freeze"]).frozen_at(row["number"] or 0),
        "max_update_bytes": settings.MAX_UPDATE_BYTES,
        "secure_aggregation": _secure_aggregation(row["secure_aggregation"]),
        "differential_privacy": public_privacy(row["differential_privacy"], row["spent"]),
        **{name: row[column] for name, column in _SETTINGS.items()},
    }


def _secure_aggregation(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return how a model's updates are masked, with the defaults of settings that are not given."""
    if not settings:
        return None
    from aggregation.masks.settings import SecureAggregation

    return SecureAggregation(**settings).published()


def _digest(state: Mapping[str, Any]) -> str:
    stated = {name: value for name, value in state.items() if name != "pointer_digest"}
    return sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def _latest(objects: Objects, state: Mapping[str, Any]) -> Latest:
    stated = {name: value for name, value in state.items() if name not in ("pk", "pointer_digest")}
    stored = objects.stat(state["key"])
    layout = _layout(objects, state["key"], stored)
    fits = layout is not None and len(json.dumps(layout)) <= MAX_LAYOUT_BYTES
    return Latest(
        model_id=state["pk"],
        etag=stored.etag,
        dtypes=None if layout is None else sorted({tensor["dtype"] for tensor in layout}),
        layout=layout if fits else None,
        **stated,
    )


def _layout(objects: Objects, key: str, stored: StoredObject) -> list[dict[str, Any]] | None:
    """Return the name, dtype and shape of each tensor; None for JSON, and if they cannot be read."""
    if format_of(key) == "json":
        return None
    try:
        layout = stored_layout(objects, key, stored)
    except UpdateRejected:
        return None  # The weights are unreadable: the round reports that.
    return [
        {"name": each.name, "dtype": DTYPE_NAMES[each.dtype], "shape": list(each.shape)}
        for each in layout.tensors
    ]


def _read_pointer(objects: Objects, model_id: int) -> tuple[bytes, str]:
    """Return the bytes and the ETag of what is in the pointer's place; no bytes if it is too large."""
    try:
        etag = objects.stat(pointer_key(model_id)).etag
    except ObjectMissing:
        return b"", ""
    try:
        return read_small(objects, pointer_key(model_id), etag=etag, max_bytes=MAX_BYTES)
    except UpdateRejected:  # It is too large, or was replaced meanwhile.
        return b"", etag
