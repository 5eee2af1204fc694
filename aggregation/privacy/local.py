"""Differential privacy for arrays and files on one machine: `aggregate` and ``python -m aggregation``."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from aggregation.errors import RuleError
from aggregation.policies import TensorPolicies
from aggregation.privacy.accounting import charge, epsilon
from aggregation.privacy.noise import SEED_BYTES, Noise, digest_of
from aggregation.privacy.rule import PrivateMean, private_mean
from aggregation.privacy.settings import NEIGHBOURS, create_differential_privacy
from aggregation.rules.base import Rule
from aggregation.weights import Weights

#: Bytes of an update that are hashed at once.
_HASHED_BYTES = 1 << 20


def local_rule(rule: Rule, arguments: Mapping[str, Any] | None, policies: TensorPolicies) -> Rule:
    """Return the rule with the differential privacy of these arguments; unchanged without arguments.

    Raises
    ------
    RuleError
        If an argument does not fit, or the guarantee would not hold.
    """
    settings = create_differential_privacy(arguments)
    return private_mean(rule, settings, policies) if settings else rule


def with_local_noise(
    rule: Rule,
    seed: str,
    updates: Sequence[Weights],
    *,
    parent: Weights | None,
    differences: bool,
    policies: TensorPolicies,
) -> Rule:
    """Return a private rule with its noise; other rules unchanged.

    With a seed, everything that the sum of the clipped differences depends on decides on the noise. Two
    sums with the same noise would reveal their difference.

    Parameters
    ----------
    rule : Rule
    seed : str
        64 hexadecimal digits, to repeat a result; by default, new secret random bytes.
    updates : sequence of Weights
        All that are combined.
    parent : Weights or None
    differences : bool
        Whether the updates are differences from the parent.
    policies : TensorPolicies

    Raises
    ------
    RuleError
    """
    if not isinstance(rule, PrivateMean):
        return rule
    if not seed:
        return rule.with_noise(Noise(secrets.token_bytes(SEED_BYTES), digest_of(())))
    try:
        secret = bytes.fromhex(seed)
    except ValueError as error:
        raise RuleError("a seed is given in hexadecimal digits") from error
    settings = {
        "differential_privacy": rule.settings.to_json(),
        "differences": differences,
        "policies": policies.to_json(),
        "parent": _content(parent) if parent else None,
    }
    inputs = [json.dumps(settings, sort_keys=True), *map(_content, updates)]
    return rule.with_noise(Noise(secret, digest_of(inputs)))


def mu_squared_of(rule: Rule) -> float | None:
    """Return what a round adds to the account; None unless the rule is private."""
    return charge(rule.settings, 1) if isinstance(rule, PrivateMean) else None


def statement_of(rule: Rule) -> str:
    """Return a line on what a round of a private rule guarantees; empty for other rules."""
    if not isinstance(rule, PrivateMean):
        return ""
    delta = rule.settings.delta
    epsilon_of_round = epsilon(charge(rule.settings, 1), delta)
    return (
        f"epsilon of this round: {epsilon_of_round:.6g} at delta {delta:g}, {NEIGHBOURS}; "
        "earlier rounds add to it\n"
    )


def _content(weights: Weights) -> str:
    """Return a hash of an update's layout and bytes."""
    digest = hashlib.sha256(str(weights.layout.tensors).encode())
    source = weights.source
    buffer = memoryview(bytearray(_HASHED_BYTES))
    for offset in range(0, source.size, _HASHED_BYTES):
        piece = buffer[: min(_HASHED_BYTES, source.size - offset)]
        source.read_into(offset, piece)
        digest.update(piece)
    return digest.hexdigest()
