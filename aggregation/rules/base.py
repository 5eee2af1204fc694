"""The interface of an aggregation rule: two small functions, `Rule.select` and `Rule.combine`.

A rule is added by writing one module with a frozen dataclass whose fields are the rule's arguments.
`@register` adds its name to the registry, the choices in the admin and the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from aggregation.arguments import instantiate
from aggregation.errors import RuleError
from aggregation.rules.selection import Float64s as Float64s
from aggregation.rules.selection import Selection as Selection
from aggregation.rules.sums import Rows, weighted_sum

Floats = NDArray[np.floating[Any]]
Numbers = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known about a round's updates before they are combined.

    Parameters
    ----------
    num_examples : (n,) float64
        The count of each update, capped by the model's setting; all positive.
    gram : (n, n) float64, optional
        Inner products of the updates' differences from a common centre, which is the parent aggregate
        for rules with `Rule.on_differences`. Only for rules with `Rule.needs_gram`.
    squares : (n,) float64, optional
        The diagonal of that matrix. Only for rules with `Rule.needs_norms`.
    num_steps : (n,) float64, optional
        Steps of local training, positive. Only for rules with `Rule.needs_steps`.
    directions : (n,) float64, optional
        Sum of the cosines of each client's earlier updates with the aggregates that they were part of.
        Only for rules with `Rule.needs_directions`; None in the first round.
    """

    num_examples: Float64s
    gram: Float64s | None = None
    squares: Float64s | None = None
    num_steps: Float64s | None = None
    directions: Float64s | None = None

    @cached_property
    def inner_products(self) -> Float64s:
        """`gram`, for a rule that needs it."""
        if self.gram is None:
            raise RuleError("this rule needs the Gram matrix of the updates")
        return self.gram

    @cached_property
    def squared_norms(self) -> Float64s:
        """(n,) squared Euclidean distance of each update from the centre."""
        return np.diagonal(self.inner_products) if self.squares is None else self.squares

    @cached_property
    def steps(self) -> Float64s:
        """`num_steps`, for a rule that needs it."""
        if self.num_steps is None:
            raise RuleError("this rule needs the number of steps that each client trained for")
        return self.num_steps

    @cached_property
    def squared_distances(self) -> Float64s:
        """(n, n) squared Euclidean distances between updates; zero on the diagonal.

        ``|a - b|^2 = <a, a> + <b, b> - 2 <a, b>``, for any centre. A distance that overflows
        float64 is infinite.
        """
        norms = np.diagonal(self.inner_products)
        with np.errstate(over="ignore", invalid="ignore"):
            distances = np.add.outer(norms, norms)
            distances -= 2.0 * self.inner_products
        np.nan_to_num(distances, copy=False, nan=np.inf, posinf=np.inf)
        distances.clip(min=0.0, out=distances)
        np.fill_diagonal(distances, 0.0)
        return distances


class Rule(ABC):
    """Base of all rules.

    A rule never sees storage, clients or a whole model. It must be a function of its arguments only, and
    `combine` a function of each column alone. This makes a result independent of how the model was cut
    into chunks.
    """

    name: str

    #: Other names under which the rule is accepted.
    aliases: ClassVar[tuple[str, ...]] = ()

    #: Whether an update's weight depends on the number of examples that its client claims.
    weighs_by_examples: bool = False

    #: Whether `select` needs `Statistics.gram`, which costs one more pass over the updates.
    needs_gram: bool = False

    #: Whether `select` needs `Statistics.squares`: one more pass as well, but with less to compute.
    needs_norms: bool = False

    #: Whether `select` needs `Statistics.num_steps`, which clients state with their updates.
    needs_steps: bool = False

    #: Whether `select` uses `Statistics.directions`, which are recorded with the updates of each round.
    needs_directions: bool = False

    #: Whether the rule measures and combines the updates' differences from the parent aggregate.
    on_differences: bool = False

    #: Whether the result is a weighted sum of the rows. If so, a value that is not finite in any row
    #: shows in the sum, and the rows are passed a few at a time, in the dtype they are stored in.
    linear: bool = False

    #: Whether the rule withstands hostile updates. If so, tensors of which only the average is wanted,
    #: such as running statistics, take the coordinate-wise median of all updates: a rule that trusts
    #: the updates by their distances has not measured these tensors.
    robust: bool = True

    #: Whether the result contains noise that hides each update (`aggregation.privacy`).
    is_private: bool = False

    @property
    def min_updates(self) -> int:
        """The fewest updates with which the rule is defined and withstands what it claims to."""
        return 1

    def max_hostile(self, n: int) -> int:
        """Return how many of ``n`` updates may be hostile.

        With no more than that, whatever finite values they have, the result stays within the distance
        of the honest updates that the rule's docstring states. 0 if there is no such bound.
        """
        return 0

    @abstractmethod
    def select(self, statistics: Statistics) -> Selection:
        """Return which updates are combined, and with which coefficients.

        Called once in a round, with at least `min_updates` updates.
        """

    @abstractmethod
    def combine(
        self, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        """Combine one block of the members' values.

        Parameters
        ----------
        block : (n_members, n_elements)
            Row ``i`` belongs to ``selection.members[i]``. float32 or float64. May be overwritten, since
            it is scratch space of the engine. A `linear` rule gets `Rows` of any numeric dtype.
        selection : Selection
            The result of `select`.
        centre : (n_elements,) float64, optional
            The parent aggregate, for a rule with `on_differences`, unless the rows are differences
            already.

        Returns
        -------
        (n_elements,) float64
            The result; with `on_differences`, its difference from the parent.
        """

    def combine_at(
        self, start: int, block: Numbers, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        """Combine a block whose first column is element ``start`` of the flattened model.

        The place makes a difference only to a rule that adds noise; all others implement `combine`.
        """
        return self.combine(block, selection, centre)

    def published(
        self, selection: Selection, norms: Sequence[float] | None
    ) -> tuple[Selection, Sequence[float] | None]:
        """Return what is shown of a selection and of the updates' norms."""
        return selection, norms


class LinearRule(Rule):
    """A rule whose result is a weighted mean of the selected updates."""

    linear = True

    def combine(
        self, block: Rows, selection: Selection, centre: Float64s | None = None
    ) -> Float64s:
        total = weighted_sum(block, selection.coefficients, centre)
        return np.divide(total, selection.total, out=total)


_REGISTRY: dict[str, type[Rule]] = {}

R = TypeVar("R", bound=type[Rule])


def register(rule: R) -> R:
    """Register a rule under its name and its aliases."""
    for name in (rule.name, *rule.aliases):
        _REGISTRY[name] = rule
    return rule


def known_rules() -> dict[str, type[Rule]]:
    """Return the rules by their names and aliases, sorted."""
    return dict(sorted(_REGISTRY.items()))


def create_rule(name: str, arguments: Mapping[str, Any] | None = None) -> Rule:
    """Return the rule of that name with these arguments.

    Raises
    ------
    RuleError
        If the name or an argument is unknown, missing or out of range, or arguments contradict each
        other. The message says what is expected.
    """
    rule = _REGISTRY.get(name)
    if rule is None:
        raise RuleError(f"unknown aggregation rule {name!r}; known are {', '.join(known_rules())}")
    return instantiate(rule, rule.name, arguments or {})
