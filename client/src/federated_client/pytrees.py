"""Weights of pytrees of JAX, which must be installed: nested containers and registered classes.

A tensor is named by its path, with slashes between: ``params/dense/kernel``, ``0/weight``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .errors import BadWeights
from .frameworks import weight_of
from .weights import Arrays


def arrays_of(model: Any) -> Mapping[str, Any]:
    """Return the arrays of a pytree by their paths; leaves of other types are not sent.

    Raises
    ------
    BadWeights
        If there are none, or two have the same path.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    named = [(_name(path), leaf) for path, leaf in leaves if _is_array(leaf)]
    if not named:
        raise BadWeights(f"there are no arrays in {type(model).__name__}")
    if len(dict(named)) < len(named):
        raise BadWeights("two arrays of the pytree have the same path: rename one of its keys")
    return dict(named)


def load_into(model: Any, weights: Arrays) -> Any:
    """Return a pytree of the same structure with these weights."""

    def replace(path: Any, leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        weight = weight_of(weights, _name(path))
        return jnp.asarray(weight) if isinstance(leaf, jax.Array) else weight

    return jax.tree_util.tree_map_with_path(replace, model)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(_step(key) for key in path)


def _step(key: Any) -> str:
    """Return the key, index or attribute that leads to a leaf."""
    for name in ("key", "idx", "name"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)
