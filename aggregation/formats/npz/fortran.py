"""From Fortran order, first index fastest, to C order, last index fastest, in flat memory."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes turned round at once.
TILE_BYTES = 2 << 20

#: Elements a tile has along either axis, where there are so many: reads and writes must be long.
_RUN = 512


def reorder(source: int, target: int, at: int, shape: tuple[int, ...], itemsize: int) -> None:
    """Write an array that a file holds in Fortran order to another file in C order.

    Parameters
    ----------
    source, target : int
        Descriptors of files, open for reading and writing. The array begins at the first byte of
        ``source``, of which nothing is left.
    at : int
        Where the array shall begin in ``target``.
    shape : tuple of int
        Of the array.
    itemsize : int
        Bytes of an element.
    """
    _reorder(source, 0, target, at, shape, itemsize)


def _reorder(
    source: int, start: int, target: int, at: int, shape: tuple[int, ...], itemsize: int
) -> None:
    """An array of shape (n, ...) in Fortran order is a matrix whose columns have n elements.

    Transposed, it is n arrays of one dimension less, one after the other, each still in Fortran
    order.
    """
    size = math.prod(shape)
    if size * itemsize <= TILE_BYTES:
        array = _read(source, start, size, itemsize)
        _write(target, at, array.reshape(shape, order="F"))
        return
    columns = size // shape[0]
    _transpose(source, start, target, at, shape[0], columns, itemsize)
    if len(shape) == 2:
        return
    step = columns * itemsize
    for offset in range(0, size * itemsize, step):
        _copy(target, at + offset, source, start + offset, step)
        _reorder(source, start + offset, target, at + offset, shape[1:], itemsize)


def _transpose(
    source: int, start: int, target: int, at: int, rows: int, columns: int, itemsize: int
) -> None:
    elements = TILE_BYTES // itemsize
    height = min(rows, max(_RUN, elements // columns))
    width = min(columns, max(1, elements // height))
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            tile = np.empty((min(width, columns - left), min(height, rows - top)), f"V{itemsize}")
            _read_columns(source, start + (left * rows + top) * itemsize, rows, tile)
            _write_rows(target, at + (top * columns + left) * itemsize, columns, tile.T)


def _read_columns(source: int, offset: int, rows: int, tile: NDArray[Any]) -> None:
    """Fill a tile of shape (columns, part of the rows), whole columns in one read."""
    width, height = tile.shape
    if height == rows:
        tile[:] = _read(source, offset, tile.size, tile.itemsize).reshape(tile.shape)
        return
    for column in range(width):
        place = offset + column * rows * tile.itemsize
        tile[column] = _read(source, place, height, tile.itemsize)


def _write_rows(target: int, offset: int, columns: int, tile: NDArray[Any]) -> None:
    """Write a tile of shape (rows, part of the columns), whole rows in one write."""
    height, width = tile.shape
    if width == columns:
        _write(target, offset, tile)
        return
    for row in range(height):
        _write(target, offset + row * columns * tile.itemsize, tile[row])


def _copy(source: int, start: int, target: int, at: int, length: int) -> None:
    for offset in range(0, length, TILE_BYTES):
        _write(
            target, at + offset, _read(source, start + offset, min(TILE_BYTES, length - offset), 1)
        )


def _read(descriptor: int, offset: int, elements: int, itemsize: int) -> NDArray[Any]:
    data = os.pread(descriptor, elements * itemsize, offset)
    return np.frombuffer(data, f"V{itemsize}")


def _write(descriptor: int, offset: int, array: NDArray[Any]) -> None:
    data = memoryview(array.tobytes())
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
