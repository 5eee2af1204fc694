"""Auditing: an aggregate is recomputed from its updates and compared byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aggregation.engine import DEFAULT_RESOURCES, Combination, Resources, combine
from aggregation.errors import (
    AggregationError,
    InvalidWeights,
    ObjectMissing,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.formats import Spool
from aggregation.layout import TensorLayout
from aggregation.opening import Opener, open_consistent
from aggregation.optimizers import create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.round import rule_with_noise
from aggregation.round.bases import Bases, stated_steps
from aggregation.rules import Rule
from aggregation.sources import ByteSource
from aggregation.staleness import create_staleness
from aggregation.weights import Weights
from connectors.errors import ServiceRefused
from connectors.rounds.private import PrivateRounds, private_rule
from connectors.rounds.selectors import UpdateStatus
from connectors.rounds.snapshot import claimed_update, config_snapshot_of, rule_of
from connectors.storage.weights import WeightStore
from connectors.usecases.comparison import AuditMismatch, ComparingSink, compare
from models_app.models import AggregationRound, FederatedModel, ModelAggregate, ModelUpdate


class NotVerifiable(AggregationError):
    """An input of the aggregate is unknown or missing; the message names it."""


def verify(
    weights: WeightStore,
    aggregate: ModelAggregate,
    resources: Resources = DEFAULT_RESOURCES,
    private: PrivateRounds | None = None,
) -> str:
    """Recompute an aggregate under the settings of its round.

    Parameters
    ----------
    weights, aggregate, resources
    private : PrivateRounds, optional
        Decrypts the seed of the noise of a private aggregate.

    Returns
    -------
    str
        What was verified, in words.

    Raises
    ------
    AuditMismatch
    NotVerifiable
    """
    made_by = AggregationRound.objects.filter(aggregate=aggregate).first()
    if made_by is None:
        raise NotVerifiable(f"no round is known that made {aggregate}")
    config = config_snapshot_of(made_by)
    stored = _sources(weights, aggregate)
    nbytes = sum(each.size for each in stored)
    original = config.get("rolled_back_to")
    if original:
        earlier = _sources(weights, ModelAggregate.objects.get(pk=original))
        if len(earlier) != len(stored):
            raise AuditMismatch("only one of the two aggregates has the state of an optimizer")
        for source, copy in zip(earlier, stored, strict=True):
            compare(source, copy)
        return f"{nbytes} bytes are those of aggregate {original}, as the rollback says"
    if made_by.external:
        raise NotVerifiable(
            f"{aggregate} was computed by a workflow that called the connector step by step: "
            "how it was computed is not known here"
        )
    used = list(
        made_by.updates.filter(status=UpdateStatus.COMPLETE, applied_aggregate=aggregate)
        .select_related("base_aggregate")
        .order_by("client_id")
    )
    rule = _rule(made_by, used, private)
    try:
        _recompute(weights, made_by, used, stored, resources, rule)
    except AuditMismatch as error:
        raise AuditMismatch(f"{error}{_describe_replaced(weights, used)}") from error
    optimizer = f" and {config['server_optimizer']}" if len(stored) > 1 else ""
    with_noise = " and noise" if made_by.differential_privacy else ""
    return (
        f"{nbytes} bytes follow from {len(used)} updates by {config['rule']}{optimizer}{with_noise}"
    )


def _rule(
    made_by: AggregationRound, used: list[ModelUpdate], private: PrivateRounds | None
) -> Rule:
    """Return the rule of a round; that of a private round with its noise.

    Raises
    ------
    NotVerifiable
        If the seed of the noise was destroyed, or cannot be decrypted.
    """
    config, rule = config_snapshot_of(made_by), private_rule(made_by)
    if rule is None:
        return rule_of(config)
    from connectors.storage.seeds import SeedUnavailable

    try:
        if private is None:
            raise SeedUnavailable("no key was given")
        seed = private.vault.open(made_by.federated_model_id, made_by.sealed_seed)
    except SeedUnavailable as error:
        raise NotVerifiable(f"the noise of a private aggregate is unknown: {error}") from error
    claimed = [claimed_update(update, made_by.number, config) for update in used]
    return rule_with_noise(rule, seed, claimed)


def _sources(weights: WeightStore, aggregate: ModelAggregate) -> list[ByteSource]:
    """Return the bytes of an aggregate, and of the state of its optimizer if it has one."""
    keys = (aggregate.result.name, aggregate.optimizer_state.name)
    return [_source(weights, str(key)) for key in keys if key]


def _source(weights: WeightStore, key: str) -> ByteSource:
    try:
        stored = weights.objects.stat(key)
    except UpdateRejected as error:
        raise NotVerifiable(f"{key}: {error}") from error
    return weights.objects.source(key, size=stored.size, etag=stored.etag)


def _describe_replaced(weights: WeightStore, used: list[ModelUpdate]) -> str:
    """Return a clause that names the updates whose objects are not those that intake saw."""
    replaced = []
    for update in used:
        try:
            version = _readable_version(weights, update)
            weights.objects.stat(str(update.data.name), etag=update.etag, version=version)
        except UpdateRejected:
            replaced.append(update.pk)
    return f"; the objects of updates {replaced} are not those that intake saw" if replaced else ""


def _readable_version(weights: WeightStore, update: ModelUpdate) -> str:
    """Return the version of an update's object that its round read; empty if there is none any more."""
    if update.version_id:
        try:
            weights.objects.stat(str(update.data.name), version=update.version_id)
        # S3 may refuse to say that a version does not exist.
        except (ObjectMissing, ServiceRefused):
            return ""
    return update.version_id


