"""Tensor layouts: the names, dtypes and shapes of a model's tensors, and the order of its elements.

A tensor is identified by its name, never by its position. Layers without names (a JSON list,
``numpy.savez(file, *layers)``) are named by their numbers, as numpy does it: arr_0, arr_1, arr_2.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import ml_dtypes
import numpy as np

from .cache import cache_by_weight
from .errors import quoted

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

#: The dtypes a tensor may have, by their names in safetensors headers and in messages.
DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "BOOL": np.dtype("?"),
}


def is_integral(dtype: np.dtype) -> bool:
    """Return whether a dtype holds integers or booleans, so that a mean of its values is rounded."""
    return dtype.kind in "iub"


#: numpy's limit.
MAX_DIMENSIONS = 64

#: The product of a shape's dimensions, zeros left out, must be smaller: its bytes fit into an int64.
MAX_SIZE = 1 << 59

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_NUMBERED = re.compile(r"arr_(0|[1-9][0-9]{0,8})")


def is_indexable(shape: Sequence[int]) -> bool:
    """Return whether numpy can make an array of this shape.

    numpy multiplies the dimensions other than zero even if the array has no elements.
    """
    return len(shape) <= MAX_DIMENSIONS and math.prod(n for n in shape if n) < MAX_SIZE


def layer_name(number: int) -> str:
    """Return the name of a layer that has none of its own: ``arr_0`` for the first one."""
    return f"arr_{number}"


def number_order(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the positions of arr_0, arr_1, arr_2, ... among ``names``.

    Returns
    -------
    tuple of int, or None
        None unless the names are exactly arr_0 to arr_(n-1), in any order.
    """
    matches = [_NUMBERED.fullmatch(name) for name in names]
    positions = {int(match[1]): position for position, match in enumerate(matches) if match}
    if not names or positions.keys() != set(range(len(names))):
        return None
    return tuple(positions[number] for number in range(len(names)))


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named array of a model, without its values."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements; 1 for a tensor of zero dimensions."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without padding."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]} {list(self.shape)}"


