"""The settings of a model that a round keeps from its claim to its end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

from aggregation.counts import capped_examples, default_cap
from aggregation.pre_aggregation import build_rule, needs_seed, new_seed
from aggregation.round import ClaimedUpdate, SecureTerms
from aggregation.rules import Rule
from models_app.models import AggregationRound, FederatedModel, ModelUpdate


class ConfigSnapshot(TypedDict):
    """The model's settings that determine a round's result, as they were when its updates were claimed.

    An attempt that takes the round over computes the same result, even if an operator
    has changed the settings since.
    """

    rule: str
    rule_args: dict[str, Any]
    #: Steps before the rule.
    pre_aggregation: NotRequired[list[str]]
    #: Sums of the cosines of the clients' earlier updates, by the ids of those of this round.
    directions: NotRequired[dict[str, float]]
    #: Secret, for a step that needs one; drawn when the updates have been chosen.
    seed: NotRequired[str]
    #: The settings of secure aggregation, and the cap of the weights.
    secure_aggregation: NotRequired[dict[str, Any]]
    max_weight: NotRequired[int]
    #: A random number by which the mask keeper knows the round.
    mask_round: NotRequired[int]
    requirement: str
    requirement_args: Any
    #: Number of the model's clients that were not paused.
    members: int
    update_kind: str
    max_num_examples: int | None
    staleness: str
    staleness_args: dict[str, Any]
    #: Key of the initial model, from which an update without a base was trained.
    initial: str | None
    #: `TensorPolicies.to_json` for this round.
    policies: dict[str, Any]
    #: Key of the aggregate or initial model that the result succeeds.
    parent: str | None
    server_optimizer: str
    server_optimizer_args: dict[str, Any]
    #: Key of the state that the optimizer left with the parent; None if it starts.
    optimizer_state: str | None
    #: Id of the aggregate whose bytes a rollback published again.
    rolled_back_to: NotRequired[int]


def take_config_snapshot(
    model: FederatedModel,
    members: int,
    parent: str | None,
    optimizer_state: str | None,
    number: int,
    num_examples: Sequence[int] = (),
) -> ConfigSnapshot:
    """Return the model's settings as they are now.

    Parameters
    ----------
    model : FederatedModel
    members : int
    parent : str or None
        Key of the weights that the result succeeds.
    optimizer_state : str or None
        Key of the state that the model's optimizer left with them.
    number : int
        Of the aggregate that the round makes.
    num_examples : sequence of int
        What the updates claim. If the model sets no cap, the default cap follows from them
        (docs/decisions/2026-11-28-default-caps.md).
    """
    config = ConfigSnapshot(
        rule=model.aggregator,
        rule_args=model.aggregator_args,
        requirement=model.requirement,
        requirement_args=model.requirement_args,
        members=members,
        update_kind=model.update_kind,
        max_num_examples=model.max_num_examples or _default_cap(model, num_examples),
        staleness=model.staleness,
        staleness_args=model.staleness_args,
        initial=str(model.current_artifact.values.name) if model.current_artifact else None,
        policies=model.policies(number - 1).to_json(),
        parent=parent,
        server_optimizer=model.server_optimizer,
        server_optimizer_args=model.server_optimizer_args,
        optimizer_state=optimizer_state,
    )
    if model.pre_aggregation:
        config["pre_aggregation"] = model.pre_aggregation
        if needs_seed(model.pre_aggregation):
            config["seed"] = new_seed()
    secure = model.secure_terms()
    if secure:
        config["secure_aggregation"] = secure.settings.to_json()
        config["max_weight"] = secure.max_weight
        config["mask_round"] = 1 + secrets.randbelow(1 << 53)
    return config


def secure_terms_of(config: ConfigSnapshot) -> SecureTerms | None:
    """Return how the updates of a round were masked, if they were."""
    if "secure_aggregation" not in config:
        return None
    from aggregation.masks.settings import SecureAggregation

    settings = SecureAggregation(**config["secure_aggregation"])
    return SecureTerms(
        settings=settings, max_weight=config["max_weight"], round=config["mask_round"]
    )


def rule_of(config: ConfigSnapshot) -> Rule:
    """Return the rule of a round, with the steps before it.

    Raises
    ------
    RuleError
        If the deployed version does not know it.
    """
    return build_rule(
        config["rule"],
        config["rule_args"],
        config.get("pre_aggregation", ()),
        config.get("seed", ""),
    )


def claimed_update(update: ModelUpdate, number: int, config: ConfigSnapshot) -> ClaimedUpdate:
    """Return an update as its round uses it.

    Parameters
    ----------
    update : ModelUpdate
        With its base.
    number : int
        Of the round, one more than that of its parent.
    config : ConfigSnapshot
        Of the round.
    """
    base = update.base_aggregate
    return ClaimedUpdate(
        id=update.pk,
        num_examples=capped_examples(update.num_examples, config["max_num_examples"]),
        location=str(update.data.name),
        size=update.size,
        etag=update.etag,
        version=update.version_id,
        num_steps=update.num_steps,
        rounds_late=max(0, number - 1 - (base.number if base else 0)),
        base=str(base.result.name) if base else config["initial"],
        direction=config.get("directions", {}).get(str(update.pk), 0.0),
    )


def _default_cap(model: FederatedModel, num_examples: Sequence[int]) -> int | None:
    robust = model.rule().max_hostile(len(num_examples)) > 0
    return default_cap(num_examples, robust=robust)


def config_snapshot_of(held: AggregationRound) -> ConfigSnapshot:
    """Return the settings that a round keeps."""
    return cast(ConfigSnapshot, held.config_snapshot)


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a round as they may be shown."""
    return {name: value for name, value in config.items() if name != "seed"}
