"""Bucketing: means of random groups of updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from aggregation.arguments import whole_number
from aggregation.errors import RuleError
from aggregation.pre_aggregation.base import PreAggregation, register_step
from aggregation.rules.base import Statistics
from aggregation.rules.selection import Mixture


@register_step
@dataclass(frozen=True)
class Bucketing(PreAggregation):
    """The updates are replaced by the means of random buckets of ``s`` updates.

    Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*, ICLR 2022,
    algorithm 1. The last bucket may be smaller. The permutation follows from a secret seed that is drawn
    when the updates have been claimed: a client that could predict it could choose its bucket.

    Withstands as many hostile updates as the rule does hostile buckets, of ``n / s`` buckets (rounded
    up): a hostile update spoils one bucket. What the rule states then holds for the means of the honest
    buckets, whose expected squared distance from the honest mean is smaller by the factor ``s``.

    Parameters
    ----------
    s : int
        Updates in a bucket.
    """

    s: int
    name = "bucketing"
    needs_seed = True
    groups = True

    def __post_init__(self) -> None:
        whole_number("s", self.s, at_least=2)

    def rows(self, n: int) -> int:
        return -(-n // self.s)

    def updates_for(self, rows: int) -> int:
        return (rows - 1) * self.s + 1

    def mix(self, statistics: Statistics, seed: bytes) -> Mixture:
        if not seed:
            raise RuleError("bucketing needs a secret seed that clients cannot predict")
        n = len(statistics.num_examples)
        order = permutation(n, seed)
        last = n % self.s or self.s
        divisor = math.lcm(self.s, last)
        coefficients = np.zeros((self.rows(n), n))
        for bucket, first in enumerate(range(0, n, self.s)):
            members = order[first : first + self.s]
            coefficients[bucket, members] = divisor // len(members)
        return Mixture(coefficients, float(divisor))


def permutation(n: int, seed: bytes) -> list[int]:
    """Return 0 to ``n - 1`` in an order that follows from a seed and cannot be predicted without it.

    It is the order of keyed hashes. The generators of numpy may change between versions, and an audit
    repeats the order years later.
    """

    def key(position: int) -> bytes:
        return blake2b(position.to_bytes(8, "big"), key=seed, digest_size=16).digest()

    return sorted(range(n), key=key)
