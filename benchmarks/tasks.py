"""The tasks that are measured, each run in a process of its own (`benchmarks.children`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

from aggregation.engine import Combination, Resources, combine
from aggregation.engine.output import FileSink
from aggregation.formats import Spool, open_weights
from aggregation.formats.safetensors_header import encode_header
from aggregation.layout import Tensor, TensorLayout
from aggregation.rules import create_rule
from aggregation.sources import FileSource
from benchmarks.children import answer_to

Answer = dict[str, Any]

READ_BYTES = 1 << 20


def layout_of(size: int, tensors: int = 1) -> TensorLayout:
    """Return the layout of a float32 model, with its parameters in tensors of nearly equal size."""
    cuts = np.linspace(0, size, tensors + 1).astype(int)
    return TensorLayout(
        tuple(
            Tensor(f"layer{number}.weight", np.dtype("<f4"), (int(stop - start),))
            for number, (start, stop) in enumerate(pairwise(cuts))
        )
    )


def make(paths: Sequence[str], size: int, tensors: int = 1, sparse: bool = False) -> Answer:
    """Write updates that differ by 1 % from a common model; sparse ones are zeros without disk space."""
    header = encode_header(layout_of(size, tensors), {})
    model = np.random.default_rng(0).standard_normal(0 if sparse else size, np.float32) * 0.05
    for seed, path in enumerate(paths, start=1):
        with open(path, "wb") as file:
            file.write(header)
            if sparse:
                file.truncate(len(header) + 4 * size)
            else:
                noise = np.random.default_rng(seed).standard_normal(size, np.float32)
                file.write((model + 0.0005 * noise).data)
    return {}


def imports() -> Answer:
    """Do nothing, to measure the interpreter with its imports."""
    return {"seconds": 0.0}


def read(paths: Sequence[str], repeat: int = 1) -> Answer:
    """Read the files once, one after another, into one buffer."""
    buffer = bytearray(READ_BYTES)

    def work() -> None:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            offset = 0
            while count := os.preadv(descriptor, [buffer], offset):
                offset += count
            os.close(descriptor)

    return {"seconds": _best(work, repeat)}


class Discard:
    """A sink that drops the result, so that the disk is not measured."""

    def write_part(self, number: int, data: bytes | bytearray, *, last: bool = False) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def complete(self) -> None:
        pass

    def abort(self) -> None:
        pass


def aggregate(
    paths: Sequence[str],
    rule: str,
    arguments: dict[str, Any],
    parent: str | None = None,
    memory_mb: int = 64,
    out: str | None = None,
    repeat: int = 1,
) -> Answer:
    """Run the engine, from opening the files to the last byte of the result."""

    def work() -> None:
        with Spool() as spool:
            updates = [open_weights(FileSource(p), "safetensors", spool=spool) for p in paths]
            base = open_weights(FileSource(parent), "safetensors", spool=spool) if parent else None
            combination = Combination(
                rule=create_rule(rule, arguments),
                updates=updates,
                num_examples=[1.0 + number % 7 for number in range(len(paths))],
                parent=base,
            )
            sink = FileSink(out) if out else Discard()
            resources = Resources(memory_bytes=memory_mb << 20)
            combine(combination, sink, format="safetensors", resources=resources)

    return {"seconds": _best(work, repeat)}


def products(n: int, size: int, cell: int = 1024, repeat: int = 1) -> Answer:
    """Compute the inner products of all pairs of ``n`` updates in float64, without reading or centring."""
    rows = np.random.default_rng(0).standard_normal((n, cell))

    def work() -> None:
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda _: rows @ rows.T, range(-(-size // cell))):
                pass

    return {"seconds": _best(work, repeat)}


def _stacked(paths: Sequence[str]) -> Any:
    from safetensors.numpy import load_file

    return np.stack([load_file(path)["layer0.weight"] for path in paths])


def numpy_average(paths: Sequence[str], repeat: int = 1) -> Answer:
    """Load all updates and call ``np.average``."""
    counts = [1.0 + number % 7 for number in range(len(paths))]
    return {"seconds": _best(lambda: np.average(_stacked(paths), axis=0, weights=counts), repeat)}


def numpy_median(paths: Sequence[str], repeat: int = 1) -> Answer:
    """Load all updates and call ``np.median``."""
    return {"seconds": _best(lambda: np.median(_stacked(paths), axis=0), repeat)}


def _best(work: Callable[[], Any], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times)


def machine() -> Answer:
    """Return the processor, the cores and the version of numpy."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "?")
    return {"processor": model, "cores": os.cpu_count(), "numpy": np.__version__}


if __name__ == "__main__":
    answer_to(
        {
            task.__name__: task
            for task in (
                make,
                imports,
                read,
                aggregate,
                products,
                numpy_average,
                numpy_median,
                machine,
            )
        }
    )
