"""The chunks in which a model is read: as large as the memory allows, and none crosses an end of a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aggregation.engine import ranges
from aggregation.engine.blocks import BLOCKS_IN_FLIGHT
from aggregation.engine.parts import PARTS_IN_FLIGHT
from aggregation.engine.ranges import CELL
from aggregation.engine.state import OptimizerState
from aggregation.layout import TensorLayout
from aggregation.rules.sums import GROUP

FLOAT64_BYTES = 8


def chunk_elements(
    layout: TensorLayout,
    rows: int,
    memory_bytes: int,
    at_least: int,
    blocks: int = BLOCKS_IN_FLIGHT,
    state: OptimizerState | None = None,
) -> int:
    """Return the number of elements of a chunk; a multiple of `CELL` unless it is smaller.

    ``blocks`` blocks of ``rows`` rows fit into the memory beside the parts of the result. The optimizer's
    state counts twice, as it was and as it will be.
    """
    parts, element = min(ranges.PART_BYTES, layout.nbytes), rows * layout.itemsize
    if state:
        parts += min(ranges.PART_BYTES, state.map.layout.nbytes)
        element += 2 * state.bytes_per_element
    memory = max(memory_bytes - PARTS_IN_FLIGHT * parts, memory_bytes // 4)
    chunk = max(at_least, memory // (blocks * element), 1)
    if chunk >= CELL:
        chunk -= chunk % CELL
    return min(chunk, -(-layout.size // CELL) * CELL)


def rows_on_demand(layout: TensorLayout, *, takes_steps: bool) -> int:
    """Return how many rows are in memory while a linear rule reads them on demand, in the model's dtypes.

    They are those of a group, that of the parent, and in float64 those of a sum and of an optimizer's step.
    """
    in_float64 = 8 if takes_steps else 3
    return GROUP + 1 + in_float64 * FLOAT64_BYTES // layout.itemsize


def cuts(start: int, stop: int, ends: Iterable[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most ``chunk`` elements from ``start`` to ``stop``; none crosses an end."""
    for end in ends:
        while start < min(end, stop):
            cut = min(start + chunk, end, stop)
            yield start, cut
            start = cut


def cut_again(
    ranges: Iterable[tuple[int, int]], chunk: int, *, unless: Callable[[int, int], bool]
) -> Iterator[tuple[int, int]]:
    """Yield ranges as they are if ``unless`` returns True for them, others in chunks."""
    for start, stop in ranges:
        if unless(start, stop):
            yield start, stop
        else:
            yield from cuts(start, stop, [stop], chunk)
