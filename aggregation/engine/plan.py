"""The input of a combination, and the resources it may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aggregation.engine.state import OptimizerState
from aggregation.errors import (
    InvalidWeights,
    NotEnoughUpdates,
    RuleError,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.formats import read_metadata
from aggregation.layout import TensorLayout
from aggregation.opening import first_of_majority
from aggregation.optimizers import NO_OPTIMIZER, Optimizer
from aggregation.policies import OPTIMIZE_ALL, PolicyMap, TensorPolicies
from aggregation.rules import Rule, Selection, Statistics
from aggregation.rules.base import Float64s
from aggregation.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The memory, the disk and the threads that a combination may use.

    Parameters
    ----------
    memory_bytes : int
        For blocks and parts. The chunk size follows from it.
    readers : int
        Ranges read at the same time: about the number of cores for files, more for object storage,
        where latency counts.
    workers : int
        Threads for arithmetic.
    disk_bytes : int, optional
        In the folder of `tempfile`, for parts that are too large for the memory; by default nine tenths
        of what is free.
    """

    memory_bytes: int = 64 << 20
    readers: int = 2
    workers: int = 2
    disk_bytes: int | None = None


DEFAULT_RESOURCES = Resources()


@dataclass(frozen=True, kw_only=True, eq=False)
class Combination:
    """Everything that the result of a combination depends on.

    Parameters
    ----------
    rule : Rule
    updates : sequence of Weights
        In claim order. All have the same layout, apart from the order of named tensors, and so has
        the parent.
    num_examples : sequence of float
        One for each update, positive.
    parent : Weights, optional
        The aggregate that the result succeeds.
    differences : bool
        Whether the updates are differences from the parent, rather than weights.
    policies : TensorPolicies
        By default, all tensors are treated alike.
    num_steps : sequence of int, optional
        Steps of local training, one number for each update.
    directions : sequence of float, optional
        Sums of the cosines of the clients' earlier updates, for a rule that remembers them.
    discounts : sequence of float, optional
        The share of its weight that each update counts; the sum is divided by the whole weights.
    bases : sequence of Weights
        If late updates are weights: what updates were trained from. The differences from them are
        averaged and added to the parent.
    base_of : sequence of int
        For each update, the position of its base in ``bases``.
    optimizer : Optimizer
        Takes a step from the parent. Without a parent there is none: the result is the rule's, and the
        optimizer starts in the next round.
    optimizer_state : Weights, optional
        The state that the parent's step left; without it, the optimizer starts.

    Raises
    ------
    RuleError
        If the rule, the updates or a tensor's policy need a parent and there is none, or the rule needs
        numbers of steps, or a private rule does not protect a tensor.
    NotEnoughUpdates
        If the rule needs more updates.
    """

    rule: Rule
    updates: Sequence[Weights]
    num_examples: Sequence[float]
    parent: Weights | None = None
    differences: bool = False
    policies: TensorPolicies = OPTIMIZE_ALL
    num_steps: Sequence[int] | None = None
    directions: Sequence[float] | None = None
    discounts: Sequence[float] | None = None
    bases: Sequence[Weights] = ()
    base_of: Sequence[int] = ()
    optimizer: Optimizer = NO_OPTIMIZER
    optimizer_state: Weights | None = None

    def __post_init__(self) -> None:
        if self.rule.needs_steps and self.num_steps is None:
            raise RuleError(f"{self.rule.name} needs the number of steps of each update")
        if self.parent is None and (self.differences or self.rule.on_differences):
            subject = (
                "updates that are differences need"
                if self.differences
                else f"{self.rule.name} needs"
            )
            raise RuleError(f"{subject} a parent to start from: give the model an initial artifact")
        if self.parent is None and self.policies.needs_parent:
            raise RuleError(
                "tensors that clients do not send, and frozen tensors, need a parent to start from: "
                "give the model an initial artifact"
            )
        if self.rule.is_private:
            self._check_private()
        if len(self.updates) < self.rule.min_updates:
            raise NotEnoughUpdates(
                f"{self.rule.name} needs at least {self.rule.min_updates} updates, "
                f"{len(self.updates)} are there"
            )

    def _check_private(self) -> None:
        """Refuse what a private rule does not protect."""
        from aggregation.privacy.rule import check_tensors

        check_tensors(self.policy_map)
        if self.discounts is not None:
            raise RuleError("differential privacy takes no discounts for late updates")

    @cached_property
    def model(self) -> Weights:
        """The weights whose format, order of tensors and metadata the result has.

        They are the parent, or without a parent the first update with the layout of the majority.
        """
        return self.parent or first_of_majority(self.updates)

    @property
    def layout(self) -> TensorLayout:
        """The layout of the result."""
        return self.model.layout

    @cached_property
    def policy_map(self) -> PolicyMap:
        """The policies of the result's elements."""
        return PolicyMap(self.layout, self.policies)

    @property
    def robust(self) -> bool:
        """Whether averaged tensors take the coordinate-wise median of all updates."""
        return self.rule.robust

    @property
    def rows(self) -> Sequence[Weights]:
        """What a selection's members are positions in: the updates, and then the bases."""
        return [*self.updates, *self.bases]

    @property
    def measured_from_parent(self) -> bool:
        """Whether the rule gets the rows as they are, and its result is added to the parent."""
        return self.differences or bool(self.bases)

    @property
    def takes_steps(self) -> bool:
        """Whether the server optimizer changes the rule's result."""
        return self.optimizer.takes_steps and self.parent is not None

    @cached_property
    def state(self) -> OptimizerState | None:
        """The optimizer's state, if it has one.

        Raises
        ------
        InvalidWeights
            If the parent's does not fit the model.
        """
        if not (self.takes_steps and self.optimizer.slots):
            return None
        state = OptimizerState(self.optimizer, self.policy_map, self.optimizer_state)
        return state if state.map.layout.size else None

    def stored_state(self, start: int, state: Float64s | None) -> Float64s:
        """Return what is stored of the new state of the elements from ``start`` on, flat."""
        if self.state is None or state is None:
            return np.empty(0)
        return self.state.stored(start, state)

    @property
    def bytes_to_read(self) -> int:
        """The bytes that a combination reads at most, and at least 1.

        It may read fewer: a rule that measures the updates may then select few of them.
        """
        passes = 2 if self.rule.needs_gram or self.rule.needs_norms else 1
        of_rows = (
            passes * self.update_nbytes + (len(self.bases) + self.takes_steps) * self.layout.nbytes
        )
        of_state = self.state.nbytes_to_read if self.state else 0
        return max(1, of_rows + of_state)

    @cached_property
    def update_nbytes(self) -> int:
        """The bytes of all updates, which may be compressed."""
        return sum(update.nbytes for update in self.updates)

    def base_statistics(self) -> Statistics:
        """Return what is known about the updates without reading them."""
        steps = None if self.num_steps is None else np.asarray(self.num_steps, np.float64)
        past = None if self.directions is None else np.asarray(self.directions, np.float64)
        return Statistics(np.asarray(self.num_examples, np.float64), None, None, steps, past)

    def select(self, statistics: Statistics) -> Selection:
        """Let the rule select, and discount what is late.

        With bases, ``sum_k c_k (w_k - base_k)`` is one weighted sum of updates and bases. The bases are
        further members, whose coefficients are negative.
        """
        selection = self.rule.select(statistics)
        if self.discounts is None:
            return selection
        coefficients = [
            coefficient * self.discounts[member]
            for member, coefficient in zip(selection.members, selection.coefficients, strict=True)
        ]
        shares = [0.0] * len(self.bases)
        for member, coefficient in zip(selection.members, coefficients, strict=True):
            if self.bases:
                shares[self.base_of[member]] -= coefficient
        first = len(self.updates)
        used = [position for position, share in enumerate(shares) if share]
        return Selection(
            members=(*selection.members, *(first + position for position in used)),
            coefficients=(*coefficients, *(shares[position] for position in used)),
            total=selection.total,
        )

    @cached_property
    def metadata(self) -> dict[str, str] | None:
        """The free text in the header of a safetensors model; None for other formats.

        Raises
        ------
        UpdatesRejected
            If an update stands for the model and can no longer be read.
        InvalidWeights
            If the parent can no longer be read.
        """
        if self.model.format != "safetensors":
            return None
        try:
            return read_metadata(self.model.source)
        except UpdateRejected as error:
            if self.model is self.parent:
                raise InvalidWeights(f"the parent cannot be read: {error}") from error
            position = self.updates.index(self.model)
            raise UpdatesRejected({position: str(error)}) from error
