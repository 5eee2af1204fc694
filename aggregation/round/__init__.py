"""One round: claim, read, combine, publish, settle. `run.py` runs these steps."""

from aggregation.round.port import ResultSink, RoundConnector
from aggregation.round.run import run_round
from aggregation.round.values import (
    Claim,
    ClaimedUpdate,
    RoundAnswer,
    RoundCheckpoint,
    RoundResult,
    SecureTerms,
    Status,
    rule_with_noise,
    sink_states,
    updates_digest,
)

__all__ = [
    "Claim",
    "ClaimedUpdate",
    "ResultSink",
    "RoundAnswer",
    "RoundCheckpoint",
    "RoundConnector",
    "RoundResult",
    "SecureTerms",
    "Status",
    "rule_with_noise",
    "run_round",
    "sink_states",
    "updates_digest",
]
