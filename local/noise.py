"""Differential privacy of the demonstration: the noise that all rounds together may have."""

from __future__ import annotations

from typing import Any

from models_app.privacy import least_noise

#: What all rounds together spend at most.
EPSILON, DELTA = 8.0, 1e-5

#: Below the norms of honest differences, so that each of them is clipped.
CLIP_NORM = 1.0


def private_settings(clients: int, rounds: int) -> dict[str, Any]:
    """Return a model's fields with the least noise that keeps so many rounds within `EPSILON`."""
    return {
        "aggregator": "unweighted_mean",
        "differential_privacy": {
            "clip_norm": CLIP_NORM,
            "noise_multiplier": least_noise(EPSILON, DELTA, rounds),
            "cohort": clients,
            "delta": DELTA,
            "max_epsilon": EPSILON,
        },
    }
