"""Aggregation in a notebook: the engine of the Lambda function, applied to arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from aggregation.engine import DEFAULT_RESOURCES, Combination, Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.errors import (
    AggregationError,
    NotEnoughUpdates,
    UpdatesRejected,
)
from aggregation.formats.safetensors import open_safetensors
from aggregation.in_memory import Tensors, weights_in_memory
from aggregation.opening import Opener, open_consistent
from aggregation.rules import create_rule
from aggregation.sources import BytesSource
from aggregation.weights import read_tensors


def aggregate(
    rule: str,
    updates: Sequence[Tensors],
    num_examples: Sequence[float] | None = None,
    parent: Tensors | None = None,
    *,
    differences: bool = False,
    resources: Resources = DEFAULT_RESOURCES,
    **arguments: Any,
) -> Any:
    """Aggregate updates that are in memory.

    Parameters
    ----------
    rule : str
        Name of the rule, such as ``"weighted_mean"`` or ``"krum"``.
    updates : sequence
        Each a mapping of names to arrays, or a list or tuple of arrays, one a layer: whatever
        `numpy.asarray` takes. All are laid out alike; the order of names does not matter. dtypes:
        float16, bfloat16, float32, float64, integers. Arrays keep their dtype: the mean of integers
        is rounded to an integer, and those beyond 2**53 lose digits on the way, since sums are taken
        in float64. Python's lists of numbers are float64.
    num_examples : sequence of float, optional
        What each update counts, positive; by default, each the same.
    parent : mapping or list of arrays, optional
        The model that the result succeeds, for rules that measure differences from it.
    differences : bool
        Whether the updates are differences from the parent, rather than weights.
    resources : Resources
        Memory and threads; they change nothing of the result.
    **arguments
        Of the rule: ``beta=0.1``, ``f=2``.

    Returns
    -------
    dict, list or tuple of arrays
        Of the kind and the dtypes of the parent, or else of the first update.

    Raises
    ------
    RuleError
        If the rule or an argument is not known.
    NotEnoughUpdates
        If the rule needs more updates.
    UpdatesRejected
        If updates are laid out otherwise or not finite; its ``reasons`` tell which, by position. To
        go on without them, call again without them.
    AggregationError
        If ``num_examples`` does not fit the updates, or the parent is not a model.

    Examples
    --------
    >>> import numpy as np
    >>> aggregate("weighted_mean", [{"w": np.ones(2)}, {"w": np.zeros(2)}], num_examples=[3, 1])
    {'w': array([0.75, 0.75])}
    """
    chosen = create_rule(rule, arguments)
    counts = _checked_counts(num_examples, len(updates))
    if not updates:
        raise NotEnoughUpdates("there are no updates to aggregate")
    base = None if parent is None else weights_in_memory(parent)
    openers = {position: _opener(update) for position, update in enumerate(updates)}
    opened, rejected = open_consistent(openers, base.layout if base else None, threads=1)
    if rejected:
        raise UpdatesRejected(rejected)
    work = Combination(
        rule=chosen,
        updates=list(opened.values()),
        num_examples=counts,
        parent=base,
        differences=differences,
    )
    sink = MemorySink()
    combine(work, sink, format="safetensors", resources=resources)
    result = read_tensors(open_safetensors(BytesSource(sink.data)))
    return _like(updates[0] if parent is None else parent, result)


def _checked_counts(num_examples: Sequence[float] | None, n: int) -> list[float]:
    counts = [1.0] * n if num_examples is None else [float(count) for count in num_examples]
    if len(counts) != n:
        raise AggregationError(f"num_examples has {len(counts)} counts for {n} updates")
    for count in counts:
        if not 0 < count < float("inf"):
            raise AggregationError(f"num_examples must be positive numbers; got {count!r}")
    return counts


def _opener(update: Tensors) -> Opener:
    return lambda expected_layout, spool: weights_in_memory(update)


def _like(model: Tensors, result: dict[str, NDArray[Any]]) -> Any:
    if isinstance(model, Mapping):
        return result
    return tuple(result.values()) if isinstance(model, tuple) else list(result.values())
