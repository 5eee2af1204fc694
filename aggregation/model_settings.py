"""The settings of a federated model that decide what a round makes of its updates, as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from aggregation.arguments import whole_number
from aggregation.errors import RuleError
from aggregation.optimizers import NO_OPTIMIZER, Optimizer, create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import build_rule, create_steps
from aggregation.requirements import AnyUpdate, Requirement, create_requirement
from aggregation.rules import Rule
from aggregation.staleness import Staleness, check_discountable, create_staleness

if TYPE_CHECKING:
    from aggregation.privacy.settings import DifferentialPrivacy

#: The key of the settings in the document that the laboratory writes and `create_model --from` reads.
KEY = "federated_model"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The settings of a federated model; the names are those of the fields of the model's table.

    Parameters
    ----------
    aggregator, aggregator_args
        The rule.
    pre_aggregation
        The steps before the rule, such as ``["nnm(f=2)"]``.
    server_optimizer, server_optimizer_args
        The server optimizer.
    tensor_policies
        Pairs of a glob and a policy.
    max_num_examples
        The most examples that an update counts; None for a multiple of the median of its round.
    staleness, staleness_args, furthest_base_agg
        How late updates are discounted, and how old they may be.
    requirement, requirement_args
        When a round may start; None leaves it to the model.
    differential_privacy
        The arguments of `aggregation.privacy.settings.DifferentialPrivacy`; None for none.

    Raises
    ------
    RuleError
        If a setting is not valid, or settings contradict each other.
    """

    aggregator: str = "weighted_mean"
    aggregator_args: Mapping[str, Any] = field(default_factory=dict)
    pre_aggregation: Sequence[str] = ()
    server_optimizer: str = NO_OPTIMIZER.name
    server_optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    tensor_policies: Sequence[Sequence[str]] = ()
    max_num_examples: int | None = None
    staleness: str = ""
    staleness_args: Mapping[str, Any] = field(default_factory=dict)
    furthest_base_agg: int | None = None
    requirement: str | None = None
    requirement_args: Any = None
    differential_privacy: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        create_steps(self.pre_aggregation)
        self.optimizer()
        self.policies()
        self.requirement_object()
        for name in ("max_num_examples", "furthest_base_agg"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), at_least=1)
        check_discountable(self.rule(), self.staleness_object())
        if self.staleness and self.furthest_base_agg is None:
            raise RuleError(
                "staleness needs furthest_base_agg: how many of the latest aggregates an update may be "
                "based on"
            )
        object.__setattr__(self, "pre_aggregation", tuple(self.pre_aggregation))
        object.__setattr__(self, "tensor_policies", tuple(map(tuple, self.tensor_policies)))

    def rule(self, seed: str = "") -> Rule:
        """Return the rule with the steps before it, or that of a private model without its noise."""
        rule = build_rule(self.aggregator, self.aggregator_args, self.pre_aggregation, seed)
        private = self.privacy()
        if private is None:
            return rule
        from aggregation.privacy.rule import private_mean

        return private_mean(rule, private, self.policies(), discounts=bool(self.staleness))

    def privacy(self) -> DifferentialPrivacy | None:
        """Return the settings of differential privacy; None if there is none."""
        if self.differential_privacy is None:
            return None
        from aggregation.privacy.settings import create_differential_privacy  # Few models need it.

        private = create_differential_privacy(self.differential_privacy)
        if private is None:
            raise RuleError("differential_privacy is empty: give its settings, or None")
        return private

    def optimizer(self) -> Optimizer:
        """Return the server optimizer."""
        return create_optimizer(self.server_optimizer, self.server_optimizer_args)

    def policies(self) -> TensorPolicies:
        """Return the policies of the tensors."""
        return TensorPolicies.from_list(self.tensor_policies)

    def staleness_object(self) -> Staleness:
        """Return the discount of late updates."""
        return create_staleness(self.staleness, self.staleness_args)

    def requirement_object(self) -> Requirement:
        """Return the requirement; if there is none, any update meets it."""
        if self.requirement is None:
            return AnyUpdate()
        return create_requirement(self.requirement, self.requirement_args)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able data, without those that are left to the model."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["pre_aggregation"] = list(self.pre_aggregation)
        values["tensor_policies"] = [list(pair) for pair in self.tensor_policies]
        for name in ("aggregator_args", "server_optimizer_args", "staleness_args"):
            values[name] = dict(values[name])
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, saved: Any) -> ModelSettings:
        """Return the settings of a document that has them under `KEY`.

        Raises
        ------
        RuleError
            If it is not such a document, or a setting is unknown or not valid.
        """
        settings = saved.get(KEY) if isinstance(saved, Mapping) else None
        if not isinstance(settings, Mapping):
            raise RuleError(f'expected an object with the settings under "{KEY}"')
        known = [each.name for each in fields(cls)]
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise RuleError(f"unknown setting {unknown[0]!r:.80}; known are {', '.join(known)}")
        try:
            return cls(**settings)
        except TypeError as error:
            raise RuleError(f"a setting has the wrong type: {error}") from error
