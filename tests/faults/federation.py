"""The state after a round, which the fault tests compare."""

from __future__ import annotations

from typing import Any

import numpy as np
from django.utils import timezone

from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate
from tests import factories
from tests.untyped import default_storage

#: Tensors that make a model of two and of three parts: see `tests.faults.processes.PART_BYTES`.
TWO_PARTS = {"w": np.zeros((2, 3000), np.float32)}
THREE_PARTS = {"w": np.zeros((3, 3000), np.float32), "b": np.zeros(100, np.float32)}


def tensors(seed: int, expected_layout: dict[str, Any] = THREE_PARTS) -> dict[str, Any]:
    """Return tensors without equal values."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(each.shape).astype(each.dtype)
        for name, each in expected_layout.items()
    }


def end_state(model: FederatedModel) -> dict[str, Any]:
    """Return the visible state of a model, without ids and names."""
    aggregates = model.aggregates.order_by("number").select_related("parent")
    updates = model.model_updates.select_related("applied_aggregate").order_by("client", "data")
    return {
        "aggregates": [
            (
                each.number,
                each.parent and each.parent.number,
                factories.get(each.result.name),
                each.optimizer_state.name and factories.get(each.optimizer_state.name),
            )
            for each in aggregates
        ],
        "updates": [
            (
                str(each.client_id),
                ModelUpdate.Status(each.status).name,
                each.rejection_reason,
                each.applied_aggregate and each.applied_aggregate.number,
            )
            for each in updates
        ],
        "unfinished rounds": model.rounds.filter(state=AggregationRound.State.RUNNING).count(),
        "paused": not model.allow_aggregation,
    }


def expire_leases() -> int:
    """Let the leases of all running rounds expire; return their number."""
    running = AggregationRound.objects.filter(state=AggregationRound.State.RUNNING)
    return running.update(lease_expires_at=timezone.now())


def orphans() -> list[str]:
    """Return keys of results and unfinished uploads that belong to no aggregate."""
    client, bucket = default_storage.connection.meta.client, default_storage.bucket_name
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="aggregates/")
    stored = {each["Key"] for page in pages for each in page.get("Contents", ())}
    begun = client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
    named: set[str] = set()
    for names in ModelAggregate.objects.values_list("result", "optimizer_state"):
        named.update(names)
    orphans = {key for key in stored - named if not key.endswith("/latest.json")}
    return sorted(orphans | {each["Key"] for each in begun})
