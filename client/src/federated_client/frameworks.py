"""Weights of frameworks as arrays by name, and back; a framework is imported only for its own models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import BadWeights
from .weights import Arrays

#: What the estimators of scikit-learn learn, by their names; lists of arrays are numbered.
_LEARNED = ("coef_", "intercept_", "coefs_", "intercepts_", "cluster_centers_", "theta_", "var_")


def arrays_of(model: Any) -> Any:
    """Return the arrays of a model by name; what is a flat mapping of names to arrays is not changed.

    Raises
    ------
    BadWeights
        If the model is of no kind that is known.
    """
    if isinstance(model, Mapping):
        return _flat(model) if any(isinstance(each, Mapping) for each in model.values()) else model
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model)
    if hasattr(model, "state_dict"):
        return model.state_dict()
    if hasattr(model, "get_params"):
        return _learned(model)
    raise BadWeights(
        f"cannot find weights in {type(model).__name__}: pass a mapping of names to arrays"
    )


def load_into(model: Any, weights: Arrays) -> Any:
    """Put weights into a model, and return it; a pytree of JAX is returned as a new one."""
    if isinstance(model, Mapping):
        nested = any(isinstance(each, Mapping) for each in model.values())
        return _like(model, weights, "") if nested else dict(weights)
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        from .pytorch import tensors

        set_peft_model_state_dict(model, tensors(weights))
    elif hasattr(model, "load_state_dict"):
        from .pytorch import tensors

        model.load_state_dict(tensors(weights))
    elif hasattr(model, "get_params"):
        _learn(model, weights)
    else:
        raise BadWeights(f"cannot put weights into {type(model).__name__}")
    return model


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
        else weights[f"{prefix}{name}"]
        for name, value in tree.items()
    }


def _learned(estimator: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _LEARNED:
        value = getattr(estimator, name, None)
        if isinstance(value, list):
            found |= {f"{name}.{number}": array for number, array in enumerate(value)}
        elif value is not None:
            found[name] = np.asarray(value)
    if not found:
        raise BadWeights(
            f"{type(estimator).__name__} has none of {', '.join(_LEARNED)}: fit it first, or pass a "
            "mapping of names to arrays"
        )
    return found


def _learn(estimator: Any, weights: Arrays) -> None:
    lists: dict[str, list[Any]] = {}
    for name, array in weights.items():
        attribute, _, number = name.partition(".")
        if number:
            lists.setdefault(attribute, []).append((int(number), array))
        else:
            setattr(estimator, attribute, array)
    for attribute, numbered in lists.items():
        setattr(estimator, attribute, [array for _, array in sorted(numbered, key=lambda e: e[0])])
