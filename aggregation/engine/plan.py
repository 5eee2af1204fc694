"""What a combination works on, with, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from aggregation.engine.output import Progress
from aggregation.errors import NotEnoughUpdates, RuleError
from aggregation.layout import TensorLayout
from aggregation.rules import Rule, Selection
from aggregation.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a combination may use.

    Parameters
    ----------
    memory_bytes : int
        For blocks and parts. The chunk size follows from it.
    readers : int
        Ranges read at the same time: about the number of cores for files, more where latency counts.
    workers : int
        Threads that do arithmetic.
    """

    memory_bytes: int = 64 << 20
    readers: int = 2
    workers: int = 2


DEFAULT_RESOURCES = Resources()


@dataclass(frozen=True, kw_only=True, eq=False)
class Combination:
    """Everything a result is a function of.

    Parameters
    ----------
    rule : Rule
    layout : TensorLayout
        The model's. Updates and parent agree with it.
    updates : sequence of Weights
        In claim order.
    num_examples : sequence of float
        One for each update, positive.
    parent : Weights, optional
        The aggregate the result succeeds.
    differences : bool
        Whether the updates are differences from the parent, rather than weights.
    """

    rule: Rule
    layout: TensorLayout
    updates: Sequence[Weights]
    num_examples: Sequence[float]
    parent: Weights | None = None
    differences: bool = False

    def __post_init__(self) -> None:
        if self.parent is None and (self.differences or self.rule.on_differences):
            what = (
                "updates that are differences need"
                if self.differences
                else f"{self.rule.name} needs"
            )
            raise RuleError(f"{what} a parent to start from: give the model an initial artifact")
        if len(self.updates) < self.rule.min_updates:
            raise NotEnoughUpdates(
                f"{self.rule.name} needs at least {self.rule.min_updates} updates, "
                f"{len(self.updates)} are there"
            )


@dataclass(frozen=True, kw_only=True)
class Combined:
    """What came of a combination.

    Parameters
    ----------
    selection : Selection
    norms : tuple of float, optional
        Euclidean norm of each update's difference from the parent (without one, from the updates'
        median), where the rule had them measured.
    bytes_read : int
    """

    selection: Selection
    norms: Sequence[float] | None
    bytes_read: int


class Measuring(TypedDict):
    """How far the pass is that measures the updates; JSON-able."""

    next_element: int
    products: str


class Checkpoint(TypedDict):
    """How far a combination is; JSON-able. Made for each part of the model that was measured or stored.

    While the updates are still being measured there is no ``selection`` and no ``progress`` of the
    result; with ``norms``, it is the second time that they are.
    """

    measuring: Measuring | None
    norms: Sequence[float] | None
    selection: Any
    progress: Progress | None
