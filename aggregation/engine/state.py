"""The state of a server optimizer: where it lies in its object, and that of the parent.

A state is a safetensors object with a float64 tensor for each tensor of the model that has a state, of the
same name and with one more dimension for the optimizer's slots. The state of a range of the model's
elements is therefore a range of the state's elements, and both are streamed side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator

import numpy as np

from aggregation.errors import InvalidWeights, UpdateRejected, quoted
from aggregation.layout import Tensor, TensorLayout
from aggregation.optimizers import Optimizer
from aggregation.policies import PolicyMap
from aggregation.rules.base import Float64s
from aggregation.weights import Weights

#: The format of a state.
STATE_FORMAT = "safetensors"

_FLOAT64 = np.dtype("<f8")


class StateMap:
    """Which elements of a model have a state, and where it lies.

    Parameters
    ----------
    model : TensorLayout
    names : collection of str
        Of the tensors that have a state.
    slots : int
        Numbers for each element.

    Attributes
    ----------
    layout : TensorLayout
        Of the state.
    """

    def __init__(self, model: TensorLayout, names: Collection[str], slots: int) -> None:
        self.slots = slots
        self._runs: list[tuple[int, int]] = []
        tensors = []
        for tensor, start in zip(model.tensors, model.starts, strict=False):
            if tensor.name in names and tensor.size:
                tensors.append(Tensor(tensor.name, _FLOAT64, (*tensor.shape, slots)))
                self._extend(start, start + tensor.size)
        self.layout = TensorLayout(tuple(tensors))
        self._before = [0]
        for start, stop in self._runs:
            self._before.append(self._before[-1] + stop - start)

    def _extend(self, start: int, stop: int) -> None:
        if self._runs and self._runs[-1][1] == start:
            start = self._runs.pop()[0]
        self._runs.append((start, stop))

    def position(self, element: int) -> int:
        """Return how many elements of the state belong to the model's elements before ``element``."""
        index = bisect_right(self._runs, element, key=lambda run: run[0]) - 1
        if index < 0:
            return 0
        start, stop = self._runs[index]
        return self.slots * (self._before[index] + min(element, stop) - start)

    def runs_between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the model's elements from ``start`` to ``stop`` that have a state."""
        first = bisect_right(self._runs, start, key=lambda run: run[1])
        for run_start, run_stop in self._runs[first:]:
            if run_start >= stop:
                return
            yield max(run_start, start), min(run_stop, stop)


class OptimizerState:
    """The state that a round reads and writes.

    It has the tensors that the round optimizes, and those that the parent's state has: a tensor that is
    frozen for a round keeps its state.

    Parameters
    ----------
    optimizer : Optimizer
    policies : PolicyMap
    parent : Weights, optional
        The state that the parent's step left. Tensors that it does not have start with the optimizer's
        initial state.

    Attributes
    ----------
    map : StateMap
        Of the state that is written.
    metadata : dict of str to str
        The free text in the header of the state that is written.

    Raises
    ------
    InvalidWeights
        If the parent's state does not fit the model.
    """

    def __init__(self, optimizer: Optimizer, policies: PolicyMap, parent: Weights | None) -> None:
        model = policies.layout
        saved = set(parent.layout.by_name) if parent else set()
        self.map = StateMap(model, policies.optimized_names | saved, optimizer.slots)
        self.metadata = {"server_optimizer": optimizer.name}
        self._initial = optimizer.initial_state
        self._saved = StateMap(model, saved, optimizer.slots)
        if parent and set(parent.layout.tensors) != set(self._saved.layout.tensors):
            raise InvalidWeights(_misfit(parent.layout, self._saved.layout))
        self._parent = parent.in_order(self._saved.layout) if parent else None

    @property
    def local(self) -> bool:
        """Whether the parent's state is local, so that reading ahead gains nothing."""
        return self._parent is None or self._parent.source.local

    @property
    def bytes_per_element(self) -> int:
        """Bytes of the state of one element of the model."""
        return self.map.slots * _FLOAT64.itemsize

    @property
    def nbytes_to_read(self) -> int:
        """Bytes of the parent's state."""
        return self._saved.layout.nbytes

    def nbytes_between(self, start: int, stop: int) -> int:
        """Return the bytes of the parent's state for elements ``start`` to ``stop`` of the model."""
        return _FLOAT64.itemsize * (self._saved.position(stop) - self._saved.position(start))

    def read(self, start: int, stop: int) -> Float64s:
        """Return the parent's state of elements ``start`` to ``stop`` of the model.

        Returns
        -------
        (stop - start, slots) float64
            With the initial state where the parent has none.

        Raises
        ------
        InvalidWeights
            If it cannot be read.
        """
        state = np.empty((stop - start, self.map.slots))
        if self.nbytes_between(start, stop) < state.nbytes:
            state[:] = self._initial
        if self._parent is None:
            return state
        for run_start, run_stop in self._saved.runs_between(start, stop):
            place = state[run_start - start : run_stop - start].reshape(-1).view(np.uint8)
            begin = _FLOAT64.itemsize * self._saved.position(run_start)
            try:
                self._parent.read_into(self._saved.layout, begin, place.data)
            except UpdateRejected as error:
                raise InvalidWeights(f"the optimizer's state cannot be read: {error}") from error
        return state

    def stored(self, start: int, state: Float64s) -> Float64s:
        """Return the new state of elements from ``start`` on, without elements that have none, flat."""
        runs = self.map.runs_between(start, start + len(state))
        stored = [state[run_start - start : run_stop - start] for run_start, run_stop in runs]
        if not stored:
            return np.empty(0)
        return (stored[0] if len(stored) == 1 else np.concatenate(stored)).reshape(-1)


def _misfit(found: TensorLayout, expected: TensorLayout) -> str:
    """Return which tensor of a state does not fit the model."""
    for tensor in found.tensors:
        if expected.by_name.get(tensor.name) != tensor:
            return (
                f"the optimizer's state does not fit the model: tensor {quoted(tensor.name)} is "
                f"{tensor}, expected {expected.by_name.get(tensor.name, 'none')}"
            )
    raise ValueError("the state fits the model")
