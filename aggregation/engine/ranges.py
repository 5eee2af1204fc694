"""Where the parts of a result and the segments of a measuring pass end.

Both follow from the layout alone. An attempt that resumes another, and a function that computes a share
of a round, therefore cut the model in the same way.
"""

from __future__ import annotations

from aggregation.layout import TensorLayout

#: Elements for which products are computed at once: the grid on which the Gram matrix is summed.
CELL = 2048

#: Bytes of the flattened model in one part of the result, unless the model is so large that it would
#: have more than `MAX_PARTS` of them. Object stores require parts of 5 MiB.
#: As JSON text a float64, eight bytes, is four characters or more (``0.0,``): 6 MiB. An int64 may be
#: two; a part that came to less than half of the bytes is not stored before the next one is added.
PART_BYTES = 12 << 20

#: Object stores accept ten thousand parts at most, of 5 GiB each: objects of 48.8 TiB.
#: Source: "Amazon S3 multipart upload limits" in the user guide of Amazon S3.
MAX_PARTS = 10_000
MAX_PART_BYTES = 5 << 30

#: Each segment stores one matrix of products: a larger model, or more updates, have larger segments.
#: One task reads all matrices: at 70 MB/s, 8 GiB take two minutes.
MAX_SEGMENTS = 16_384
MAX_MATRIX_BYTES = 8 << 30


def part_bytes_of(nbytes: int) -> int:
    """Return the size of the parts of a model or an object of so many bytes."""
    return max(PART_BYTES, -(-nbytes // MAX_PARTS))


def part_ends(layout: TensorLayout, part_bytes: int | None = None) -> list[int]:
    """Return the elements before which the parts of a result end.

    Parameters
    ----------
    layout : TensorLayout
    part_bytes : int, optional
        Size of a part in bytes of the flattened model; by default that of `part_bytes_of`.
    """
    step = part_bytes or part_bytes_of(layout.nbytes)
    ends = [layout.element_at(byte) for byte in range(step, layout.nbytes, step)]
    return [*ends, layout.size]


def segment_ends(layout: TensorLayout, matrix_bytes: int) -> list[int]:
    """Return the elements before which the segments of a measuring pass end, on the grid of cells.

    Parameters
    ----------
    layout : TensorLayout
    matrix_bytes : int
        Size of the products of one segment; all of them together take `MAX_MATRIX_BYTES` at most.
    """
    segments = max(1, min(MAX_SEGMENTS, MAX_MATRIX_BYTES // max(matrix_bytes, 1)))
    segment_bytes = max(PART_BYTES, -(-layout.nbytes // segments))
    byte_ends = range(segment_bytes, layout.nbytes, segment_bytes)
    on_grid = {layout.element_at(byte) // CELL * CELL for byte in byte_ends}
    return [*sorted(on_grid - {0, layout.size}), layout.size]
