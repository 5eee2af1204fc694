"""The federation in the laboratory."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from benchmarks.children import answer_to
from benchmarks.simulation import federation


def simulate(digits: str) -> dict[str, Any]:
    """Simulate it, and return the time without imports and the accuracy."""
    from laboratory import simulate

    parts = [federation.part_of(client, digits) for client in range(federation.CLIENTS)]
    start = perf_counter()
    history = simulate(
        lambda model, part, rng: (federation.trained(model, part, rng), len(part.labels)),
        parts,
        rounds=federation.ROUNDS,
        rule="weighted_mean",
        seed=federation.SEED,
        initial=federation.initial(),
        evaluate=lambda model: federation.test_accuracy(model, digits),
    )
    seconds = perf_counter() - start
    return {"seconds": seconds, "accuracy": history.metrics["score"][-1]}


if __name__ == "__main__":
    answer_to({"simulate": simulate})
