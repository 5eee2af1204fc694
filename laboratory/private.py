"""What a simulation with differential privacy spends, and what its noise depends on."""

from __future__ import annotations

import hashlib

from aggregation.privacy.accounting import charge, epsilon
from aggregation.privacy.settings import DifferentialPrivacy
from laboratory.models import Arrays


def spent(private: DifferentialPrivacy, rounds: int) -> float:
    """Return the epsilon of a number of rounds."""
    return epsilon(rounds * charge(private, 1), private.delta) if rounds else 0.0


def content_of(arrays: Arrays) -> str:
    """Return a hash of arrays, on which the noise of a private round depends."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
