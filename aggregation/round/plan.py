"""The plan of a distributed round, and the tasks that are left of it; both are JSON objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from aggregation.engine.distribution import Capacity, Distribution
from aggregation.errors import UpdatesRejected
from aggregation.optimizers import create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import rule_from_json, rule_to_json
from aggregation.requirements import Readiness, create_requirement
from aggregation.round.values import Claim, ClaimedUpdate
from aggregation.staleness import create_staleness

#: Names of objects in the folder of a plan.
PLAN, SELECTION = "plan.json", "selection.json"

#: Beginning of the names of objects with the reports of combining tasks.
COMBINED = "combined-"

#: Raised when a plan that is written now could not be read by an older version.
VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The tasks that are left of a plan: the input of the state machine.

    Parameters
    ----------
    plan : str
        The folder of the plan.
    attempt : int
        The fencing token of the attempt that has them done.
    centre : str
        What the measuring tasks measure from.
    functions : int
        Tasks that run at the same time.
    measure, combine : list of int
        Numbers of the tasks.
    select : bool
        Whether the rule has still to select.
    """

    plan: str
    attempt: int
    centre: str
    functions: int
    measure: list[int]
    combine: list[int]
    select: bool

    def to_json(self) -> dict[str, Any]:
        """Return the input of the state machine."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Too few updates of a distributed round can be used.

    Parameters
    ----------
    claim : Claim
    rejected : dict of int to str
        Ids of the bad updates, with the reasons.
    reason : str
    """

    claim: Claim
    rejected: dict[int, str]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the tasks of a distributed round need.

    Parameters
    ----------
    claim : Claim
        With the usable updates; its attempt is that of the planner.
    rejected : dict of int to str
        The claim's other updates, with the reasons.
    format : str
        Of the result.
    result : dict
        State of the sink, by which each task writes parts of the one result.
    state : dict, optional
        Likewise for the optimizer's new state, if there is one.
    part_bytes : int
        Size of a part in bytes of the flattened model.
    parts, state_parts, segments : int
        How many there are; no segments if the rule measures nothing.
    centre : str
        What the updates are measured from at first.
    capacity : Capacity
    distribution : Distribution
    """

    claim: Claim
    rejected: dict[int, str]
    format: str
    result: dict[str, Any]
    state: dict[str, Any] | None
    part_bytes: int
    parts: int
    state_parts: int
    segments: int
    centre: str
    capacity: Capacity
    distribution: Distribution

    def to_json(self) -> bytes:
        """Return the plan as a JSON object."""
        claim = self.claim
        return json.dumps(
            {
                "version": VERSION,
                "claim": {
                    "model_id": claim.model_id,
                    "round_id": claim.round_id,
                    "number": claim.number,
                    "attempt": claim.attempt,
                    "rule": rule_to_json(claim.rule),
                    "requirement": [claim.requirement.name, _arguments(claim.requirement)],
                    "members": claim.readiness.members,
                    "ready": claim.readiness.ready,
                    "waited": claim.readiness.waited.total_seconds(),
                    "updates": [asdict(update) for update in claim.updates],
                    "differences": claim.differences,
                    "policies": claim.policies.to_json(),
                    "parent": claim.parent,
                    "staleness": [claim.staleness.name, _arguments(claim.staleness)],
                    "optimizer": [claim.optimizer.name, _arguments(claim.optimizer)],
                    "optimizer_state": claim.optimizer_state,
                    "sealed_seed": claim.sealed_seed,
                },
                "rejected": {str(update): why for update, why in self.rejected.items()},
                "format": self.format,
                "result": self.result,
                "state": self.state,
                "part_bytes": self.part_bytes,
                "parts": self.parts,
                "state_parts": self.state_parts,
                "segments": self.segments,
                "centre": self.centre,
                "capacity": asdict(self.capacity),
                "distribution": asdict(self.distribution),
            }
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """Return the plan that `to_json` wrote."""
        found = json.loads(data)
        claim, tasks = found["claim"], found["distribution"]
        return cls(
            claim=Claim(
                model_id=claim["model_id"],
                round_id=claim["round_id"],
                number=claim["number"],
                attempt=claim["attempt"],
                rule=rule_from_json(claim["rule"]),
                requirement=create_requirement(*claim["requirement"]),
                readiness=Readiness(
                    members=claim["members"],
                    ready=claim["ready"],
                    waited=timedelta(seconds=claim["waited"]),
                ),
                updates=tuple(ClaimedUpdate(**update) for update in claim["updates"]),
                differences=claim["differences"],
                policies=TensorPolicies.from_json(claim["policies"]),
                parent=claim["parent"],
                staleness=create_staleness(*claim["staleness"]),
                optimizer=create_optimizer(*claim["optimizer"]),
                optimizer_state=claim["optimizer_state"],
                sealed_seed=claim["sealed_seed"],
            ),
            rejected={int(update): why for update, why in found["rejected"].items()},
            format=found["format"],
            result=found["result"],
            state=found["state"],
            part_bytes=found["part_bytes"],
            parts=found["parts"],
            state_parts=found["state_parts"],
            segments=found["segments"],
            centre=found["centre"],
            capacity=Capacity(**found["capacity"]),
            distribution=Distribution(
                functions=tasks["functions"],
                measuring=tuple((first, last) for first, last in tasks["measuring"]),
                combining=tuple((first, last) for first, last in tasks["combining"]),
            ),
        )


def _arguments(described: Any) -> dict[str, Any]:
    """Return the arguments of a requirement, a discount or an optimizer, which are its fields."""
    return asdict(described)


def segment_name(centre: str, index: int) -> str:
    """Return the name of the object with the products of a segment."""
    return f"{centre}-{index:05d}.f64"


def task_name(task: int) -> str:
    """Return the name of the object that says that a combining task has ended."""
    return f"{COMBINED}{task:05d}.json"


def rejections_by_id(error: UpdatesRejected, updates: Sequence[ClaimedUpdate]) -> dict[int, str]:
    """Return the reasons of an error by the ids of the updates."""
    return {updates[position].id: why for position, why in error.reasons.items()}
