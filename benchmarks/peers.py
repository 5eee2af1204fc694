"""Flower's and NVFlare's aggregation of the same files, as their servers call it.

An interpreter runs this module that has them installed, and nothing of this project.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Answer = dict[str, Any]


def _updates(paths: Sequence[str]) -> Iterator[tuple[dict[str, Any], int]]:
    for number, path in enumerate(paths):
        yield load_file(path), 1 + number % 7


def _flower(paths: Sequence[str], function: Callable[..., Any], *arguments: Any) -> None:
    results = [(list(update.values()), count) for update, count in _updates(paths)]
    function(results, *arguments)


def flower_mean(paths: Sequence[str]) -> Callable[[], None]:
    """Run FedAvg."""
    from flwr.server.strategy.aggregate import aggregate

    return lambda: _flower(paths, aggregate)


def flower_median(paths: Sequence[str]) -> Callable[[], None]:
    """Run FedMedian."""
    from flwr.server.strategy.aggregate import aggregate_median

    return lambda: _flower(paths, aggregate_median)


def flower_trimmed_mean(paths: Sequence[str]) -> Callable[[], None]:
    """Run FedTrimmedAvg, which cuts a fifth at each end."""
    from flwr.server.strategy.aggregate import aggregate_trimmed_avg

    return lambda: _flower(paths, aggregate_trimmed_avg, 0.2)


def nvflare_mean(paths: Sequence[str]) -> Callable[[], None]:
    """Run what `InTimeAccumulateWeightedAggregator` does with each update when it arrives."""
    from nvflare.app_common.aggregators.weighted_aggregation_helper import (
        WeightedAggregationHelper,
    )

    def work() -> None:
        helper = WeightedAggregationHelper()
        for number, (update, count) in enumerate(_updates(paths)):
            helper.add(update, count, f"client-{number}", 0)
        helper.get_result()

    return work


TASKS = (flower_mean, flower_median, flower_trimmed_mean, nvflare_mean)

if __name__ == "__main__":
    request = json.load(sys.stdin)
    task = next(task for task in TASKS if task.__name__ == sys.argv[1])
    work = task(request["paths"])
    start = perf_counter()
    work()
    print(json.dumps({"seconds": perf_counter() - start, "numpy": np.__version__}))
