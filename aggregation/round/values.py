"""The values that pass between a round and its connector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

from aggregation.engine import Checkpoint, Combined
from aggregation.optimizers import NO_OPTIMIZER, Optimizer
from aggregation.policies import DEFAULT, TensorPolicies
from aggregation.requirements import Readiness, Requirement
from aggregation.rules import Rule
from aggregation.staleness import NoDiscount, Staleness

if TYPE_CHECKING:
    from aggregation.masks.settings import SecureAggregation


class Status(StrEnum):
    """How a request for a round ended."""

    PUBLISHED = "published"
    WAITING = "waiting"
    BUSY = "busy"
    PAUSED = "paused"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RoundAnswer:
    """The answer to a request for a round."""

    model_id: int
    status: Status
    round: int | None = None
    aggregate_id: int | None = None
    updates_used: int = 0
    updates_rejected: int = 0
    bytes_read: int = 0
    reason: str = ""
    #: Whether this request has paused the model.
    pauses: bool = False
    #: Whether the round is unfinished and can be resumed at once.
    continues: bool = False

    @classmethod
    def published(cls, claim: Claim, result: RoundResult, aggregate_id: int) -> RoundAnswer:
        """Return the answer of a round whose result is an aggregate now."""
        return cls(
            model_id=claim.model_id,
            status=Status.PUBLISHED,
            round=claim.number,
            aggregate_id=aggregate_id,
            updates_used=len(result.used),
            updates_rejected=len(result.rejected),
            bytes_read=result.combined.bytes_read,
        )

    @classmethod
    def rejected(cls, claim: Claim, rejected: Mapping[int, str], reason: str) -> RoundAnswer:
        """Return the answer of a round that has too few usable updates."""
        return cls(
            model_id=claim.model_id,
            status=Status.REJECTED,
            round=claim.number,
            updates_rejected=len(rejected),
            reason=reason,
        )


@dataclass(frozen=True, kw_only=True)
class ClaimedUpdate:
    """An update that is registered for a round.

    Parameters
    ----------
    num_examples : int
        The number of examples it counts, capped by the model's setting.
    location, size, etag, version
        The object as intake saw it; size is None and etag is empty if intake did not record them.
        The version is empty if storage keeps none.
    num_steps : int, optional
        Steps of local training, if the client stated them.
    rounds_late : int
        How many aggregates were published since the one that it was trained from.
    base : str, optional
        The location of the weights that it was trained from.
    direction : float
        Sum of the cosines of the client's earlier updates, for a rule that remembers them.
    """

    id: int
    num_examples: int
    location: str
    size: int | None = None
    etag: str = ""
    version: str = ""
    num_steps: int | None = None
    rounds_late: int = 0
    base: str | None = None
    direction: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SecureTerms:
    """How the updates of a round were masked.

    Parameters
    ----------
    settings : SecureAggregation
    max_weight : int
        The cap of the updates' weights; 1 if all have the same.
    round : int
        A random number by which the mask keeper knows the round: the numbers of rounds begin again
        when the database is restored. 0 if there is no round.
    """

    settings: SecureAggregation
    max_weight: int
    round: int = 0

    def divisor(self, weight: int) -> float:
        """Return what a sum of quantised updates is divided by, given the sum of their weights."""
        return self.settings.scale * weight / self.max_weight


class MasksProgress(TypedDict):
    """The complete sum of masked updates, and what the mask keeper was asked; JSON-able.

    ``used`` are the ids of the updates, ``weight`` is the sum of their weights, ``sum`` the location of
    their sum and ``request`` the key of the request for the sum of their masks.
    """

    used: list[int]
    weight: int
    sum: str
    request: str
    bytes_read: int


def updates_digest(updates: Sequence[ClaimedUpdate]) -> bytes:
    """Return the digest of a set of updates with their contents, on which the noise of a round depends."""
    from aggregation.privacy.noise import digest_of  # Private rounds alone need it.

    named = ([each.id, each.location, each.size, each.etag, each.version] for each in updates)
    return digest_of(json.dumps(each) for each in named)


def rule_with_noise(rule: Rule, seed: bytes, updates: Sequence[ClaimedUpdate]) -> Rule:
    """Return a private rule with the noise of a set of updates.

    Parameters
    ----------
    rule : PrivateMean
    seed : bytes
        Drawn when the round was claimed.
    updates : sequence of ClaimedUpdate
        Those that are used in the end.
    """
    from aggregation.privacy.noise import Noise
    from aggregation.privacy.rule import PrivateMean

    if not isinstance(rule, PrivateMean):
        raise TypeError(f"{rule.name} has no noise")
    return rule.with_noise(Noise(seed, updates_digest(updates)))


class RoundCheckpoint(TypedDict):
    """The progress of a round, saved by one attempt for the next; JSON-able.

    ``rejected`` maps the ids of bad updates to the reasons. ``engine`` is the progress of combining
    the others. ``plan`` is the folder of a distributed round, ``sink`` the state of its result,
    ``state_sink`` that of the optimizer's new state, and ``stored`` the number of objects and parts that
    its tasks had stored. ``masks`` is there once the sum of masked updates is complete; ``engine`` is then
    the progress of what follows it.
    """

    rejected: dict[str, str]
    engine: Checkpoint | None
    plan: NotRequired[str]
    sink: NotRequired[dict[str, Any]]
    state_sink: NotRequired[dict[str, Any] | None]
    stored: NotRequired[int]
    masks: NotRequired[MasksProgress]


class SinkStates(NamedTuple):
    """The saved states of a round's sinks; None if no part is stored."""

    result: dict[str, Any] | None = None
    #: That of the optimizer's new state.
    optimizer: dict[str, Any] | None = None


