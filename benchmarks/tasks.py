"""The tasks that are measured, each run in a process of its own (`benchmarks.children`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from aggregation.engine import Combination, Passes, Resources, combine
from aggregation.engine.measure import default_centre, measure
from aggregation.engine.output import FileSink
from aggregation.formats import Spool, open_weights
from aggregation.formats.safetensors_header import encode_header
from aggregation.optimizers import create_optimizer
from aggregation.pre_aggregation import build_rule
from aggregation.sources import FileSource
from benchmarks import floors
from benchmarks.children import answer_to
from benchmarks.models import layout_of

Answer = dict[str, Any]


def make(
    paths: Sequence[str], parent: str, size: int, tensors: int | None, sparse: bool = False
) -> Answer:
    """Write a model, and updates that differ from it by 1 % of its standard deviation.

    Sparse files are zeros that take no disk space. Others are synced, so that the disk is not still
    writing them while something is measured.
    """
    layout = layout_of(size, tensors)
    header = encode_header(layout, {})
    model = np.zeros(0, np.float32)
    if not sparse:
        model = np.random.default_rng(0).standard_normal(layout.size, np.float32) * 0.05
    for seed, path in enumerate([parent, *paths]):
        with open(path, "wb") as file:
            file.write(header)
            if sparse:
                file.truncate(len(header) + layout.nbytes)
                continue
            noise = np.random.default_rng(seed).standard_normal(layout.size, np.float32)
            file.write((model + 0.0005 * noise if seed else model).data)
            file.flush()
            os.fsync(file.fileno())
    return {}


def imports() -> Answer:
    """Do nothing, to measure the interpreter with its imports."""
    return {"seconds": 0.0}


def _work(
    paths: Sequence[str], rule: str, arguments: Mapping[str, Any], parent: str, spool: Spool
) -> Combination:
    *steps, name = rule.split(" + ")  # As in "nnm(f=5) + multi_krum".
    return Combination(
        rule=build_rule(name, arguments, steps),
        updates=[open_weights(FileSource(p), "safetensors", spool=spool) for p in paths],
        num_examples=floors.counts(len(paths)),
        parent=open_weights(FileSource(parent), "safetensors", spool=spool),
    )


def aggregate(
    paths: Sequence[str],
    rule: str,
    arguments: Mapping[str, Any],
    parent: str,
    out: str,
    memory_mb: int = 64,
) -> Answer:
    """Run the engine, from opening the files to the synced result."""
    start = perf_counter()
    with Spool() as spool:
        work = _work(paths, rule, arguments, parent, spool)
        resources = Resources(memory_bytes=memory_mb << 20)
        combine(work, FileSink(out), format="safetensors", resources=resources)
    return {"seconds": perf_counter() - start}


def optimize(
    paths: Sequence[str],
    rule: str,
    arguments: Mapping[str, Any],
    parent: str,
    out: str,
    memory_mb: int = 64,
) -> Answer:
    """Run the engine with a server optimizer that continues from a state, to two synced results."""
    resources = Resources(memory_bytes=memory_mb << 20)
    states = f"{out}.before", f"{out}.after"

    def round_from(state: str | None, state_out: str) -> float:
        start = perf_counter()
        with Spool() as spool:
            work = replace(
                _work(paths, rule, arguments, parent, spool),
                optimizer=create_optimizer("fedadam"),
                optimizer_state=open_weights(
                    FileSource(state), "safetensors", spool=spool, trusted=True
                )
                if state
                else None,
            )
            sinks = FileSink(out), FileSink(state_out)
            combine(work, sinks[0], state_sink=sinks[1], format="safetensors", resources=resources)
        return perf_counter() - start

    try:
        round_from(None, states[0])
        return {"seconds": round_from(*states)}
    finally:
        for state in states:
            Path(state).unlink(missing_ok=True)


def products(
    paths: Sequence[str], rule: str, arguments: Mapping[str, Any], parent: str, memory_mb: int = 64
) -> Answer:
    """Run the engine's pass that measures the updates."""
    start = perf_counter()
    with Spool() as spool, ExitStack() as stack:
        work = _work(paths, rule, arguments, parent, spool)
        resources = Resources(memory_bytes=memory_mb << 20)
        passes = Passes(work, resources, stack, lambda: False, lambda count: None)
        measure(passes, default_centre(work))
    return {"seconds": perf_counter() - start}


def machine() -> Answer:
    """Return the processor, the cores and the version of numpy."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if "model name" in line), "?")
    return {"processor": model, "cores": os.cpu_count(), "numpy": np.__version__}


TASKS: tuple[Callable[..., Answer], ...] = (
    make,
    imports,
    aggregate,
    optimize,
    products,
    machine,
    floors.read,
    floors.blocked_mean,
    floors.blocked_gram,
    floors.blocked_median,
    floors.numpy_median,
)

if __name__ == "__main__":
    answer_to({task.__name__: task for task in TASKS})
