"""The mean of a round with central differential privacy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from aggregation.errors import RuleError, quoted
from aggregation.policies import Policy, PolicyMap, TensorPolicies
from aggregation.privacy.accounting import MAX_ELEMENTS, charge, epsilon
from aggregation.privacy.discrete_gaussian import LARGEST
from aggregation.privacy.grid import clip_factors, grid_step, largest_integer, to_grid
from aggregation.privacy.settings import DifferentialPrivacy
from aggregation.rules.base import Float64s, Numbers, Rule, Selection, Statistics
from aggregation.rules.mean import UnweightedMean
from aggregation.rules.sums import GROUP, Rows

if TYPE_CHECKING:
    from aggregation.privacy.noise import Noise

#: Policies of tensors whose values are not released, or with noise.
ACCEPTED = (Policy.OPTIMIZE, Policy.KEEP, Policy.EXCLUDE, Policy.FROZEN)

#: Columns that are added at once: their float64 rows stay in the processor's cache.
_COLUMNS = 16 << 10


@dataclass(frozen=True)
class PrivateMean(Rule):
    """The sum of the clipped differences from the parent, with noise, divided by a fixed number.

    ``parent + (sum_k round(d_k min(1, clip_norm / |d_k|)) + noise) / cohort``. Differences are rounded
    towards zero to an integer grid, on which the noise is a discrete Gaussian. All sums are sums of
    integers, so that their order does not matter.

    Parameters
    ----------
    settings : DifferentialPrivacy
    noise : Noise, optional
        Needed to combine, but not to select.
    """

    settings: DifferentialPrivacy
    noise: Noise | None = field(default=None, repr=False, compare=False)

    name: ClassVar[str] = UnweightedMean.name  # type: ignore[misc]
    needs_norms: ClassVar[bool] = True  # type: ignore[misc]
    on_differences: ClassVar[bool] = True  # type: ignore[misc]
    linear: ClassVar[bool] = True  # type: ignore[misc]
    robust: ClassVar[bool] = False  # type: ignore[misc]
    is_private: ClassVar[bool] = True  # type: ignore[misc]

    def with_noise(self, noise: Noise) -> PrivateMean:
        """Return the rule with the noise of a round."""
        return replace(self, noise=noise)

    def select(self, statistics: Statistics) -> Selection:
        n = len(statistics.squared_norms)
        if n * largest_integer(self.settings) + LARGEST >= 1 << 53:
            raise RuleError(
                f"the sum of {n} updates is exact with a noise_multiplier of "
                f"{n / (1 << 27):.3g} or more; got {self.settings.noise_multiplier}"
            )
        factors = clip_factors(np.sqrt(statistics.squared_norms), self.settings)
        return Selection(
            members=tuple(range(n)),
            coefficients=tuple(factors.tolist()),
            total=float(self.settings.cohort),
        )

    def combine(
        self, block: Rows, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        raise RuleError("noise belongs to the places of elements: use combine_at")

    def combine_at(
        self, start: int, block: Rows, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        if self.noise is None:
            raise RuleError("the noise of this round is not known: its seed is needed")
        total = self.noise.integers(start, block.shape[1]).astype(np.float64)
        for first in range(0, len(selection.coefficients), GROUP):
            group = slice(first, first + GROUP)
            self._add(total, block[group], selection.coefficients[group], centre)
        return np.multiply(total, grid_step(self.settings) / self.settings.cohort, out=total)

    def _add(
        self, total: Float64s, rows: Numbers, factors: Sequence[float], centre: Float64s | None
    ) -> None:
        """Add the clipped differences of some rows to a sum on the grid."""
        term = np.empty(min(_COLUMNS, len(total)))
        for first in range(0, len(total), _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            of_columns = total[columns]
            difference = term[: len(of_columns)]
            for row, factor in zip(rows, factors, strict=True):
                np.copyto(difference, row[columns])
                if centre is not None:
                    np.subtract(difference, centre[columns], out=difference)
                np.add(of_columns, to_grid(difference, factor, self.settings), out=of_columns)

    def published(
        self, selection: Selection, norms: Sequence[float] | None
    ) -> tuple[Selection, Sequence[float] | None]:
        """Return equal coefficients and no norms, since those are not covered by noise."""
        equal = (1.0,) * len(selection.members)
        return replace(selection, coefficients=equal), None


def private_mean(
    rule: Rule, settings: DifferentialPrivacy, policies: TensorPolicies, *, discounts: bool = False
) -> PrivateMean:
    """Return the rule that adds noise, of a model's rule.

    Parameters
    ----------
    rule : Rule
        ``unweighted_mean``, without steps before it.
    settings : DifferentialPrivacy
    policies : TensorPolicies
    discounts : bool
        Whether the model discounts late updates.

    Raises
    ------
    RuleError
        If the guarantee would not hold.
    """
    if type(rule) is not UnweightedMean:
        raise RuleError(
            f"differential privacy needs the rule {UnweightedMean.name} without steps before it, in which "
            f"no update has more influence than its clipped difference; got {rule.name}"
        )
    if discounts:
        raise RuleError(
            "differential privacy measures differences from the latest aggregate, and a discount for late "
            "updates those from older ones: leave staleness empty"
        )
    for glob, policy in policies.pairs:
        if policy not in ACCEPTED:
            raise RuleError(_unprotected(glob, policy))
    of_one_round = epsilon(charge(settings, 1), settings.delta)
    if of_one_round > settings.max_epsilon:
        raise RuleError(
            f"one round has an epsilon of {of_one_round:.4g}, and max_epsilon is {settings.max_epsilon}: "
            "choose a larger noise_multiplier"
        )
    return PrivateMean(settings)


def check_tensors(policy_map: PolicyMap) -> None:
    """Refuse tensors that a round would release without noise.

    Raises
    ------
    RuleError
    """
    elements = optimized_elements(policy_map)
    if not 1 <= elements <= MAX_ELEMENTS:
        raise RuleError(
            f"differential privacy needs 1 to {MAX_ELEMENTS} optimized elements; there are {elements}"
        )
    for run in policy_map.runs:
        tensor = policy_map.layout.tensor_of(run.start)
        if run.policy not in ACCEPTED:
            raise RuleError(_unprotected(tensor.name, run.policy))
        if run.policy is Policy.OPTIMIZE and not run.is_measured:
            raise RuleError(
                f"tensor {quoted(tensor.name)} holds {run.dtype}, and differential privacy covers "
                "floating-point tensors: give integers the policy keep"
            )


def optimized_elements(policy_map: PolicyMap) -> int:
    """Return the number of elements that a round releases with noise."""
    return sum(run.stop - run.start for run in policy_map.runs if run.is_measured)


def _unprotected(tensor: str, policy: Policy) -> str:
    accepted = ", ".join(policy for policy in ACCEPTED if policy is not Policy.FROZEN)
    return (
        f"with the policy {policy}, {quoted(tensor)} would be released without noise: differential "
        f"privacy takes {accepted}"
    )
