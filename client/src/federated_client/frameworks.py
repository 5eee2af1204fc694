"""Weights of frameworks as arrays by name, and back.

Each framework has a module of its own, which is imported for its own models only: `pytorch`, `adapters`
(PEFT), `pytrees` (JAX) and `estimators` (scikit-learn).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from .errors import BadWeights
from .weights import Arrays


class _Framework(Protocol):
    """What each of the modules has."""

    @staticmethod
    def arrays_of(model: Any) -> Mapping[str, Any]:
        """Return the tensors of a model by name."""

    @staticmethod
    def load_into(model: Any, weights: Arrays) -> Any:
        """Put weights into a model, and return it, or a new one if it cannot be changed."""


def arrays_of(model: Any) -> Mapping[str, Any]:
    """Return the tensors of a model by name; what is a mapping of names to arrays is not changed.

    Raises
    ------
    BadWeights
        If the model is of no kind that is known.
    """
    framework = _framework_of(model)
    if framework:
        return framework.arrays_of(model)
    return _flat(model) if _is_nested(model) else cast(Mapping[str, Any], model)


def load_into(model: Any, weights: Arrays) -> Any:
    """Put weights into a model, and return it; a mapping or a pytree is returned as a new one.

    Raises
    ------
    BadWeights
        If the model is of no kind that is known, or the weights are not its own.
    """
    framework = _framework_of(model)
    if framework:
        return framework.load_into(model, weights)
    return _like(model, weights, "") if _is_nested(model) else dict(weights)


def weight_of(weights: Mapping[str, Any], name: str) -> Any:
    """Return the weights of one tensor of a model.

    Raises
    ------
    BadWeights
        If there are none.
    """
    try:
        return weights[name]
    except KeyError:
        raise BadWeights(f"the federation has no tensor {name!r}, which the model has") from None


def _framework_of(model: Any) -> _Framework | None:
    """Return the module for a model; None for mappings of numpy's arrays."""
    name = _name_of(model)
    return cast(_Framework, import_module(f".{name}", __package__)) if name else None


def _name_of(model: Any) -> str:
    if getattr(model, "peft_config", None):
        return "adapters"
    if hasattr(model, "state_dict"):
        return "pytorch"
    if hasattr(model, "get_params") and not isinstance(model, Mapping):
        return "estimators"
    if _is_state_dict(model):
        return "pytorch"
    if "jax" in sys.modules and not _is_of_numpy(model):
        return "pytrees"
    if isinstance(model, Mapping):
        return ""
    raise BadWeights(
        f"cannot find weights in {type(model).__name__}: pass a mapping of names to arrays"
    )


def _is_state_dict(model: Any) -> bool:
    """Return whether a mapping has tensors of PyTorch."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and isinstance(model, Mapping)
        and any(isinstance(value, torch.Tensor) for value in model.values())
    )


def _is_of_numpy(model: Any) -> bool:
    """Return whether all that a mapping contains, however deep, are arrays of numpy and mappings."""
    return isinstance(model, Mapping) and all(
        isinstance(value, np.ndarray) or _is_of_numpy(value) for value in model.values()
    )


def _is_nested(model: Mapping[Any, Any]) -> bool:
    return any(isinstance(each, Mapping) for each in model.values())


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings, by their paths with slashes between."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _like(tree: Mapping[Any, Any], weights: Arrays, prefix: str) -> dict[Any, Any]:
    return {
        name: _like(value, weights, f"{prefix}{name}/")
        if isinstance(value, Mapping)
        else weight_of(weights, f"{prefix}{name}")
        for name, value in tree.items()
    }
