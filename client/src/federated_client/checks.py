"""The checks that the aggregator makes of an update, made before it is sent."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import limits
from ._core.errors import AggregationError
from ._core.formats import Spool, format_of, open_weights
from ._core.layout import TensorLayout, is_integral
from ._core.weights import Weights
from .errors import BadWeights
from .pointer import Latest
from .sources import FileBytes

_LFS = b"version https://git-lfs"


def check_file(
    file: BinaryIO,
    name: str,
    expected_layout: TensorLayout | None,
    *,
    any_size: bool = False,
    compressed: bool = False,
) -> None:
    """Refuse a file that the aggregator would reject.

    Parameters
    ----------
    file : binary file
        Its position changes.
    name : str
        Its extension is the format.
    expected_layout : TensorLayout or None
        The layout of the model; None if it is not known.
    any_size : bool
        Whether to ignore the limits that depend on the model, such as that of the header's length.
    compressed : bool
        Whether the file may be compressed.

    Raises
    ------
    BadWeights
        With the aggregator's reason.
    """
    try:
        source = FileBytes(file)
        with Spool() as spool:
            weights = open_weights(
                source,
                format_of(name),
                expected_layout=expected_layout,
                spool=spool,
                trusted=any_size,
                compressed=compressed,
            )
            if not weights.layout.tensors:
                raise BadWeights("there is no tensor to send")
            _check_values(weights, expected_layout or weights.layout)
    except AggregationError as error:
        raise BadWeights(f"{error}{_hint(file)}") from error


def _hint(file: BinaryIO) -> str:
    file.seek(0, io.SEEK_SET)
    if file.read(len(_LFS)) == _LFS:
        return " (the file is a pointer of Git LFS: git lfs pull fetches the weights)"
    return ""


def _check_values(weights: Weights, layout: TensorLayout) -> None:
    """Refuse NaN and infinity in tensors of floating-point numbers."""
    for start, stop, dtype in layout.runs:
        if is_integral(dtype):
            continue
        for first in range(start, stop, limits.CHECK_ELEMENTS):
            values = np.empty(min(limits.CHECK_ELEMENTS, stop - first), dtype)
            weights.read_into(layout, layout.bytes_before(first), values.view(np.uint8).data)
            bad = _first_not_finite(values)
            if bad is not None:
                where = layout.locate(first + bad)
                raise BadWeights(f"{values[bad]} in {where}: did the training diverge?")


def _first_not_finite(values: NDArray[np.generic]) -> int | None:
    with np.errstate(invalid="ignore"):  # A signalling NaN in bfloat16 raises the flag.
        places = np.flatnonzero(~np.isfinite(values))
    return int(places[0]) if places.size else None


def check_size(size: int, latest: Latest | None) -> None:
    """Refuse an update that is larger than the aggregator accepts."""
    if latest and latest.max_update_bytes is not None and size > latest.max_update_bytes:
        raise BadWeights(f"{size} bytes, at most {latest.max_update_bytes} are accepted")


def check_base(base: Latest | None, latest: Latest | None) -> None:
    """Refuse an update that was trained from an aggregate that is too old."""
    if latest is None or latest.furthest_base_agg is None:
        return
    number = base.number if base else 0
    if number <= latest.number - latest.furthest_base_agg:
        raise BadWeights(
            f"based on aggregate number {number}; the latest is {latest.number} and "
            f"furthest_base_agg is {latest.furthest_base_agg}: fetch and train again"
        )
