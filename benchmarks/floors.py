"""What the engine is compared with: reading alone, and the same work in plain numpy, block by block.

A floor holds all files open, reuses its buffers, and divides the blocks between its threads. It checks
nothing: neither that a value is finite nor that a file stays the same. `tests/benchmarks` compares its
results with the engine's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Answer = dict[str, Any]
Floats = NDArray[Any]

READ_BYTES = 1 << 20

#: Elements of a block. Of 16K to 128K, a mean was fastest with 64K, and a Gram matrix with 16K.
MEAN_BLOCK = 64 << 10
GRAM_BLOCK = 16 << 10
MEDIAN_BLOCK = 16 << 10


def counts(n: int) -> list[float]:
    """Return the numbers of examples that the updates claim."""
    return [1.0 + number % 7 for number in range(n)]


def read(paths: Sequence[str], threads: int = 1) -> Answer:
    """Read the files once, each from beginning to end by one thread, into one buffer per thread."""

    def work(thread: int) -> None:
        buffer = bytearray(READ_BYTES)
        for path in paths[thread::threads]:
            descriptor = os.open(path, os.O_RDONLY)
            offset = 0
            while count := os.preadv(descriptor, [buffer], offset):
                offset += count
            os.close(descriptor)

    start = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return {"seconds": perf_counter() - start}


class Files:
    """The float32 values of open safetensors files of one layout, read by ranges of elements."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._descriptors = [os.open(path, os.O_RDONLY) for path in paths]
        with open(paths[0], "rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
            file.seek(0)
            self.header = file.read(header)
        self.size = (os.path.getsize(paths[0]) - header) // 4

    def __len__(self) -> int:
        return len(self._descriptors)

    def read(self, row: int, start: int, values: Floats) -> None:
        """Fill ``values`` with the elements of a file from ``start`` on."""
        os.preadv(self._descriptors[row], [values.data], len(self.header) + 4 * start)

    def read_block(self, start: int, block: Floats) -> None:
        """Fill a block with the elements of all files from ``start`` on."""
        for row, values in enumerate(block):
            self.read(row, start, values)


def _divide(
    files: Files, elements: int, threads: int, work: Callable[[list[tuple[int, int]]], Any]
) -> list[Any]:
    """Run ``work`` with a share of the blocks in each thread, and return the results."""
    starts = range(0, files.size, elements)
    blocks = [(start, min(start + elements, files.size)) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, [blocks[thread::threads] for thread in range(threads)]))


def _store(files: Files, result: Floats, out: str) -> None:
    with open(out, "wb") as file:
        file.write(files.header)
        file.write(result.data)
        file.flush()
        os.fsync(file.fileno())


def blocked_mean(paths: Sequence[str], dtype: str, out: str, threads: int = 1) -> Answer:
    """Compute the weighted mean with sums in a dtype, and write it to disk."""
    start = perf_counter()
    files = Files(paths)
    coefficients = np.array(counts(len(files)), dtype)
    total = coefficients.sum()
    result = np.empty(files.size, np.float32)

    def work(blocks: list[tuple[int, int]]) -> None:
        row = np.empty(MEAN_BLOCK, np.float32)
        term, total_of_block = np.empty((2, MEAN_BLOCK), dtype)
        for begin, end in blocks:
            values, terms, sums = (each[: end - begin] for each in (row, term, total_of_block))
            sums.fill(0)
            for number, coefficient in enumerate(coefficients):
                files.read(number, begin, values)
                np.multiply(values, coefficient, out=terms, dtype=dtype)
                np.add(sums, terms, out=sums)
            np.divide(sums, total, out=result[begin:end], casting="same_kind")

    _divide(files, MEAN_BLOCK, threads, work)
    _store(files, result, out)
    return {"seconds": perf_counter() - start}


def blocked_gram(paths: Sequence[str], threads: int = 1) -> Answer:
    """Compute the inner products of all pairs of updates, in float32 without a centre."""
    start = perf_counter()
    files = Files(paths)

    def work(blocks: list[tuple[int, int]]) -> Floats:
        buffer = np.empty((len(files), GRAM_BLOCK), np.float32)
        gram = np.zeros((len(files), len(files)))
        for begin, end in blocks:
            block = buffer[:, : end - begin]
            files.read_block(begin, block)
            gram += block @ block.T
        return gram

    gram = sum(_divide(files, GRAM_BLOCK, threads, work))
    return {"seconds": perf_counter() - start, "trace": float(np.trace(gram))}


def blocked_median(paths: Sequence[str], out: str, threads: int = 1) -> Answer:
    """Compute the coordinate-wise median by sorting columns, and write it to disk.

    numpy sorts contiguous columns four times as fast as it finds their medians or partitions them.
    """
    start = perf_counter()
    files = Files(paths)
    low, high = (len(files) - 1) // 2, len(files) // 2
    result = np.empty(files.size, np.float32)

    def work(blocks: list[tuple[int, int]]) -> None:
        buffer = np.empty((len(files), MEDIAN_BLOCK), np.float32)
        for begin, end in blocks:
            block = buffer[:, : end - begin]
            files.read_block(begin, block)
            columns = np.ascontiguousarray(block.T)
            columns.sort(axis=1)
            np.mean(columns[:, [low, high]], axis=1, out=result[begin:end])

    _divide(files, MEDIAN_BLOCK, threads, work)
    _store(files, result, out)
    return {"seconds": perf_counter() - start}


def numpy_median(paths: Sequence[str]) -> Answer:
    """Load all updates and call ``np.median`` for each tensor."""
    from safetensors.numpy import load_file

    start = perf_counter()
    updates = [load_file(path) for path in paths]
    for name in updates[0]:
        np.median(np.stack([update[name] for update in updates]), axis=0)
    return {"seconds": perf_counter() - start}
