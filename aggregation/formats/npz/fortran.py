"""Reorders an array from Fortran order (first index fastest) to C order, in constant memory."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: How many bytes are reordered at once.
TILE_BYTES = 2 << 20

#: The elements of a tile along either axis, if there are as many: reads and writes must be long.
_RUN = 512


def reorder(source: int, target: int, at: int, shape: tuple[int, ...], itemsize: int) -> None:
    """Write an array that a file holds in Fortran order to another file in C order.

    Parameters
    ----------
    source, target : int
        Descriptors of files, open for reading and writing. The array begins at the first byte of
        ``source``, which is overwritten.
    at : int
        The first byte of the array in ``target``.
    shape : tuple of int
    itemsize : int
        Bytes of an element.
    """
    _reorder(source, 0, target, at, shape, itemsize)


def _reorder(
    source: int, start: int, target: int, at: int, shape: tuple[int, ...], itemsize: int
) -> None:
    """Reorder an array of shape (n, ...), which in Fortran order is a matrix with columns of n elements.

    Its transpose is n arrays with one dimension less, one after the other, each in Fortran order.
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
    """Fill a tile of shape (columns, part of the rows); complete columns take one read."""
    width, height = tile.shape
    if height == rows:
        tile[:] = _read(source, offset, tile.size, tile.itemsize).reshape(tile.shape)
        return
    for column in range(width):
        place = offset + column * rows * tile.itemsize
        tile[column] = _read(source, place, height, tile.itemsize)


def _write_rows(target: int, offset: int, columns: int, tile: NDArray[Any]) -> None:
    """Write a tile of shape (rows, part of the columns); complete rows take one write."""
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
