"""Flower's strategies as a process that aggregates: the same updates, the strategies' own code.

An interpreter runs this module that has Flower installed, and nothing of this project. It reads requests
from standard input: a line of JSON, and the weights of the clients as float32. It answers with the weights
of the aggregate.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import numpy as np

#: Hostile clients that are expected, as in `setups.F`; Bulyan needs eleven clients for two.
F = 2


def create_strategy(name: str, initial: Any) -> Any:
    """Return a strategy of Flower, with what the operator of `setups.py` would set."""
    from flwr.common import ndarrays_to_parameters
    from flwr.server import strategy

    start = {"initial_parameters": ndarrays_to_parameters([initial])}
    arguments: dict[str, dict[str, Any]] = {
        "FedAvgM": {"server_momentum": 0.5, **start},
        "FedAdagrad": {"eta": 0.1, "tau": 0.01, **start},
        "FedAdam": {"eta": 0.1, "tau": 0.01, **start},
        "FedYogi": {"eta": 0.1, "tau": 0.01, **start},
        "FedTrimmedAvg": {"beta": 0.2},
        "Krum": {"num_malicious_clients": F, "num_clients_to_keep": 6},
        "Bulyan": {"num_malicious_clients": 1, "to_keep": 0},
    }
    return getattr(strategy, name)(**arguments.get(name, {}))


def aggregate(strategy: Any, number: int, weights: Any, counts: list[int]) -> Any:
    """Return the aggregate of a round, by the strategy's `aggregate_fit`."""
    from flwr.common import (
        Code,
        FitRes,
        Status,
        ndarrays_to_parameters,
        parameters_to_ndarrays,
    )

    results: Any = [
        (
            None,
            FitRes(Status(Code.OK, ""), ndarrays_to_parameters([row]), count, {}),
        )
        for row, count in zip(weights, counts, strict=True)
    ]
    found, _ = strategy.aggregate_fit(number, results, [])
    return parameters_to_ndarrays(found)[0]


def main() -> None:
    """Answer requests until standard input ends; a strategy is kept for each run."""
    logging.disable(logging.WARNING)
    strategies: dict[int, Any] = {}
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        n, width = len(request["counts"]), request["width"]
        rows = np.frombuffer(sys.stdin.buffer.read(4 * n * width), np.float32).reshape(n, width)
        parent = np.frombuffer(sys.stdin.buffer.read(4 * width), np.float32)
        run = request["run"]
        if run not in strategies:
            strategies[run] = create_strategy(request["strategy"], parent)
        found = aggregate(strategies[run], request["round"], rows, request["counts"])
        sys.stdout.buffer.write(np.asarray(found, np.float32).tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
