"""A rule with the steps before it, which the engine runs like any other rule."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from aggregation.errors import RuleError
from aggregation.pre_aggregation.base import (
    PreAggregation,
    create_pre_aggregation,
    mixed_statistics,
)
from aggregation.rules import Rule, create_rule
from aggregation.rules.base import Float64s, Numbers, Selection, Statistics
from aggregation.rules.clipping import NormFilteredMean
from aggregation.rules.selection import Mixture

#: Bytes of updates and mixed rows, in float64, that a thread holds: they stay in the processor's cache.
MIXED_BYTES = 1 << 20

#: Bytes of a new seed, and of the longest that is used whole.
SEED_BYTES, MAX_SEED_BYTES = 32, 64


@dataclass(frozen=True)
class PreAggregatedRule(Rule):
    """A rule that combines mixtures of the updates instead of the updates.

    All steps are linear, so that the statistics of the rows follow from those of the updates: measuring
    reads the updates once, and a linear rule combines them in one weighted sum, as without steps.

    Parameters
    ----------
    rule : Rule
    steps : tuple of PreAggregation
        In the order in which they are applied; at least one.
    seed : bytes, optional
        Secret, for steps with `PreAggregation.needs_seed`.
    """

    rule: Rule
    steps: tuple[PreAggregation, ...]
    seed: bytes = field(default=b"", repr=False)
    name: str = field(init=False)
    weighs_by_examples: bool = field(init=False)
    needs_gram: bool = field(init=False)
    needs_norms: bool = field(init=False)
    needs_steps: bool = field(init=False)
    needs_directions: bool = field(init=False)
    robust: bool = field(init=False)
    on_differences: bool = field(init=False)
    linear: bool = field(init=False)

    def __post_init__(self) -> None:
        gram, norms = self.rule.needs_gram, self.rule.needs_norms
        for step in reversed(self.steps):
            # The norm of a mean does not follow from the norms of what is averaged.
            gram = gram or step.needs_gram or (norms and not step.one_by_one)
            norms = norms or step.needs_norms
        derived = {
            "name": " + ".join([*map(str, self.steps), self.rule.name]),
            "weighs_by_examples": self.rule.weighs_by_examples,
            "needs_gram": gram,
            "needs_norms": norms,
            "needs_steps": self.rule.needs_steps,
            "needs_directions": self.rule.needs_directions,
            "robust": self.rule.robust,
            "on_differences": self.rule.on_differences
            or any(step.on_differences for step in self.steps),
            "linear": self.rule.linear,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def min_updates(self) -> int:
        needed = self.rule.min_updates
        for step in reversed(self.steps):
            needed = step.updates_for(needed)
        return needed

    def max_hostile(self, n: int) -> int:
        withstood = n
        for step in self.steps:
            withstood = min(withstood, step.max_hostile(n))
            n = step.rows(n)
        return min(withstood, self.rule.max_hostile(n))

    def select(self, statistics: Statistics) -> Selection:
        mixture, rows = self.mix(statistics)
        return self.rule.select(rows).of_updates(mixture, linear=self.linear)

    def mix(self, statistics: Statistics) -> tuple[Mixture, Statistics]:
        """Return the mixture of all steps, and the statistics of its rows."""
        whole: Mixture | None = None
        for step in self.steps:
            mixture = step.mix(statistics, self.seed)
            statistics = mixed_statistics(step, mixture, statistics)
            whole = mixture.after(whole) if whole else mixture
        assert whole is not None  # noqa: S101 - there is a step
        return whole, statistics

    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        if selection.mixture is None or selection.of_mixed is None:
            return self.rule.combine(block, selection, centre)
        result = np.empty(block.shape[1])
        rows_held = len(block) + len(selection.mixture.coefficients)
        columns = max(1, MIXED_BYTES // (8 * rows_held))
        for first in range(0, block.shape[1], columns):
            cut = slice(first, first + columns)
            rows = selection.mixture.rows(block[:, cut], None if centre is None else centre[cut])
            result[cut] = self.rule.combine(rows, selection.of_mixed)
        return result


def build_rule(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    pre_aggregation: Sequence[str] = (),
    seed: str = "",
) -> Rule:
    """Return a rule with the steps before it.

    Parameters
    ----------
    name, arguments
        Of the rule.
    pre_aggregation : sequence of str
        The steps in their order, such as ``["arc(f=2)", "nnm(f=2)"]``.
    seed : str
        Secret, in hexadecimal digits; without it, a step that needs one is checked and cannot be used.

    Raises
    ------
    RuleError
        If a name or an argument is not valid, a step is given twice, or the steps only mix updates before a
        rule that withstands no hostile one.
    """
    rule = create_rule(name, arguments)
    steps = create_steps(pre_aggregation)
    if not steps:
        return rule
    _check_fits(rule, steps)
    return PreAggregatedRule(rule, steps, _seed_bytes(seed))


def _seed_bytes(seed: str) -> bytes:
    try:
        return bytes.fromhex(seed)[:MAX_SEED_BYTES]
    except (TypeError, ValueError) as error:
        raise RuleError("a seed is given in hexadecimal digits") from error


def create_steps(pre_aggregation: object) -> tuple[PreAggregation, ...]:
    """Return the steps of their notations.

    Raises
    ------
    RuleError
    """
    if not isinstance(pre_aggregation, Sequence) or isinstance(pre_aggregation, str | bytes):
        raise RuleError(f'expected a list of steps, such as ["nnm(f=2)"]; got {pre_aggregation!r}')
    steps = tuple(create_pre_aggregation(text) for text in pre_aggregation)
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise RuleError(f"the step {name} is given twice")
    return steps


def _check_fits(rule: Rule, steps: Sequence[PreAggregation]) -> None:
    """Refuse steps with which a rule is no more robust than without them."""
    grouping = [step.name for step in steps if step.groups]
    if rule.needs_directions and grouping:
        raise RuleError(
            f"{rule.name} remembers clients, and {grouping[0]} groups them differently in each round"
        )
    equal = [step.name for step in steps if step.equal_norms]
    if isinstance(rule, NormFilteredMean) and equal:
        raise RuleError(f"{rule.name} compares norms, and {equal[0]} makes many of them equal")
    mixing = [step.name for step in steps if not step.one_by_one]
    if mixing and not rule.max_hostile(1_000_000):
        raise RuleError(
            f"{rule.name} withstands no hostile update with these arguments, and {mixing[0]} does not "
            "change that: choose a robust rule, or arguments with which it withstands some"
        )


def needs_seed(pre_aggregation: Sequence[str]) -> bool:
    """Return whether one of the steps needs a secret seed."""
    return any(step.needs_seed for step in create_steps(pre_aggregation))


def new_seed() -> str:
    """Return a secret seed, in hexadecimal digits."""
    return secrets.token_hex(SEED_BYTES)


def rule_to_json(rule: Rule) -> dict[str, Any]:
    """Return a rule with the steps before it as JSON-able data; it contains the secret seed."""
    if isinstance(rule, PreAggregatedRule):
        steps = [str(step) for step in rule.steps]
        return rule_to_json(rule.rule) | {"pre_aggregation": steps, "seed": rule.seed.hex()}
    if rule.is_private:
        return {"name": rule.name, "differential_privacy": rule.settings.to_json()}  # type: ignore[attr-defined]
    return {"name": rule.name, "arguments": asdict(rule)}  # type: ignore[call-overload]


def rule_from_json(saved: Mapping[str, Any]) -> Rule:
    """Return the rule that `rule_to_json` gave."""
    if "differential_privacy" in saved:
        from aggregation.privacy.rule import PrivateMean
        from aggregation.privacy.settings import DifferentialPrivacy

        return PrivateMean(DifferentialPrivacy(**saved["differential_privacy"]))
    steps, seed = saved.get("pre_aggregation", ()), saved.get("seed", "")
    return build_rule(saved["name"], saved["arguments"], steps, seed)
