"""A small network in JAX, trained for one round.

    python -m examples.jax_client BUCKET MODEL_ID CLIENT_ID

The model's tensors are the parameters by name; `flax.traverse_util.flatten_dict` flattens those of Flax.
"""

import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from federated_client import Bucket, Client

Parameters = Mapping[str, jax.Array]


def my_examples(seed: int) -> tuple[jax.Array, jax.Array]:
    """Return 300 noisy copies of ten prototypes, in place of what only this client has."""
    prototypes = jax.random.normal(jax.random.key(0), (10, 64))
    for_labels, for_noise = jax.random.split(jax.random.key(seed))
    labels = jax.random.randint(for_labels, (300,), 0, 10)
    return prototypes[labels] + jax.random.normal(for_noise, (300, 64)), labels


def new_parameters() -> Parameters:
    """Return the parameters from which the first round starts, the same for every client."""
    first, second = jax.random.split(jax.random.key(0))
    w1, w2 = jax.random.normal(first, (64, 32)), jax.random.normal(second, (32, 10))
    return {"w1": w1 / 8, "b1": jnp.zeros(32), "w2": w2 / 6, "b2": jnp.zeros(10)}


def logits(p: Parameters, features: jax.Array) -> jax.Array:
    """Apply two layers, with a ReLU between them."""
    return jax.nn.relu(features @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def loss(p: Parameters, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy."""
    return -(jax.nn.log_softmax(logits(p, features)) * jax.nn.one_hot(labels, 10)).sum(1).mean()


def main(bucket: str, model_id: str, client_id: str) -> None:
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    features, labels = my_examples(seed=int(client_id[-4:], 16))
    p = me.fetch(initial=new_parameters())
    gradients = jax.jit(jax.grad(loss))
    for _ in range(50):
        p = jax.tree.map(lambda w, g: w - 0.2 * g, p, gradients(p, features[:250], labels[:250]))
    me.upload(p, num_examples=250)
    print("the new aggregate is number", me.wait(poll=0.2).number)
    right = jnp.mean(logits(me.fetch(), features[250:]).argmax(axis=1) == labels[250:])
    me.report_score(num_examples=50, accuracy=right)


if __name__ == "__main__":
    main(*sys.argv[1:])
