"""What happened in a simulation: a record for each round and client."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ClientRecord:
    """What became of a client's update in a round.

    Parameters
    ----------
    client : hashable
        Its name.
    hostile : bool
    sent : bool
        Whether an update of it arrived for this round.
    used : bool
        Whether the rule combined it.
    weight : float
        Its share of the aggregate; 0 if it was not used.
    norm : float, optional
        The Euclidean norm of its difference from the parent, over the optimized tensors of floats. None
        if the round did not consider it. Without a parent, it is the difference from the updates' median,
        and known only if the rule compares updates.
    contribution : float, optional
        The cosine of its difference and the aggregate's. None as well without a parent.
    rejection : str
        Why it was rejected; empty if it was not.
    num_examples : int
        What the client said; 0 if it sent nothing.
    rounds_late : int
        How many aggregates were published since the one that it was trained from.
    metrics : mapping of str to float
        What training reported.
    """

    client: Hashable
    hostile: bool = False
    sent: bool = False
    used: bool = False
    weight: float = 0.0
    norm: float | None = None
    contribution: float | None = None
    rejection: str = ""
    num_examples: int = 0
    rounds_late: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """A round of a simulation.

    Parameters
    ----------
    number : int
        From 1.
    status : str
        ``published``; ``waiting`` if the requirement was not met; ``rejected`` if too few updates could
        be used; ``paused`` if the privacy budget was spent.
    reason : str
        Why it was not published.
    metrics : mapping of str to float
        What ``evaluate`` returned for the latest weights.
    clients : tuple of ClientRecord
    epsilon : float, optional
        What all rounds so far would have spent in a federation; None without differential privacy.
    """

    number: int
    status: str
    reason: str
    metrics: Mapping[str, float]
    clients: tuple[ClientRecord, ...]
    epsilon: float | None = None
