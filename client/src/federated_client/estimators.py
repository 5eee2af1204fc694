"""Weights of estimators of scikit-learn: the attributes that they learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import BadWeights
from .frameworks import weight_of
from .weights import Arrays

#: What estimators learn, by name; the arrays of a list are numbered.
LEARNED = (
    *("coef_", "intercept_", "coefs_", "intercepts_"),
    *("cluster_centers_", "components_", "mean_", "scale_", "theta_", "var_", "class_prior_"),
)


def arrays_of(model: Any) -> Mapping[str, Any]:
    """Return what a fitted estimator has learned.

    Raises
    ------
    BadWeights
        If it has learned nothing of what is known here.
    """
    found: dict[str, Any] = {}
    for name in LEARNED:
        value = getattr(model, name, None)
        if isinstance(value, list):
            found |= {f"{name}.{number}": array for number, array in enumerate(value)}
        elif value is not None:
            found[name] = np.asarray(value)
    if not found:
        raise BadWeights(
            f"{type(model).__name__} has none of {', '.join(LEARNED)}: fit it first, or pass a mapping "
            "of names to arrays"
        )
    return found


def load_into(model: Any, weights: Arrays) -> Any:
    """Replace what a fitted estimator has learned, and return it."""
    for name in LEARNED:
        value = getattr(model, name, None)
        if isinstance(value, list):
            numbered = (f"{name}.{number}" for number in range(len(value)))
            setattr(model, name, [weight_of(weights, each) for each in numbered])
        elif value is not None:
            weight = weight_of(weights, name)
            setattr(model, name, weight if isinstance(value, np.ndarray) else weight[()])
    return model
