"""The mean that follows from a sum of masked updates and the sum of their masks, read by ranges."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layout import TensorLayout
from ..sources import Buffer, ByteSource
from ..weights import Weights, shared_index
from .masking import Float64s, UInt32s, dequantised
from .settings import MASKED


class _Run(NamedTuple):
    """Elements ``start`` to ``stop`` of the model, which are masked from element ``masked`` on."""

    start: int
    stop: int
    masked: int


@dataclass(frozen=True, kw_only=True, eq=False)
class UnmaskedMean(Weights):
    """The mean of masked updates: their sum minus the sum of their masks, divided. No update is unmasked.

    Parameters
    ----------
    source : ByteSource
        The masked sum: the elements of the model's masked updates, U32.
    masks : ByteSource
        The sum of the masks, of the same form.
    runs : tuple of _Run
    divisor : float
    """

    masks: ByteSource
    runs: tuple[_Run, ...]
    divisor: float

    def in_order(self, order: TensorLayout) -> UnmaskedMean:
        if order.tensors != self.layout.tensors:
            raise ValueError("the order of the tensors is that of the model")
        return self

    def held_open(self, stack: ExitStack) -> UnmaskedMean:
        return self

    def read_into(self, order: TensorLayout, start: int, buffer: Buffer) -> None:
        """Fill ``buffer`` with the mean, in the dtypes of the model; with zeros where nothing is masked."""
        np.frombuffer(buffer, np.uint8)[:] = 0
        first, last = order.element_at(start), order.element_at(start + len(buffer))
        runs = [
            _Run(max(run.start, first), min(run.stop, last), run.masked + max(first - run.start, 0))
            for run in self.runs
            if run.start < last and run.stop > first
        ]
        if not runs:
            return
        begin, end = runs[0].masked, runs[-1].masked + runs[-1].stop - runs[-1].start
        values = self.means(begin, end)
        for run in runs:
            of_run = values[run.masked - begin :][: run.stop - run.start]
            for piece_start, piece_stop, dtype in order.runs_between(run.start, run.stop):
                place = order.bytes_before(piece_start) - start
                nbytes = (piece_stop - piece_start) * dtype.itemsize
                target = np.frombuffer(buffer[place : place + nbytes], dtype)
                piece = of_run[piece_start - run.start : piece_stop - run.start]
                target[:] = self.converted(piece, dtype)

    def means(self, begin: int, end: int) -> Float64s:
        """Return the mean of some masked elements."""
        return dequantised(self.total(begin, end), self.divisor)

    def converted(self, values: Float64s, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return values in a dtype of the model, which may be overwritten."""
        with np.errstate(over="ignore"):  # The check of the result reports infinity.
            return values.astype(dtype)

    def total(self, begin: int, end: int) -> UInt32s:
        """Return the sum of some masked elements of the quantised updates modulo 2**32."""
        total, masks = np.empty((2, end - begin), MASKED)
        self.source.read_into(begin * MASKED.itemsize, total.view(np.uint8).data)
        self.masks.read_into(begin * MASKED.itemsize, masks.view(np.uint8).data)
        return np.subtract(total, masks, out=total)


def unmasked_mean(
    model: TensorLayout,
    masked: TensorLayout,
    masked_sum: ByteSource,
    masks: ByteSource,
    divisor: float,
) -> UnmaskedMean:
    """Return the mean that two sums belong to.

    Parameters
    ----------
    model, masked : TensorLayout
        Of the model, and of its masked updates.
    masked_sum, masks : ByteSource
    divisor : float
        What a sum of quantised updates is divided by.
    """
    runs: list[_Run] = []
    positions = dict(zip(masked.by_name, masked.starts, strict=False))
    for tensor, start in zip(model.tensors, model.starts, strict=False):
        if tensor.name not in positions:
            continue
        stop = start + tensor.size
        if runs and runs[-1].stop == start:
            runs[-1] = runs[-1]._replace(stop=stop)
        else:
            runs.append(_Run(start, stop, positions[tensor.name]))
    return UnmaskedMean(
        index=shared_index(model, np.zeros(len(model.tensors), np.int64)),
        source=masked_sum,
        format="safetensors",
        masks=masks,
        runs=tuple(runs),
        divisor=divisor,
    )
