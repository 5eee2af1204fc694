"""Reordering arrays on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.formats.npz import fortran


def reordered(folder: Path, array: np.ndarray, at: int) -> bytes:
    """Write an array to a file in Fortran order, and return it as reordered into another file."""
    (folder / "source").write_bytes(array.tobytes(order="F"))
    (folder / "target").write_bytes(b"")
    with (folder / "source").open("r+b") as source, (folder / "target").open("r+b") as target:
        fortran.reorder(source.fileno(), target.fileno(), at, array.shape, array.dtype.itemsize)
    return (folder / "target").read_bytes()[at:]


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.sampled_from(["u1", "f2", "f4", "f8"]),
    st.integers(1, 300),
    st.integers(1, 8),
    st.integers(0, 5),
)
def test_any_shape_in_any_tiles(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[int],
    dtype: str,
    tile_bytes: int,
    run: int,
    at: int,
) -> None:
    """The result is what numpy makes of it in memory, however small the tiles are."""
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fortran, "TILE_BYTES", max(tile_bytes, array.dtype.itemsize))
        patch.setattr(fortran, "_RUN", run)
        assert reordered(tmp_path_factory.mktemp("fortran"), array, at) == array.tobytes()
