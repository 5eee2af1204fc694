"""Pytrees of JAX that come back as they were sent: ``python -m tests.examples.jax_pytrees``."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.examples.round_trips import round_trips


class Layer(NamedTuple):
    """A container that is neither a dictionary nor a list."""

    kernel: Any
    bias: Any


def nested(scale: float) -> Any:
    """Return the parameters of a network as Flax has them, in two dtypes."""
    return {
        "params": {
            "dense": {"kernel": jnp.full((3, 2), scale), "bias": jnp.full(2, scale, jnp.bfloat16)}
        }
    }


def of_containers(scale: float) -> Any:
    """Return tuples, lists, a named tuple, an array of numpy, and what is not an array."""
    layers = [Layer(jnp.full((2, 2), scale), jnp.float32(scale)), Layer(jnp.zeros((0, 3)), None)]
    return layers, (np.full(4, scale, np.float64), "name of the model")


def flat(scale: float) -> Any:
    """Return arrays by name."""
    return {"w": jnp.full((2, 3), scale), "step": jnp.int32(scale)}


def main() -> None:
    """Compare structures, types, dtypes and values."""
    makers = {"nested": nested, "containers": of_containers, "flat": flat}
    cases = {name: (partial(make, 2.5), partial(make, 0.0)) for name, make in makers.items()}
    for name, sent, found in round_trips(cases):
        assert jax.tree.structure(found) == jax.tree.structure(sent), name
        for expected, leaf in zip(jax.tree.leaves(sent), jax.tree.leaves(found), strict=True):
            if isinstance(expected, str):
                assert leaf == expected
                continue
            assert isinstance(leaf, jax.Array) == isinstance(expected, jax.Array), name
            assert (leaf.dtype, leaf.shape) == (expected.dtype, expected.shape), name
            assert (np.asarray(leaf) == np.asarray(expected)).all(), name


if __name__ == "__main__":
    main()
