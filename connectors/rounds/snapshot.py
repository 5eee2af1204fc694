"""The settings of a model that a round keeps from its claim to its end."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, cast

from models_app.models import AggregationRound, FederatedModel


class ConfigSnapshot(TypedDict):
    """What the result of a round depends on beside its updates, as it was when they were claimed.

    An attempt that takes the round over computes the same result, whatever an operator has changed since.
    """

    rule: str
    rule_args: dict[str, Any]
    requirement: str
    requirement_args: Any
    #: Number of the model's clients that were not paused.
    members: int
    update_kind: str
    max_num_examples: int | None
    #: Key of the aggregate or initial model that the result succeeds.
    parent: str | None
    #: Id of the aggregate whose bytes a rollback published again.
    rolled_back_to: NotRequired[int]


def take_config_snapshot(model: FederatedModel, members: int, parent: str | None) -> ConfigSnapshot:
    """Return the model's settings as they are now."""
    return ConfigSnapshot(
        rule=model.aggregator,
        rule_args=model.aggregator_args,
        requirement=model.requirement,
        requirement_args=model.requirement_args,
        members=members,
        update_kind=model.update_kind,
        max_num_examples=model.max_num_examples,
        parent=parent,
    )


def config_snapshot_of(held: AggregationRound) -> ConfigSnapshot:
    """Return the settings that a round keeps."""
    return cast(ConfigSnapshot, held.config_snapshot)
