"""Published measurements of a sharded serverless aggregator, and the same work in one function."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aggregation.rules import create_rule
from costs.estimate import Federation


@dataclass(frozen=True, kw_only=True)
class Sharded:
    """A measurement by its authors, with many functions per round, each for a part of the model.

    Parameters
    ----------
    nbytes : int
        Size of the model in float32.
    seconds : float
        Duration of a round.
    dollars : float
        Cost of a thousand rounds.
    """

    model: str
    nbytes: int
    seconds: float
    dollars: float
    clients: int = 20


SHARDED = (
    Sharded(model="42.7 MB", nbytes=42_700_000, seconds=7.9, dollars=0.26),
    Sharded(model="512 MB", nbytes=512_000_000, seconds=67, dollars=3.38),
    Sharded(model="5 GB", nbytes=5_120_000_000, seconds=299, dollars=84.8),
)

#: The longest timeout of Lambda.
LONGEST_SECONDS = 900


def same_work(published: Sharded, federation: Federation) -> Federation:
    """Return a federation in which one function of this project does the published work.

    It computes a weighted mean in a function like that of ``federation``, with the longest timeout.
    """
    work = replace(
        federation.work,
        params=published.nbytes // 4,
        dtype=np.dtype("<f4"),
        updates=published.clients,
        rule=create_rule("weighted_mean"),
    )
    stack = replace(federation.stack, timeout_seconds=LONGEST_SECONDS)
    return replace(federation, work=work, stack=stack, clients=published.clients)