def sink_states(checkpoint: RoundCheckpoint | None) -> SinkStates:
    """Return the saved states of the sinks of a round."""
    if checkpoint and "sink" in checkpoint:
        return SinkStates(checkpoint["sink"], checkpoint.get("state_sink"))
    engine = checkpoint["engine"] if checkpoint else None
    if engine is None:
        return SinkStates()
    saved = (engine["progress"], engine["state"])
    return SinkStates(*(each["sink"] if each else None for each in saved))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The updates that a round uses, and everything else that its result depends on.

    Parameters
    ----------
    updates : tuple of ClaimedUpdate
        In claim order: by client, whatever the order of arrival.
    readiness : Readiness
        As it was at the claim.
    attempt : int
        The fencing token.
    differences : bool
        Whether the updates are differences from the parent.
    policies : TensorPolicies
        Of the model's tensors in this round.
    parent : str, optional
        The location of the aggregate (or initial model) that the result succeeds.
    staleness : Staleness
        The discount of late updates.
    optimizer : Optimizer
        The model's server optimizer.
    optimizer_state : str, optional
        The location of the state that the parent's step left; without it, the optimizer starts.
    sealed_seed : str
        The seed of a private round's noise, encrypted: `RoundConnector.open_seed` decrypts it.
    checkpoint : RoundCheckpoint, optional
        Saved by an earlier attempt.
    spool_bytes : int, optional
        Disk space for what must be unpacked: the parent first, then the updates in claim order.
        Updates that no longer fit are rejected. This is a setting, because the space that happens to
        be free must not decide which updates are used. None: all free space is used.
    target_seconds : float
        Time that the reading should take, if several functions may share it.
    max_functions : int, optional
        Functions that may share it; by default, as many as the deployment allows.
    secure : SecureTerms, optional
        How the updates were masked, if they were.
    """

    model_id: int
    round_id: int
    number: int
    attempt: int
    rule: Rule
    requirement: Requirement
    readiness: Readiness
    updates: tuple[ClaimedUpdate, ...]
    differences: bool = False
    policies: TensorPolicies = DEFAULT
    parent: str | None = None
    staleness: Staleness = field(default_factory=NoDiscount)
    optimizer: Optimizer = NO_OPTIMIZER
    optimizer_state: str | None = None
    sealed_seed: str = ""
    checkpoint: RoundCheckpoint | None = None
    spool_bytes: int | None = None
    target_seconds: float = 30.0
    max_functions: int | None = None
    secure: SecureTerms | None = None


class TaskGroup(TypedDict):
    """What one or several tasks of a distributed round did.

    ``kind`` is that of a `TaskReport`, ``tasks`` the number of tasks. They are those of the segments or
    parts from ``first`` to ``last``, counted from 0, without ``last``. ``seconds`` is the longest time
    that one of them took; ``bytes_read`` and ``retries`` are sums.
    """

    kind: str
    tasks: int
    first: int
    last: int
    bytes_read: int
    seconds: float
    retries: int


class WorkerSummary(TypedDict):
    """What the functions of a distributed round did: how many worked at a time, and their tasks."""

    functions: int
    tasks: list[TaskGroup]


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """The stored result of a round.

    Parameters
    ----------
    used : tuple of int
        Ids of the updates that the rule combined or considered.
    rejected : mapping of int to str
        Ids of the rejected updates, with the reasons.
    location : str
        Where the aggregate's bytes are.
    optimizer_state : str, optional
        Where the optimizer's new state is, if there is one.
    workers : WorkerSummary, optional
        What the functions did, if several shared the round.
    """

    used: tuple[int, ...]
    rejected: Mapping[int, str]
    location: str
    combined: Combined
    optimizer_state: str | None = None
    workers: WorkerSummary | None = None
