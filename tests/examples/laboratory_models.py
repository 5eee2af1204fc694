"""Simulations whose models are those of PyTorch and JAX, for an interpreter that has these frameworks.

    python -m tests.examples.laboratory_models torch|state_dict|jax

It prints the accuracy after the last round, the type of the model and of a weight, and the names of the
tensors, once as they are saved for a federation and once as a client sends them.
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from federated_client.frameworks import arrays_of
from laboratory import History, simulate

_PROTOTYPES = np.random.default_rng(0).normal(size=(10, 64))


def examples(seed: int) -> tuple[Any, Any]:
    """Return 200 noisy copies of ten prototypes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=200)
    return (_PROTOTYPES[labels] + rng.normal(size=(200, 64))).astype(np.float32), labels


def with_torch(*, as_state_dict: bool) -> tuple[History, Any]:
    """Simulate a network with BatchNorm, as a module or as its state_dict."""
    import torch
    from torch import nn

    torch.set_num_threads(1)

    def network() -> Any:
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    def loaded(model: Any) -> Any:
        if not as_state_dict:
            return model
        module = network()
        module.load_state_dict(model)
        return module

    def train(model: Any, data: Any, rng: np.random.Generator) -> Any:
        torch.manual_seed(int(rng.integers(2**31)))
        module = loaded(model)
        features, labels = map(torch.from_numpy, data)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(features), labels).backward()
            optimizer.step()
        return (module.state_dict() if as_state_dict else module), len(labels)

    def evaluate(model: Any) -> float:
        module = loaded(model).eval()
        features, labels = map(torch.from_numpy, examples(99))
        with torch.no_grad():
            return float((module(features).argmax(dim=1) == labels).float().mean())

    torch.manual_seed(1)
    initial = network()
    return run(train, initial.state_dict() if as_state_dict else initial, evaluate)


def with_jax() -> tuple[History, Any]:
    """Simulate a softmax regression whose parameters are a pytree."""
    import jax
    import jax.numpy as jnp

    def loss(params: Any, features: Any, labels: Any) -> Any:
        logits = features @ params["dense"]["kernel"] + params["dense"]["bias"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    slope = jax.jit(jax.grad(loss))

    def train(params: Any, data: Any, rng: np.random.Generator) -> Any:
        for _ in range(10):
            step = slope(params, *data)
            params = jax.tree.map(lambda value, change: value - 0.5 * change, params, step)
        return params, len(data[1])

    def evaluate(params: Any) -> float:
        features, labels = examples(99)
        logits = features @ params["dense"]["kernel"] + params["dense"]["bias"]
        return float((logits.argmax(axis=1) == labels).mean())

    initial = {
        "dense": {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)},
        "unused": [jnp.ones(1)],
    }
    return run(train, initial, evaluate)


def run(train: Any, initial: Any, evaluate: Any) -> tuple[History, Any]:
    """Return the history, and a weight of the final model."""
    history = simulate(
        train,
        [examples(client) for client in range(4)],
        rounds=4,
        rule="trimmed_mean(f=1)",
        seed=1,
        initial=initial,
        attack="flip x10",
        hostile=1,
        evaluate=evaluate,
    )
    weights = history.weights
    while isinstance(weights, dict):
        weights = next(iter(weights.values()))
    return history, weights


if __name__ == "__main__":
    kind = sys.argv[1]
    found, weight = with_jax() if kind == "jax" else with_torch(as_state_dict=kind == "state_dict")
    types = type(found.weights).__name__, type(weight).__module__.partition(".")[0]
    with TemporaryDirectory() as folder:
        found.save_weights(f"{folder}/w.npz")
        saved = ",".join(sorted(np.load(f"{folder}/w.npz")))
    print(found.metrics["score"][-1], *types, saved, ",".join(sorted(arrays_of(found.weights))))
