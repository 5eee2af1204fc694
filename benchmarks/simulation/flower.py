"""The federation in Flower's simulation; an interpreter runs this module that has ``flwr[simulation]``."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.children import answer_to
from benchmarks.simulation import federation


def simulate(digits: str) -> dict[str, Any]:
    """Simulate it, and return the time without imports and the accuracy."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    names = list(federation.initial())

    def model_of(arrays: Any) -> Any:
        return dict(zip(names, arrays.to_numpy_ndarrays(), strict=True))

    client, server = ClientApp(), ServerApp()
    scores: list[float] = []

    @client.train()  # type: ignore[untyped-decorator]
    def train(message: Any, context: Context) -> Any:
        position = int(context.node_config["partition-id"])
        part = federation.part_of(position, digits)
        number = int(message.content["config"]["server-round"])
        rng = np.random.default_rng([federation.SEED, number, position])
        found = federation.trained(model_of(message.content["arrays"]), part, rng)
        content = RecordDict(
            {
                "arrays": ArrayRecord(list(found.values())),
                "metrics": MetricRecord({"num-examples": len(part.labels)}),
            }
        )
        return Message(content=content, reply_to=message)

    def evaluate(number: int, arrays: Any) -> Any:
        scores.append(federation.test_accuracy(model_of(arrays), digits))
        return MetricRecord({"accuracy": scores[-1]})

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=federation.CLIENTS)
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(list(federation.initial().values())),
            num_rounds=federation.ROUNDS,
            evaluate_fn=evaluate,
        )

    start = perf_counter()
    cores = len(os.sched_getaffinity(0))
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=federation.CLIENTS,
        backend_config={
            "init_args": {"num_cpus": cores, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    if len(scores) != federation.ROUNDS + 1:
        raise RuntimeError(f"Flower evaluated {len(scores) - 1} of {federation.ROUNDS} rounds")
    return {"seconds": perf_counter() - start, "accuracy": scores[-1]}


if __name__ == "__main__":
    answer_to({"simulate": simulate})