@dataclass(frozen=True)
class TensorLayout:
    """The ordered tensors of a model.

    Concatenated in this order, C-contiguous, they are the *flattened model*; a chunk is a range of its
    elements.

    Parameters
    ----------
    tensors : tuple of Tensor
        In the order in which they are flattened; names are unique.
    optional : frozenset of str
        Names of tensors that an update of the model may lack.
    """

    tensors: tuple[Tensor, ...]
    optional: frozenset[str] = frozenset()

    @classmethod
    def of_layers(cls, tensors: Sequence[Tensor]) -> TensorLayout:
        """Return the layout of a list of layers, each renamed by its number."""
        return cls(tuple(Tensor(layer_name(n), t.dtype, t.shape) for n, t in enumerate(tensors)))

    @cached_property
    def is_numbered(self) -> bool:
        """Whether the layers have numbers instead of names: arr_0, arr_1, ..."""
        return number_order([tensor.name for tensor in self.tensors]) is not None

    @cached_property
    def by_name(self) -> dict[str, Tensor]:
        """The tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.tensors)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Position of each tensor's first element in the flattened model, and the end of the last one."""
        starts = [0]
        for tensor in self.tensors:
            starts.append(starts[-1] + tensor.size)
        return tuple(starts)

    @property
    def size(self) -> int:
        """Number of elements of the flattened model."""
        return self.starts[-1]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the flattened model."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def itemsize(self) -> int:
        """Bytes of the widest element; 1 for a model without elements."""
        return max((tensor.dtype.itemsize for tensor in self.tensors), default=1)

    @cached_property
    def runs(self) -> tuple[tuple[int, int, np.dtype], ...]:
        """Maximal ranges ``(start, stop, dtype)`` of elements that share a dtype, in order."""
        runs: list[tuple[int, int, np.dtype]] = []
        for tensor, start in zip(self.tensors, self.starts, strict=False):
            if not tensor.size:
                continue
            if runs and runs[-1][2] == tensor.dtype:
                runs[-1] = (runs[-1][0], start + tensor.size, tensor.dtype)
            else:
                runs.append((start, start + tensor.size, tensor.dtype))
        return tuple(runs)

    @cached_property
    def _run_starts(self) -> tuple[int, ...]:
        return tuple(start for start, _, _ in self.runs)

    @cached_property
    def _run_bytes(self) -> tuple[int, ...]:
        sizes = ((stop - start) * dtype.itemsize for start, stop, dtype in self.runs)
        return tuple(accumulate(sizes, initial=0))

    def runs_between(self, start: int, stop: int) -> Iterator[tuple[int, int, np.dtype]]:
        """Yield the parts of `runs` that lie in elements ``start`` to ``stop``."""
        first = bisect_right(self.runs, start, key=lambda run: run[1])
        for run_start, run_stop, dtype in self.runs[first:]:
            if run_start >= stop:
                return
            yield max(run_start, start), min(run_stop, stop), dtype

    def bytes_before(self, element: int) -> int:
        """Return how many bytes of the flattened model come before ``element``."""
        index = bisect_right(self._run_starts, element) - 1
        if index < 0:
            return 0
        start, stop, dtype = self.runs[index]
        return self._run_bytes[index] + (min(element, stop) - start) * dtype.itemsize

    def element_at(self, byte: int) -> int:
        """Return the first element that begins at ``byte`` of the flattened model, or after it."""
        index = bisect_right(self._run_bytes, byte) - 1
        if index >= len(self.runs):
            return self.size
        start, stop, dtype = self.runs[index]
        return min(stop, start - (self._run_bytes[index] - byte) // dtype.itemsize)

    def tensor_of(self, element: int) -> Tensor:
        """Return the tensor that an element belongs to."""
        return self.tensors[bisect_right(self.starts, element) - 1]

    def locate(self, element: int) -> str:
        """Return the place of an element in words: ``tensor 'fc.weight' at [3, 17]``."""
        tensor = self.tensor_of(element)
        offset = element - self.starts[bisect_right(self.starts, element) - 1]
        index = np.unravel_index(offset, tensor.shape) if tensor.shape else ()
        return f"tensor {quoted(tensor.name)} at {[int(i) for i in index]}"


def layout_difference(model: TensorLayout, found: TensorLayout) -> str | None:
    """Return the first way in which ``found`` differs from the model's layout, or None.

    Every tensor of the model that is not optional must be there, with its shape and dtype, and no
    other. Their order does not matter. The answer is cached, since the clients of a model send the
    same layout repeatedly.
    """
    return _difference((model, found))


def list_difference(model: TensorLayout) -> str | None:
    """Return why a list of layers without names cannot belong to the model, or None if it can."""
    if model.is_numbered or not model.tensors:
        return None
    return (
        "its layers have no names and the model's tensors do "
        f"({quoted(model.tensors[0].name)}, ...): send the tensors under the model's names, "
        "as safetensors or by numpy.savez(file, **tensors)"
    )


def name_difference(model: TensorLayout, names: Sequence[str]) -> str | None:
    """Return the first way in which the names of tensors differ from the model's, or None."""
    difference = _kind_difference(model, names)
    if difference:
        return difference
    found = set(names)
    for tensor in model.tensors:
        if tensor.name not in found and tensor.name not in model.optional:
            return f"tensor {quoted(tensor.name)} ({tensor}) is missing"
    for name in names:
        if name not in model.by_name:
            return f"tensor {quoted(name)} is not in the model"
    return None


def _kind_difference(model: TensorLayout, names: Sequence[str]) -> str | None:
    """Return how to send the tensors if only the model's have names, or only these."""
    if not names or not model.by_name.keys().isdisjoint(names):
        return None
    if number_order(names):
        return list_difference(model)
    if not model.is_numbered:
        return None
    return (
        f"its tensors have names ({quoted(names[0])}, ...) and the model's layers do not: send the layers "
        "in the model's order by numpy.savez(file, *layers), or name them arr_0, arr_1, ..."
    )


@cache_by_weight(weigh=lambda layouts: len(layouts[1].tensors), small=2_500)
def _difference(layouts: tuple[TensorLayout, TensorLayout]) -> str | None:
    model, found = layouts
    difference = _kind_difference(model, list(found.by_name))
    if difference:
        return difference
    for tensor in model.tensors:
        other = found.by_name.get(tensor.name)
        if other is None and tensor.name in model.optional:
            continue
        if other is None:
            return f"tensor {quoted(tensor.name)} ({tensor}) is missing"
        if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            return f"tensor {quoted(tensor.name)} is {other}, the model's is {tensor}"
    for other in found.tensors:
        if other.name not in model.by_name:
            return f"tensor {quoted(other.name)} ({other}) is not in the model"
    return None
