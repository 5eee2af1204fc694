"""What joins the tasks of a round over several functions: the selection, and the completed result.

The last task publishes the round as if one function had done all the work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from aggregation.engine import Combined, Resources
from aggregation.engine.measure import (
    must_recentre,
    rounded_products,
    statistics_from,
    with_cosines,
)
from aggregation.engine.segments import Centre, no_products
from aggregation.errors import ProgressLost, TemporarilyUnavailable, UpdatesRejected
from aggregation.round.plan import (
    COMBINED,
    PLAN,
    SELECTION,
    Execution,
    Plan,
    Rejection,
    rejections_by_id,
    segment_name,
    task_name,
)
from aggregation.round.plan_sinks import open_sinks
from aggregation.round.planning import (
    plan_without,
    rejected_updates,
    remaining_tasks,
    save_selection,
)
from aggregation.round.port import DistributedRoundConnector, Folder
from aggregation.round.reports import MEASURED, TaskReport, summarize
from aggregation.round.values import Claim, RoundResult, WorkerSummary
from aggregation.rules import Selection, Statistics


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
        rejected = rejected_updates(folder, names)
        if rejected:
            return _replan(connector, plan, attempt, rejected, resources)
        total = no_products(plan.claim.rule, len(plan.claim.updates))
        with np.errstate(over="ignore", invalid="ignore"):  # `rounded_products` rejects them.
            segments = [segment_name(centre, index) for index in range(plan.segments)]
            ahead = min(resources.readers, max(1, resources.memory_bytes // total.nbytes))
            for products in _read_all(folder, segments, names, ahead):
                np.add(total, np.frombuffer(products, "<f8").reshape(total.shape), out=total)
        counts = np.array([update.num_examples for update in plan.claim.updates], np.float64)
        directions = np.array([update.direction for update in plan.claim.updates], np.float64)
        # A rule that measures needs no steps, and has no discounts.
        known = Statistics(counts, directions=directions)
        statistics = statistics_from(plan.claim.rule, known, rounded_products(total))
    except UpdatesRejected as error:
        rejected = rejections_by_id(error, plan.claim.updates)
        return _replan(connector, plan, attempt, rejected, resources)
    norms = np.sqrt(statistics.squared_norms).tolist()
    if must_recentre(plan.claim.rule, Centre(centre), statistics):
        folder.write("norms.json", json.dumps(norms).encode())
        return remaining_tasks(connector, location, attempt, Centre.MEDIAN.value)
    if "norms.json" in names:  # Those from the first centre, as in one function.
        norms = json.loads(folder.read("norms.json"))
    selection = with_cosines(plan.claim.rule.select(statistics), Centre(centre), statistics)
    save_selection(folder, selection, norms)
    return remaining_tasks(connector, location, attempt)


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
    rejected = rejected_updates(folder, names)
    if rejected:
        return _replan(connector, plan, attempt, rejected, resources)
    reports = _reports(folder, plan, names, resources.readers)
    held = replace(plan, claim=replace(plan.claim, attempt=attempt))
    try:
        result, *states = open_sinks(connector, held, plan.parts, plan.state_parts)
        for sink in (*states, result):
            sink.complete()
    except ProgressLost:
        return _replan(connector, plan, attempt, {}, resources)
    saved = json.loads(folder.read(SELECTION))
    selection, norms = plan.claim.rule.published(
        Selection.from_json(saved["selection"]), saved["norms"]
    )
    return held.claim, RoundResult(
        used=tuple(update.id for update in plan.claim.updates),
        rejected=plan.rejected,
        location=result.location,
        optimizer_state=states[0].location if states else None,
        combined=Combined(
            selection=selection,
            norms=norms,
            bytes_read=sum(report.bytes_read for report in reports),
        ),
        workers=summarize(plan.distribution.functions, reports),
    )


def _reports(folder: Folder, plan: Plan, names: set[str], readers: int) -> list[TaskReport]:
    """Return the reports of all tasks.

    Raises
    ------
    TemporarilyUnavailable
        If a combining task has not finished.
    """
    combined = [task_name(task) for task in range(len(plan.distribution.combining))]
    # A measuring task may have been killed after its last segment: then it has no report.
    measured = sorted(name for name in names if name.startswith(MEASURED))
    return [
        TaskReport.from_json(data)
        for data in _read_all(folder, measured + combined, names, readers)
    ]


def finished_tasks(
    connector: DistributedRoundConnector, location: str, readers: int
) -> WorkerSummary:
    """Return what the tasks did that have finished, for a round that ends without a result.

    Raises
    ------
    ObjectMissing
        If the plan is gone.
    """
    folder = connector.folder(location)
    plan, names = Plan.from_json(folder.read(PLAN)), folder.names()
    finished = sorted(name for name in names if name.startswith((MEASURED, COMBINED)))
    reports = [TaskReport.from_json(data) for data in _read_all(folder, finished, names, readers)]
    return summarize(plan.distribution.functions, reports)


def _replan(
    connector: DistributedRoundConnector,
    plan: Plan,
    attempt: int,
    rejected: Mapping[int, str],
    resources: Resources,
) -> Execution | Rejection:
    outcome = plan_without(connector, plan, attempt, rejected, resources)
    if outcome is None:
        raise TemporarilyUnavailable("the updates have changed: one function does the round")
    return outcome


def _read_all(
    folder: Folder, wanted: Sequence[str], names: set[str], ahead: int
) -> Iterator[bytes]:
    """Yield objects in their order; ``ahead`` of them are read at the same time.

    Raises
    ------
    TemporarilyUnavailable
        If a task has not written one of them.
    """
    missing = [name for name in wanted if name not in names]
    if missing:
        raise TemporarilyUnavailable(
            f"a task of the round has not finished: {missing[0]} is missing"
        )
    with ThreadPoolExecutor(ahead) as pool:
        for start in range(0, len(wanted), ahead):
            yield from pool.map(folder.read, wanted[start : start + ahead])
