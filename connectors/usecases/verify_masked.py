"""Recompute an aggregate of masked updates: from the updates, and the mask keeper's answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.output import FileSink
from aggregation.errors import UpdateRejected
from aggregation.masks.requests import MaskKeys, request_key
from aggregation.masks.settings import masked_layout
from aggregation.masks.unmasking import unmasked_mean
from aggregation.masks.weights import open_masked
from aggregation.optimizers import Optimizer
from aggregation.policies import TensorPolicies
from aggregation.round.secure import request_for, step_of, sum_of
from aggregation.rules import Rule
from aggregation.sources import ByteSource, FileSource
from aggregation.weights import Weights
from connectors.rounds.snapshot import config_snapshot_of, secure_terms_of
from connectors.storage.weights import WeightStore
from models_app.models import AggregationRound


def recomputed_step(
    store: WeightStore,
    made_by: AggregationRound,
    sources: Sequence[ByteSource],
    rule: Rule,
    resources: Resources,
    folder: Path,
    *,
    parent: Weights,
    optimizer: Optimizer,
    optimizer_state: Weights | None,
) -> Combination:
    """Return the combination that an aggregate is the result of.

    Parameters
    ----------
    store : WeightStore
    made_by : AggregationRound
    sources : sequence of ByteSource
        The updates that were used, in claim order.
    rule : Rule
        Of the round; that of a private round with its noise.
    resources : Resources
    folder : Path
        For the sum of the masked updates, which is as large as the model.
    parent, optimizer, optimizer_state
        As for `Combination`.

    Raises
    ------
    UpdateRejected
        If an update, or the sum of the masks, is missing or is not what it was.
    """
    config = config_snapshot_of(made_by)
    terms = secure_terms_of(config)
    if terms is None:
        raise ValueError("the updates of the round are not masked")
    policies = TensorPolicies.from_json(config["policies"])
    layout = masked_layout(parent.layout, policies)
    updates = [open_masked(source, layout) for source in sources]
    request = request_for(made_by.federated_model_id, terms.round, updates)
    masks = store.source(MaskKeys.of(request_key(request, request.encode())).sum)
    if masks.size != layout.nbytes:
        raise UpdateRejected(f"the sum of the masks has {masks.size} bytes, not {layout.nbytes}")
    combine(sum_of(updates), FileSink(folder / "sum"), format="memory", resources=resources)
    weight = sum(update.header.weight for update in updates)
    total = FileSource(folder / "sum")
    mean = unmasked_mean(parent.layout, layout, total, masks, terms.divisor(weight))
    return step_of(
        mean,
        rule,
        terms,
        parent=parent,
        policies=policies,
        optimizer=optimizer,
        optimizer_state=optimizer_state,
    )
