"""The sinks by which the tasks of a plan write parts of one result and of one optimizer's state."""

from __future__ import annotations

from contextlib import suppress

from aggregation.errors import AggregationError
from aggregation.round.plan import Plan
from aggregation.round.port import OPTIMIZER_STATE, DistributedRoundConnector, ResultSink


def open_sinks(
    connector: DistributedRoundConnector, plan: Plan, parts: int = 0, state_parts: int = 0
) -> list[ResultSink]:
    """Return the sink of a plan's result, and that of the optimizer's new state if there is one.

    Parameters
    ----------
    connector, plan
    parts, state_parts : int
        How many parts of each are known to be stored.

    Raises
    ------
    ProgressLost
        If they are not.
    """
    sinks = [connector.new_result(plan.claim, plan.format, {**plan.result, "parts": parts})]
    if plan.state:
        state = {**plan.state, "parts": state_parts}
        sinks.append(connector.new_result(plan.claim, OPTIMIZER_STATE, state))
    return sinks


def discard(connector: DistributedRoundConnector, plan: Plan) -> None:
    """Delete the stored parts; the sweep deletes what cannot be deleted now."""
    for sink in open_sinks(connector, plan):
        with suppress(AggregationError):  # The sweep deletes what cannot be deleted now.
            sink.abort()
