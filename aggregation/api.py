"""Aggregation in a notebook: the engine of the Lambda function, applied to arrays in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aggregation.counts import example_counts, step_counts
from aggregation.engine import DEFAULT_RESOURCES, Combination, Resources, combine
from aggregation.engine.output import MemorySink
from aggregation.engine.progress import ProgressMeter
from aggregation.engine.state import STATE_FORMAT
from aggregation.errors import (
    AggregationError,
    InvalidWeights,
    NotEnoughUpdates,
    UpdateRejected,
    UpdatesRejected,
)
from aggregation.explanation import AggregationInfo, explain
from aggregation.formats import open_weights
from aggregation.in_memory import Tensors, arrays_of, is_array, weights_in_memory
from aggregation.opening import Opener, open_consistent
from aggregation.optimizers import NO_OPTIMIZER, create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import build_rule
from aggregation.privacy.local import local_rule, with_local_noise
from aggregation.sources import BytesSource
from aggregation.weights import Weights, read_tensors

__all__ = ["AggregationInfo", "aggregate"]


def aggregate(
    rule: str,
    updates: Iterable[Tensors],
    num_examples: Iterable[float] | None = None,
    parent: Tensors | None = None,
    *,
    differences: bool = False,
    tensor_policies: Iterable[tuple[str, str]] = (),
    num_steps: Iterable[int] | None = None,
    directions: Iterable[float] | None = None,
    pre_aggregation: Sequence[str] = (),
    seed: str = "",
    differential_privacy: Mapping[str, Any] | None = None,
    server_optimizer: str = NO_OPTIMIZER.name,
    optimizer_args: Mapping[str, Any] | None = None,
    optimizer_state: Mapping[str, ArrayLike] | None = None,
    resources: Resources = DEFAULT_RESOURCES,
    return_info: bool = False,
    progress: Callable[[float], None] = lambda share: None,
    **arguments: Any,
) -> Any:
    """Aggregate updates that are in memory.

    Parameters
    ----------
    rule : str
        Name of the rule, such as ``"weighted_mean"`` or ``"krum"``.
    updates : iterable
        Each update is a mapping of names to arrays, a list or tuple of arrays, or a single array; a
        2-d array has an update in each row. Arrays may be of numpy, PyTorch or JAX, or nested lists.
        All updates have the same names, dtypes and shapes; the order of names does not matter.
        dtypes: float16, bfloat16, float32, float64, integers, booleans. Arrays keep their dtype.
        Python's numbers are float64.
    num_examples : iterable of float, optional
        What each update counts, positive; by default each counts the same.
    parent : mapping, list, tuple or array, optional
        The model that the result succeeds, for rules that measure differences from it.
    differences : bool
        Whether the updates are differences from the parent, rather than weights.
    tensor_policies : iterable of (glob, policy)
        What happens to the tensors whose names match (`aggregation.policies`); the first match counts.
        By default, running statistics of BatchNorm are averaged, integers and booleans keep the value
        of the parent (without a parent, the median of the updates), and the rule combines all other
        tensors. With ``[("*", "optimize")]`` it also combines integers: their mean is rounded, and beyond
        2**53 they lose digits, because sums are computed in float64.
    num_steps : iterable of int, optional
        For ``normalized_mean``: the steps that each update was trained for.
    directions : iterable of float, optional
        For ``history_filter``: for each client, the sum of `AggregationInfo.cosines` in earlier rounds.
    pre_aggregation : sequence of str
        Steps before the rule, in their order: ``["arc(f=2)", "nnm(f=2)"]``.
    seed : str
        Hexadecimal digits that clients cannot predict, for ``bucketing``: ``secrets.token_hex(32)``. With
        ``differential_privacy`` it repeats the noise, and must be secret.
    differential_privacy : mapping, optional
        The arguments of `aggregation.privacy.settings.DifferentialPrivacy`: each difference from the parent
        is clipped, and noise is added. The rule must be ``unweighted_mean``.
    server_optimizer : str
        Takes a step from the parent towards the rule's result: ``"fedadam"``, ``"fedavgm"``. Without a
        parent, the result is the rule's.
    optimizer_args : mapping, optional
        Its arguments: ``{"eta": 0.1}``.
    optimizer_state : mapping, optional
        `AggregationInfo.optimizer_state` of the call that made the parent; without it, the optimizer
        starts.
    resources : Resources
        Memory and threads; the result does not depend on them.
    return_info : bool
        Whether to return an `AggregationInfo` as well, which explains the result: who was selected, the
        weights, norms and distances. The updates are read once more for it.
    progress : callable
        Called with the share of the work that is done, from 0 to 1.
    **arguments
        Of the rule: ``beta=0.1``, ``f=2``.

    Returns
    -------
    result : dict, list, tuple or array
        numpy arrays, in the structure and the dtypes of the parent, or else of the first update.
    info : AggregationInfo
        Only if ``return_info`` is true.

    Raises
    ------
    RuleError
        If the rule, the optimizer, an argument or a policy is not known, or the rule or a policy needs a
        parent and there is none.
    NotEnoughUpdates
        If the rule needs more updates.
    UpdatesRejected
        If updates have another layout or are not finite. Its ``reasons`` name them by position.
    InvalidWeights
        If the parent is not a model, or its values are not finite, or the optimizer's state does not fit
        it.
    AggregationError
        If ``updates`` or ``num_examples`` is not of the expected structure.

    Examples
    --------
    >>> import numpy as np
    >>> aggregate("weighted_mean", [{"w": np.ones(2)}, {"w": np.zeros(2)}], num_examples=[3, 1])
    {'w': array([0.75, 0.75])}
    """
    policies = TensorPolicies.from_list(list(tensor_policies))
    chosen = build_rule(rule, arguments, pre_aggregation, seed)
    chosen = local_rule(chosen, differential_privacy, policies)
    optimizer = create_optimizer(server_optimizer, optimizer_args)
    given = _updates(updates)
    counts = example_counts(num_examples, len(given))
    if not given:
        raise NotEnoughUpdates("there are no updates to aggregate")
    model, base = (given[0], None) if parent is None else _parent(parent)
    openers = {position: _opener(update) for position, update in enumerate(given)}
    opened, rejected = open_consistent(
        openers, policies.expected_layout(base.layout if base else None), threads=1
    )
    if rejected:
        raise UpdatesRejected(rejected)
    work = Combination(
        rule=with_local_noise(
            chosen,
            seed,
            list(opened.values()),
            parent=base,
            differences=differences,
            policies=policies,
        ),
        updates=list(opened.values()),
        num_examples=counts,
        parent=base,
        differences=differences,
        policies=policies,
        num_steps=step_counts(num_steps, len(given)),
        directions=_directions(directions, len(given)),
        optimizer=optimizer,
        optimizer_state=None if optimizer_state is None else _state(optimizer_state),
    )
    sink, state = MemorySink(), MemorySink()
    with ProgressMeter(work, progress) as meter:
        combined = combine(
            work,
            sink,
            state_sink=state,
            format="memory",
            resources=resources,
            on_bytes=meter.advance,
        )
    result = _like(model, arrays_of(sink.data, work.layout))
    if not return_info:
        return result
    new_state = _arrays(state.data) if work.state else None
    return result, explain(work, combined, resources, new_state)


def _state(arrays: Mapping[str, ArrayLike]) -> Weights:
    """Return the state that an optimizer starts from."""
    try:
        return weights_in_memory(arrays)
    except UpdateRejected as error:
        raise InvalidWeights(f"the optimizer's state cannot be used: {error}") from error


def _arrays(state: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a stored state."""
    return read_tensors(open_weights(BytesSource(state), STATE_FORMAT, spool=None, trusted=True))


