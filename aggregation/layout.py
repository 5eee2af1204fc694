"""Tensor layouts: what a model is made of, and where each element of the flattened model lies."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import ml_dtypes
import numpy as np

from aggregation.cache import keep_recent
from aggregation.errors import quoted

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

#: dtypes a weights object may hold, by the name that appears in messages and in safetensors headers.
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
}
#: numpy's limit.
MAX_DIMENSIONS = 64

#: More elements than could be counted in bytes; zeros aside, no shape may multiply up to it.
MAX_SIZE = 1 << 59

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def is_indexable(shape: Sequence[int]) -> bool:
    """Whether numpy could make an array of this shape, which it must even of one without elements."""
    return len(shape) <= MAX_DIMENSIONS and math.prod(n for n in shape if n) < MAX_SIZE


@dataclass(frozen=True)
class Tensor:
    """One named array of a model, without its values."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """Number of elements; 1 for a tensor of zero dimensions."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes the elements take, unpadded."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]} {list(self.shape)}"


@dataclass(frozen=True)
class TensorLayout:
    """The ordered tensors of a model.

    Laid end to end in this order, C-contiguous, they are the *flattened model*; a chunk is a range of
    its elements.

    Parameters
    ----------
    tensors : tuple of Tensor
        In the order in which they are flattened.
    named : bool
        False where a format knows positions only (a JSON list of layers, ``np.savez(*arrays)``); such
        a layout is compared with another by position.
    """

    tensors: tuple[Tensor, ...]
    named: bool = True

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.tensors)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Position of each tensor's first element in the flattened model, and the end of the last."""
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
        """Bytes of the widest element, 1 for a model without elements."""
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
        """The parts of `runs` that lie in elements ``start`` to ``stop``."""
        first = bisect_right(self.runs, start, key=lambda run: run[1])
        for run_start, run_stop, dtype in self.runs[first:]:
            if run_start >= stop:
                return
            yield max(run_start, start), min(run_stop, stop), dtype

    def bytes_before(self, element: int) -> int:
        """Bytes of the flattened model that come before ``element``."""
        index = bisect_right(self._run_starts, element) - 1
        if index < 0:
            return 0
        start, stop, dtype = self.runs[index]
        return self._run_bytes[index] + (min(element, stop) - start) * dtype.itemsize

    def element_at(self, byte: int) -> int:
        """The first element that begins at ``byte`` of the flattened model, or after it."""
        index = bisect_right(self._run_bytes, byte) - 1
        if index >= len(self.runs):
            return self.size
        start, stop, dtype = self.runs[index]
        return min(stop, start - (self._run_bytes[index] - byte) // dtype.itemsize)

    def locate(self, element: int) -> str:
        """Where an element of the flattened model is, in words: ``tensor 'fc.weight' at [3, 17]``."""
        index = bisect_right(self.starts, element) - 1
        tensor = self.tensors[index]
        place = np.unravel_index(element - self.starts[index], tensor.shape) if tensor.shape else ()
        return f"tensor {quoted(tensor.name)} at {[int(i) for i in place]}"


def layout_difference(model: TensorLayout, found: TensorLayout) -> str | None:
    """The first way in which ``found`` is not laid out like the model, in words; None if it is.

    Every tensor must be there, with its shape and dtype, and no other; the order of named tensors
    does not matter. Cached, since the clients of a model send the same layout again and again.
    """
    return _difference((model, found))


@keep_recent(weigh=lambda layouts: len(layouts[1].tensors), small=2_500)
def _difference(layouts: tuple[TensorLayout, TensorLayout]) -> str | None:
    model, found = layouts
    if model.named and found.named:
        return _named_difference(model.tensors, found.tensors)
    return _positional_difference(model, found)


def _named_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> str | None:
    theirs = {tensor.name: tensor for tensor in found}
    for tensor in expected:
        other = theirs.pop(tensor.name, None)
        if other is None:
            return f"tensor {quoted(tensor.name)} ({tensor}) is missing"
        if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            return f"tensor {quoted(tensor.name)} is {other}, the model's is {tensor}"
    if theirs:
        name, tensor = next(iter(theirs.items()))
        return f"tensor {quoted(name)} ({tensor}) is not in the model"
    return None


def _positional_difference(expected: TensorLayout, found: TensorLayout) -> str | None:
    if len(found.tensors) != len(expected.tensors):
        return f"{len(found.tensors)} layers, the model has {len(expected.tensors)}"
    for position, (ours, theirs) in enumerate(zip(expected.tensors, found.tensors, strict=True)):
        if theirs.shape != ours.shape:
            return (
                f"layer {position} has shape {list(theirs.shape)}, the model's {list(ours.shape)}"
            )
        if theirs.dtype != ours.dtype:
            return f"layer {position} is {theirs}, the model's is {ours}"
    return None