def _recompute(
    weights: WeightStore,
    made_by: AggregationRound,
    used: list[ModelUpdate],
    stored: list[ByteSource],
    resources: Resources,
    rule: Rule,
) -> None:
    """Repeat the round's combination, and compare its result instead of storing it."""
    config = config_snapshot_of(made_by)
    with Spool() as spool, TemporaryDirectory(prefix="verify-") as folder:
        try:
            parent = weights.open_own(config["parent"], spool) if config["parent"] else None
            state = config["optimizer_state"]
            step: dict[str, Any] = {
                "parent": parent,
                "optimizer": create_optimizer(
                    config["server_optimizer"], config["server_optimizer_args"]
                ),
                "optimizer_state": weights.open_own(state, None) if state else None,
            }
        except InvalidWeights as error:
            raise NotVerifiable(f"the parent of the aggregate: {error}") from error
        if "secure_aggregation" in config:
            work = _masked_work(weights, made_by, used, rule, resources, Path(folder), step)
        else:
            work = _work(weights, made_by, used, rule, resources, spool, step)
        sinks = [ComparingSink(each) for each in stored]
        if len(sinks) != (2 if work.state else 1):
            raise AuditMismatch("the state of the optimizer is missing, or there should be none")
        combine(work, sinks[0], state_sink=sinks[-1], resources=resources)


def _work(
    weights: WeightStore,
    made_by: AggregationRound,
    used: list[ModelUpdate],
    rule: Rule,
    resources: Resources,
    spool: Spool,
    step: Mapping[str, Any],
) -> Combination:
    """Return the combination of a round; ``step`` are the parent and the terms of the optimizer."""
    config, parent = config_snapshot_of(made_by), step["parent"]
    claimed = [claimed_update(update, made_by.number, config) for update in used]
    differences = config["update_kind"] == FederatedModel.UpdateKind.DIFFERENCES
    bases = Bases(
        weights.open_own,
        staleness=create_staleness(config["staleness"], config["staleness_args"]),
        differences=differences,
        location=config["parent"],
        parent=parent,
    )
    bases.open(claimed, spool)
    if bases.rejected:
        raise NotVerifiable("; ".join(bases.rejected.values()))
    policies = TensorPolicies.from_json(config["policies"])
    expected_layout = policies.expected_layout(parent.layout if parent else None)
    return Combination(
        rule=rule,
        updates=_open_updates(weights, used, expected_layout, spool, resources.readers),
        num_examples=[update.num_examples for update in claimed],
        differences=differences,
        policies=policies,
        num_steps=stated_steps(claimed),
        directions=[update.direction for update in claimed],
        **step,
        **bases.terms(claimed),
    )


def _masked_work(
    weights: WeightStore,
    made_by: AggregationRound,
    used: list[ModelUpdate],
    rule: Rule,
    resources: Resources,
    folder: Path,
    step: Mapping[str, Any],
) -> Combination:
    """Return the combination of a round of masked updates, as `_work` does."""
    # Imported where updates are masked, and nowhere else.
    from connectors.usecases.verify_masked import recomputed_step

    if step["parent"] is None:
        raise NotVerifiable("the parent of the aggregate is not known")
    try:
        sources = [
            weights.source(str(each.data.name), version=_readable_version(weights, each))
            for each in used
        ]
        return recomputed_step(weights, made_by, sources, rule, resources, folder, **step)
    except (UpdateRejected, UpdatesRejected) as error:
        raise NotVerifiable(f"the masked updates or the sum of their masks: {error}") from error


def _open_updates(
    store: WeightStore,
    used: list[ModelUpdate],
    expected_layout: TensorLayout | None,
    spool: Spool,
    readers: int,
) -> list[Weights]:
    """Open all updates that were used: without one, the aggregate cannot be verified.

    The version that the round read is read again, if the bucket still has it; otherwise whatever is
    there. ETags are not compared: if the recomputed bytes are the aggregate's, the objects are the same,
    also in a copy of the bucket, where all ETags and versions differ.
    """

    def opener(update: ModelUpdate) -> Opener:
        key, version = str(update.data.name), _readable_version(store, update)
        return lambda expected_layout, share: store.open(
            key, version=version, expected_layout=expected_layout, spool=share
        )

    openers = {update.pk: opener(update) for update in used}
    opened, rejected = open_consistent(openers, expected_layout, readers, spool)
    if rejected or not opened:
        why = "; ".join(f"update {pk}: {reason}" for pk, reason in rejected.items())
        raise NotVerifiable(f"its updates are not in storage any more: {why or 'none is known'}")
    return list(opened.values())
