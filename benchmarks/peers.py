"""Flower's and NVFlare's aggregation of the same files, as their servers call it.

An interpreter runs this module that has them installed, and nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter, process_time
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

Work = Callable[[], None]


def _updates(paths: Sequence[str]) -> Iterator[tuple[dict[str, Any], int]]:
    for number, path in enumerate(paths):
        yield load_file(path), 1 + number % 7


def _store(tensors: Mapping[str, Any], out: str) -> None:
    """Write a result, and wait until the disk has it."""
    save_file(dict(tensors), out)
    descriptor = os.open(out, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _flower(paths: Sequence[str], out: str, function: Callable[..., Any], *arguments: Any) -> None:
    with safe_open(paths[0], "numpy") as first:
        names = list(first.keys())
    results = [([update[name] for name in names], count) for update, count in _updates(paths)]
    averaged = function(results, *arguments)
    _store(dict(zip(names, averaged, strict=True)), out)


def flower_mean(paths: Sequence[str], out: str) -> Work:
    """Run FedAvg."""
    from flwr.server.strategy.aggregate import aggregate

    return lambda: _flower(paths, out, aggregate)


def flower_median(paths: Sequence[str], out: str) -> Work:
    """Run FedMedian."""
    from flwr.server.strategy.aggregate import aggregate_median

    return lambda: _flower(paths, out, aggregate_median)


def flower_trimmed_mean(paths: Sequence[str], out: str) -> Work:
    """Run FedTrimmedAvg, which cuts a fifth at each end."""
    from flwr.server.strategy.aggregate import aggregate_trimmed_avg

    return lambda: _flower(paths, out, aggregate_trimmed_avg, 0.2)


def nvflare_mean(paths: Sequence[str], out: str) -> Work:
    """Run what `InTimeAccumulateWeightedAggregator` does with each update when it arrives."""
    from nvflare.app_common.aggregators.weighted_aggregation_helper import (
        WeightedAggregationHelper,
    )

    def work() -> None:
        helper = WeightedAggregationHelper()
        for number, (update, count) in enumerate(_updates(paths)):
            helper.add(update, count, f"client-{number}", 0)
        _store(helper.get_result(), out)

    return work


TASKS = (flower_mean, flower_median, flower_trimmed_mean, nvflare_mean)

if __name__ == "__main__":
    request = json.load(sys.stdin)
    task = next(task for task in TASKS if task.__name__ == sys.argv[1])
    work = task(**request)
    start = perf_counter(), process_time()
    work()
    stop = perf_counter(), process_time()
    print(json.dumps({"seconds": stop[0] - start[0], "processor_seconds": stop[1] - start[1]}))