def _directions(directions: Iterable[float] | None, n: int) -> list[float] | None:
    if directions is None:
        return None
    given = [float(direction) for direction in directions]
    if len(given) != n or not np.isfinite(given).all():
        raise AggregationError(f"directions must be {n} finite numbers, one for each update")
    return given


def _updates(updates: Any) -> list[Any]:
    if isinstance(updates, Mapping):
        raise AggregationError(
            "updates is a mapping, expected a sequence of updates: put a single update in a list, or "
            "pass the values() of a mapping of updates"
        )
    if isinstance(updates, str | bytes) or hasattr(updates, "state_dict"):
        raise AggregationError(_expected_updates(updates))
    try:
        return list(updates)
    except TypeError as error:
        raise AggregationError(_expected_updates(updates)) from error


def _expected_updates(value: Any) -> str:
    return f"updates must be a sequence of updates, such as a list of dicts; got {type(value).__name__}"


def _opener(update: Tensors) -> Opener:
    return lambda expected_layout, spool: weights_in_memory(update)


def _parent(parent: Tensors) -> tuple[Tensors, Weights]:
    """Return the parent, whose structure the result has, and its weights."""
    if not isinstance(parent, Mapping | tuple) and not is_array(parent):
        parent = list(parent) if isinstance(parent, Iterable) else parent
    try:
        return parent, weights_in_memory(parent)
    except UpdateRejected as error:
        raise InvalidWeights(f"the parent cannot be used: {error}") from error


def _like(model: Any, result: dict[str, NDArray[Any]]) -> Any:
    """Return the arrays of a result in the structure of the model."""
    if isinstance(model, Mapping):
        return {name: result[str(name)] for name in model}
    arrays = list(result.values())
    if is_array(model):
        return arrays[0]
    return tuple(arrays) if isinstance(model, tuple) else arrays
