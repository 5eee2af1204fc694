"""Plan a round over several functions, and resume or replace the plan of an earlier attempt.

The function that claims a round writes a plan. Each task reads the plan, does its share and writes what it
found beside the plan (`aggregation.round.worker`). A bad update that a task finds leads to a new plan
without it, with a new result, so that a late task cannot write into that one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from aggregation.engine import Resources
from aggregation.engine.distribution import Capacity
from aggregation.engine.measure import default_centre, measures
from aggregation.engine.plan import Combination
from aggregation.engine.result import check_part_sizes
from aggregation.engine.steps import steps_of
from aggregation.errors import (
    AggregationError,
    NotEnoughUpdates,
    ObjectMissing,
    ProgressLost,
)
from aggregation.formats import SEEKABLE_FORMATS, NeedsSpool
from aggregation.round.attempt import Attempt
from aggregation.round.cutting import cut_work
from aggregation.round.plan import (
    PLAN,
    SELECTION,
    Execution,
    Plan,
    Rejection,
    segment_name,
    task_name,
)
from aggregation.round.plan_sinks import discard, open_sinks
from aggregation.round.port import OPTIMIZER_STATE, DistributedRoundConnector, Folder
from aggregation.round.values import Claim, RoundCheckpoint
from aggregation.rules import Selection

#: Beginning of the names of objects with the errors of tasks.
FAILURE = "failed-"


def plan_round(
    connector: DistributedRoundConnector,
    claim: Claim,
    capacity: Capacity,
    resources: Resources,
) -> Execution | Rejection | None:
    """Plan a claimed round for several functions, or resume the plan of an earlier attempt.

    Parameters
    ----------
    connector, claim, capacity
    resources : Resources
        For opening the updates; those of the functions that do the tasks are assumed to be the same.

    Returns
    -------
    Execution, Rejection or None
        The tasks that are left to do; the end of the round, if the tasks of an earlier attempt have found
        too many bad updates; None if one function is to do the round.
    """
    saved = claim.checkpoint
    if saved and "plan" in saved:
        with suppress(ObjectMissing):  # The plan has expired: a new one is made.
            return _resume(connector, claim, saved, resources)
    if saved and saved["engine"]:
        return None  # One function has begun it.
    attempt = Attempt(connector, claim, resources, lambda: False)
    try:
        return _plan(connector, claim, attempt, capacity, at_least=2)
    except (NeedsSpool, NotEnoughUpdates):
        return None


def _resume(
    connector: DistributedRoundConnector,
    claim: Claim,
    saved: RoundCheckpoint,
    resources: Resources,
) -> Execution | Rejection | None:
    """Return what is left of the plan of an earlier attempt, or of a new one if that is of no use.

    Raises
    ------
    ObjectMissing
    """
    try:
        checkpoint = checkpoint_after_tasks(connector, saved)
    except ProgressLost:
        plan = Plan.from_json(connector.folder(saved["plan"]).read(PLAN))
        return plan_without(connector, plan, claim.attempt, {}, resources)
    connector.hand_over(claim, checkpoint, progress=checkpoint != saved)
    return remaining_tasks(connector, saved["plan"], claim.attempt)


def checkpoint_after_tasks(
    connector: DistributedRoundConnector, saved: RoundCheckpoint
) -> RoundCheckpoint:
    """Return a checkpoint with what the tasks of its plan have stored by now.

    Raises
    ------
    ObjectMissing
        If the plan is gone.
    ProgressLost
        If the parts of the result are gone.
    """
    folder = connector.folder(saved["plan"])
    plan, names = Plan.from_json(folder.read(PLAN)), folder.names()
    products = [name for name in names if not name.startswith((PLAN, SELECTION, FAILURE))]
    stored = len(products) + _stored_parts(connector, plan, names)
    return RoundCheckpoint(**{**saved, "stored": max(stored, saved.get("stored", 0))})


def _stored_parts(connector: DistributedRoundConnector, plan: Plan, names: set[str]) -> int:
    if all(task_name(task) in names for task in range(len(plan.distribution.combining))):
        return plan.parts + plan.state_parts
    return sum(len(sink.stored_parts()) for sink in open_sinks(connector, plan))


def _plan(
    connector: DistributedRoundConnector,
    claim: Claim,
    attempt: Attempt,
    capacity: Capacity,
    *,
    at_least: int,
    progress: bool = False,
) -> Execution | None:
    """Write a new plan, and hand the round over to its tasks.

    Raises
    ------
    NeedsSpool, NotEnoughUpdates
    PartTooLarge
        If the disk cannot hold a part of the result.
    """
    sizes = [update.size for update in claim.updates if update.size is not None]
    nbytes = sum(sizes) * (1 + measures(claim.rule))
    if at_least > 1 and len(sizes) == len(claim.updates) and not capacity.needs_several(nbytes):
        return None  # Most rounds end here, without a request.
    usable, work = attempt.open()
    cut = cut_work(work, capacity, at_least)
    if cut is None or work.model.format not in SEEKABLE_FORMATS:
        return None
    distribution, part_bytes = cut
    check_part_sizes(work, part_bytes, attempt.resources.disk_bytes)
    steps = steps_of(work, part_bytes)
    state = connector.new_result(claim, OPTIMIZER_STATE, None).begin() if work.state else None
    plan = Plan(
        claim=replace(claim, updates=tuple(usable)),
        rejected=attempt.rejected,
        format=work.model.format,
        result=connector.new_result(claim, work.model.format, None).begin(),
        state=state,
        part_bytes=part_bytes,
        parts=steps[-1].parts,
        state_parts=steps[-1].state_parts,
        segments=distribution.segments,
        centre=default_centre(work).value,
        capacity=capacity,
        distribution=distribution.of_steps(len(steps)),
    )
    location = connector.new_folder(claim)
    _save_plan(connector.folder(location), plan, work)
    rejected = {str(update): why for update, why in plan.rejected.items()}
    checkpoint = RoundCheckpoint(
        rejected=rejected,
        engine=None,
        plan=location,
        sink=plan.result,
        state_sink=plan.state,
        stored=0,
    )
    connector.hand_over(claim, checkpoint, progress=progress)
    return remaining_tasks(connector, location, claim.attempt)


def _save_plan(folder: Folder, plan: Plan, work: Combination) -> None:
    """Write a plan, and the selection of a rule that measures nothing."""
    folder.write(PLAN, plan.to_json())
    if not measures(work.rule):
        save_selection(folder, work.select(work.base_statistics()), None)


def remaining_tasks(
    connector: DistributedRoundConnector, location: str, attempt: int, centre: str | None = None
) -> Execution:
    """Return the tasks of a plan that have not finished."""
    folder = connector.folder(location)
    plan, names = Plan.from_json(folder.read(PLAN)), folder.names()
    centre = centre or plan.centre
    measuring: list[int] = []
    if SELECTION not in names:
        measuring = [
            task
            for task, (first, last) in enumerate(plan.distribution.measuring)
            if any(segment_name(centre, index) not in names for index in range(first, last))
        ]
    combining = range(len(plan.distribution.combining))
    return Execution(
        plan=location,
        attempt=attempt,
        centre=centre,
        functions=plan.distribution.functions,
        measure=measuring,
        select=SELECTION not in names,
        combine=[task for task in combining if task_name(task) not in names],
    )


def load_claim(connector: DistributedRoundConnector, location: str, attempt: int) -> Claim:
    """Return the claim of a plan, as held by an attempt."""
    plan = Plan.from_json(connector.folder(location).read(PLAN))
    return replace(plan.claim, attempt=attempt)


def plan_without(
    connector: DistributedRoundConnector,
    plan: Plan,
    attempt: int,
    rejected: Mapping[int, str],
    resources: Resources,
) -> Execution | Rejection | None:
    """Discard what is stored of the result, and plan the round again without some updates.

    Returns
    -------
    Execution, Rejection or None
        None if one function is to do the round.
    """
    discard(connector, plan)
    reasons = {str(update): why for update, why in {**plan.rejected, **rejected}.items()}
    checkpoint = RoundCheckpoint(rejected=reasons, engine=None)
    claim = replace(plan.claim, attempt=attempt, checkpoint=checkpoint)
    again = Attempt(connector, claim, resources, lambda: False)
    progress = bool(rejected)
    try:
        return _plan(connector, claim, again, plan.capacity, at_least=1, progress=progress)
    except NotEnoughUpdates as error:
        return Rejection(claim=claim, rejected=again.rejected, reason=str(error))


def discard_result(connector: DistributedRoundConnector, location: str) -> None:
    """Delete the stored parts of the result; the sweep deletes what cannot be deleted now."""
    with suppress(AggregationError):
        discard(connector, Plan.from_json(connector.folder(location).read(PLAN)))


def record_failure(folder: Folder, task: str, error: Exception) -> None:
    """Leave the error of a task beside the plan."""
    reason = {"reason": f"{type(error).__name__}: {error}"}
    folder.write(f"{FAILURE}{task}.json", json.dumps(reason).encode())


def recorded_failure(folder: Folder) -> str | None:
    """Return the error of the first task that left one."""
    failures = sorted(name for name in folder.names() if name.startswith(FAILURE))
    return str(json.loads(folder.read(failures[0]))["reason"]) if failures else None


def rejected_updates(folder: Folder, names: set[str]) -> dict[int, str]:
    """Return the updates that tasks found to be bad; the first reason by the order of the tasks."""
    reasons: dict[int, str] = {}
    for name in sorted(names):
        if name.startswith("rejected-"):
            found = json.loads(folder.read(name))
            reasons = {int(update): why for update, why in found.items()} | reasons
    return reasons


def save_selection(folder: Folder, selection: Selection, norms: Sequence[float] | None) -> None:
    """Store what the rule selected, and the norms of the updates."""
    saved = {"selection": selection.to_json(), "norms": norms}
    folder.write(SELECTION, json.dumps(saved).encode())
