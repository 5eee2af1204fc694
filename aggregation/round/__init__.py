"""One round: claim, read, combine, publish, settle."""

from aggregation.round.run import (
    Attempt,
    Claim,
    ClaimedUpdate,
    ResultSink,
    RoundAnswer,
    RoundCheckpoint,
    RoundConnector,
    RoundResult,
    Status,
    run_round,
    sink_state,
)

__all__ = [
    "Attempt",
    "Claim",
    "ClaimedUpdate",
    "ResultSink",
    "RoundAnswer",
    "RoundCheckpoint",
    "RoundConnector",
    "RoundResult",
    "Status",
    "run_round",
    "sink_state",
]
