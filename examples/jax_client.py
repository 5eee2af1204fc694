"""A small network in JAX, whose parameters are a pytree.

    federated-client enroll URL --token TOKEN
    python -m examples.jax_client SEED ROUNDS

The model's tensors are the arrays of the pytree by their paths: "hidden/0", "hidden/1" and so on.
"""

import sys
from typing import Any

import jax

from federated_client import Federation


def my_examples(seed: int) -> tuple[jax.Array, jax.Array]:
    """Return 300 noisy copies of ten prototypes, in place of what only this client has."""
    prototypes = jax.random.normal(jax.random.key(0), (10, 64))
    for_labels, for_noise = jax.random.split(jax.random.key(seed))
    labels = jax.random.randint(for_labels, (300,), 0, 10)
    return prototypes[labels] + jax.random.normal(for_noise, (300, 64)), labels


def new_parameters() -> Any:
    """Return the parameters from which the first round starts, the same for every client."""
    w1, w2 = (jax.random.normal(jax.random.key(n), (n, n // 2)) / 8 for n in (64, 32))
    return {"hidden": (w1, jax.numpy.zeros(32)), "output": (w2[:, :10], jax.numpy.zeros(10))}


def logits(p: Any, features: jax.Array) -> jax.Array:
    """Apply two layers, with a ReLU between them."""
    (w1, b1), (w2, b2) = p["hidden"], p["output"]
    return jax.nn.relu(features @ w1 + b1) @ w2 + b2


def loss(p: Any, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy."""
    return -(jax.nn.log_softmax(logits(p, features)) * jax.nn.one_hot(labels, 10)).sum(1).mean()


def main(seed: int, rounds: int) -> None:
    """Score each aggregate on examples that are kept back, train it further, and send the result."""
    federation, p, gradients = Federation(), new_parameters(), jax.jit(jax.grad(loss))
    features, labels = my_examples(seed)
    for round in federation.rounds(rounds, initial=p, poll=0.5):
        p = round.load_into(p)
        if round.number:
            right = logits(p, features[250:]).argmax(axis=1) == labels[250:]
            federation.score(num_examples=50, accuracy=right.mean())
        for _ in range(50):
            slopes = gradients(p, features[:250], labels[:250])
            p = jax.tree.map(lambda weight, slope: weight - 0.2 * slope, p, slopes)
        federation.submit(p, num_examples=250)
    print("the new aggregate is number", federation.wait(poll=0.5).number)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
