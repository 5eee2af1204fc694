"""One round over several functions: plan, measure, select, combine, publish.

The function that claims a round writes a plan. Each task reads the plan, does its share and writes what it
found beside the plan; none of them needs the metadata. The last task publishes the round as if one
function had done all the work. A bad update that a task finds leads to a new revision of the plan
without it, with a new result, so that a late task cannot write into that one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from aggregation.engine import Combined, Resources
from aggregation.engine.distribution import Capacity, distribute
from aggregation.engine.measure import (
    default_centre,
    measures,
    must_recentre,
    rounded_products,
    statistics_from,
)
from aggregation.engine.ranges import part_ends
from aggregation.engine.segments import Centre, no_products, segment_ends_of
from aggregation.errors import (
    AggregationError,
    NotEnoughUpdates,
    ProgressLost,
    TemporarilyUnavailable,
    UpdatesRejected,
)
from aggregation.formats import SEEKABLE_FORMATS, NeedsSpool
from aggregation.round.attempt import Attempt
from aggregation.round.plan import (
    PLAN,
    SELECTION,
    Execution,
    Plan,
    Rejection,
    rejections_by_id,
    segment_name,
    task_name,
)
from aggregation.round.port import DistributedRoundConnector, Folder
from aggregation.round.values import Claim, RoundCheckpoint, RoundResult
from aggregation.rules import Selection, Statistics


def plan_round(
    connector: DistributedRoundConnector,
    claim: Claim,
    capacity: Capacity,
    resources: Resources,
) -> Execution | None:
    """Plan a claimed round for several functions, or resume the plan of an earlier attempt.

    Parameters
    ----------
    connector, claim, capacity
    resources : Resources
        For opening the updates.

    Returns
    -------
    Execution or None
        The tasks that are left to do; None if one function is to do the round.
    """
    saved = claim.checkpoint
    if saved and "plan" in saved:
        return _remaining(connector, saved["plan"], claim.attempt)
    if saved and saved["engine"]:
        return None  # One function has begun it.
    attempt = Attempt(connector, claim, resources, lambda: False)
    try:
        return _plan(connector, claim, attempt, capacity, at_least=2)
    except (NeedsSpool, NotEnoughUpdates):
        return None


def _plan(
    connector: DistributedRoundConnector,
    claim: Claim,
    attempt: Attempt,
    capacity: Capacity,
    *,
    at_least: int,
) -> Execution | None:
    """Write a new plan, and hand the round over to its tasks.

    Raises
    ------
    NeedsSpool, NotEnoughUpdates
    """
    sizes = [update.size for update in claim.updates if update.size is not None]
    nbytes = sum(sizes) * (1 + measures(claim.rule))
    if len(sizes) == len(claim.updates) and capacity.functions_for(nbytes) < at_least:
        return None  # Most rounds end here, without a request.
    usable, work = attempt.open()
    distribution = distribute(work, capacity, at_least)
    if distribution is None or work.model.format not in SEEKABLE_FORMATS:
        return None
    plan = Plan(
        claim=replace(claim, updates=tuple(usable)),
        rejected=attempt.rejected,
        format=work.model.format,
        result=connector.new_result(claim, work.model.format, None).begin(),
        parts=len(part_ends(work.layout)),
        segments=len(segment_ends_of(work)) if measures(work.rule) else 0,
        centre=default_centre(work).value,
        capacity=capacity,
        distribution=distribution,
    )
    location = connector.new_folder(claim)
    folder = connector.folder(location)
    folder.write(PLAN, plan.to_json())
    if not measures(work.rule):
        selection = work.rule.select(Statistics(np.asarray(work.num_examples, np.float64)))
        _save_selection(folder, selection, None)
    rejected = {str(update): why for update, why in plan.rejected.items()}
    checkpoint = RoundCheckpoint(rejected=rejected, engine=None, plan=location, sink=plan.result)
    connector.hand_over(claim, checkpoint)
    return _remaining(connector, location, claim.attempt)


def _remaining(
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


def select(
    connector: DistributedRoundConnector,
    location: str,
    attempt: int,
    centre: str,
    resources: Resources,
) -> Execution | Rejection:
    """Let the rule select, after all segments were measured around a centre.

    Returns
    -------
    Execution or Rejection
        What follows: the combining tasks, a second measuring pass around the median, or the tasks of a
        new plan without the updates that turned out bad; or the end of the round without them.
    """
    folder = connector.folder(location)
    plan, names = Plan.from_json(folder.read(PLAN)), folder.names()
    try:
        rejected = _rejected(folder, names)
        if rejected:
            return _plan_without(connector, plan, attempt, rejected, resources)
        total = no_products(plan.claim.rule, len(plan.claim.updates))
        with np.errstate(over="ignore", invalid="ignore"):  # `rounded_products` rejects them.
            for index in range(plan.segments):
                products = np.frombuffer(_read(folder, segment_name(centre, index), names), "<f8")
                np.add(total, products.reshape(total.shape), out=total)
        counts = np.array([update.num_examples for update in plan.claim.updates], np.float64)
        statistics = statistics_from(plan.claim.rule, counts, rounded_products(total))
    except UpdatesRejected as error:
        rejected = rejections_by_id(error, plan.claim.updates)
        return _plan_without(connector, plan, attempt, rejected, resources)
    norms = np.sqrt(statistics.squared_norms).tolist()
    if must_recentre(plan.claim.rule, Centre(centre), statistics):
        folder.write("norms.json", json.dumps(norms).encode())
        return _remaining(connector, location, attempt, Centre.MEDIAN.value)
    if "norms.json" in names:  # Those from the first centre, as in one function.
        norms = json.loads(folder.read("norms.json"))
    _save_selection(folder, plan.claim.rule.select(statistics), norms)
    return _remaining(connector, location, attempt)


def finish(
    connector: DistributedRoundConnector, location: str, attempt: int, resources: Resources
) -> tuple[Claim, RoundResult] | Execution | Rejection:
    """Complete the result after all tasks have ended.

    Returns
    -------
    (Claim, RoundResult), Execution or Rejection
        What is to be published; or the tasks of a new plan, if updates turned out bad or the stored
        parts are gone; or the end of the round without those updates.

    Raises
    ------
    TemporarilyUnavailable
        If a task has not finished.
    """
    folder = connector.folder(location)
    plan, names = Plan.from_json(folder.read(PLAN)), folder.names()
    rejected = _rejected(folder, names)
    if rejected:
        return _plan_without(connector, plan, attempt, rejected, resources)
    reports = [
        json.loads(_read(folder, task_name(task), names))
        for task in range(len(plan.distribution.combining))
    ]
    try:
        state = {**plan.result, "parts": plan.parts}
        sink = connector.new_result(plan.claim, plan.format, state)
        sink.complete()
    except ProgressLost:
        return _plan_without(connector, plan, attempt, {}, resources)
    saved = json.loads(folder.read(SELECTION))
    return replace(plan.claim, attempt=attempt), RoundResult(
        used=tuple(update.id for update in plan.claim.updates),
        rejected=plan.rejected,
        location=sink.location,
        combined=Combined(
            selection=Selection.from_json(saved["selection"]),
            norms=saved["norms"],
            bytes_read=sum(report["bytes_read"] for report in reports),
        ),
    )


def _plan_without(
    connector: DistributedRoundConnector,
    plan: Plan,
    attempt: int,
    rejected: Mapping[int, str],
    resources: Resources,
) -> Execution | Rejection:
    """Discard what is stored of the result, and plan the round again without some updates."""
    with suppress(AggregationError):  # The sweep deletes what cannot be deleted now.
        connector.new_result(plan.claim, plan.format, {**plan.result, "parts": 0}).abort()
    reasons = {str(update): why for update, why in {**plan.rejected, **rejected}.items()}
    checkpoint = RoundCheckpoint(rejected=reasons, engine=None)
    claim = replace(plan.claim, attempt=attempt, checkpoint=checkpoint)
    again = Attempt(connector, claim, resources, lambda: False)
    try:
        execution = _plan(connector, claim, again, plan.capacity, at_least=1)
    except NotEnoughUpdates as error:
        return Rejection(claim=claim, rejected=again.rejected, reason=str(error))
    if execution is None:
        raise TemporarilyUnavailable("the updates have changed: one function does the round")
    return execution


def _rejected(folder: Folder, names: set[str]) -> dict[int, str]:
    """Return the updates that tasks found to be bad; the first reason by the order of the tasks."""
    reasons: dict[int, str] = {}
    for name in sorted(names):
        if name.startswith("rejected-"):
            found = json.loads(folder.read(name))
            reasons = {int(update): why for update, why in found.items()} | reasons
    return reasons


def _read(folder: Folder, name: str, names: set[str]) -> bytes:
    if name not in names:
        raise TemporarilyUnavailable(f"a task of the round has not finished: {name} is missing")
    return folder.read(name)


def _save_selection(folder: Folder, selection: Selection, norms: Sequence[float] | None) -> None:
    saved = {"selection": selection.to_json(), "norms": norms}
    folder.write(SELECTION, json.dumps(saved).encode())
