"""Settings and noise for the tests of differential privacy."""

from __future__ import annotations

import hashlib
from typing import Any

from aggregation.privacy.noise import Noise, digest_of
from aggregation.privacy.settings import DifferentialPrivacy

SETTINGS: dict[str, Any] = {
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
    "cohort": 10,
    "delta": 1e-5,
    "max_epsilon": 8.0,
}


def settings(**changed: Any) -> DifferentialPrivacy:
    """Return settings that differ from `SETTINGS` in some arguments."""
    return DifferentialPrivacy(**SETTINGS | changed)


def noise(name: str, *updates: str) -> Noise:
    """Return the noise of a seed that follows from a name."""
    return Noise(hashlib.sha256(name.encode()).digest(), digest_of(updates))
