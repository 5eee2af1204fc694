"""Published measurements of a sharded serverless aggregator, and the same work done by this project."""

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
    model : str
        Size of the model, and the number of functions where it was published.
    nbytes : int
        Size of the model in float32.
    seconds : float
        Duration of a round.
    dollars : float
        Cost of a thousand rounds.
    target_seconds : float
        In how many seconds functions of this project are to do the same.
    """

    model: str
    nbytes: int
    seconds: float
    dollars: float
    target_seconds: float
    clients: int = 20


SHARDED = (
    Sharded(model="42.7 MB", nbytes=42_700_000, seconds=7.9, dollars=0.26, target_seconds=20),
    Sharded(
        model="512 MB, 4 functions",
        nbytes=512_000_000,
        seconds=67,
        dollars=3.38,
        target_seconds=60,
    ),
    Sharded(
        model="512 MB, 16 functions",
        nbytes=512_000_000,
        seconds=22,
        dollars=9.02,
        target_seconds=20,
    ),
    Sharded(model="5 GB", nbytes=5_120_000_000, seconds=299, dollars=84.8, target_seconds=60),
)

#: The longest timeout of Lambda.
LONGEST_SECONDS = 900

#: Functions that may share a round where the published work is shared.
MAX_FUNCTIONS = 100


def same_work(published: Sharded, federation: Federation, *, shared: bool = False) -> Federation:
    """Return a federation in which this project does the published work: a weighted mean.

    Parameters
    ----------
    published : Sharded
    federation : Federation
        Whose functions do it, with the longest timeout.
    shared : bool
        Whether several functions may share the round.
    """
    work = replace(
        federation.work,
        params=published.nbytes // 4,
        dtype=np.dtype("<f4"),
        updates=published.clients,
        rule=create_rule("weighted_mean"),
    )
    stack = replace(
        federation.stack,
        timeout_seconds=LONGEST_SECONDS,
        max_functions=MAX_FUNCTIONS if shared else 1,
    )
    return replace(
        federation,
        work=work,
        stack=stack,
        clients=published.clients,
        target_seconds=published.target_seconds,
    )
