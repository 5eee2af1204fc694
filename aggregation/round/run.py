"""One round: claim, read, combine, publish, settle.

A round does not know where metadata and bytes are kept: its connector does (`RoundConnector`). No
transaction is open while weights are read. However a round ends, each update that it claimed is part
of its aggregate, is ready again, or is rejected with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from aggregation.engine import DEFAULT_RESOURCES, Resources
from aggregation.errors import (
    LeaseLost,
    MasksPending,
    NotEnoughUpdates,
    OutOfTime,
    TemporarilyUnavailable,
)
from aggregation.round.attempt import Attempt
from aggregation.round.port import RoundConnector, SecureRoundConnector
from aggregation.round.values import Claim, RoundAnswer, Status


def run_round(
    connector: RoundConnector,
    model_id: int,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    out_of_time: Callable[[], bool] = lambda: False,
    on_claim: Callable[[Claim], None] = lambda claim: None,
    distribute: Callable[[Claim], RoundAnswer | None] = lambda claim: None,
) -> RoundAnswer:
    """Run one round of a federated model.

    Parameters
    ----------
    connector : RoundConnector
    model_id : int
    resources : Resources
        How the work is done; the result does not depend on them.
    out_of_time : callable
        Called after every chunk; when it returns True, the round is suspended for a later call.
    on_claim : callable
        Called with the claim before its updates are read.
    distribute : callable
        Hands a claim that is too large for one function over to several, and returns the answer; None
        if this function is to do the round.

    Returns
    -------
    RoundAnswer

    Raises
    ------
    TemporarilyUnavailable
        If storage or the database did not answer. A later call resumes the round.
    Exception
        Any other error, after the round was closed as failed.
    """
    claim = connector.claim_round(model_id)
    if isinstance(claim, RoundAnswer):
        return claim
    on_claim(claim)
    attempt = _attempt_class(claim)(connector, claim, resources, out_of_time)
    try:
        # One function does a round of masked updates: the mask keeper is asked after the whole sum.
        distributed = None if claim.secure else distribute(claim)
        return distributed or _finish(connector, claim, attempt)
    except LeaseLost as error:
        busy = Status.BUSY
        return RoundAnswer(model_id=model_id, status=busy, round=claim.number, reason=str(error))
    except TemporarilyUnavailable:
        connector.release_round(claim, attempt.checkpoint)
        raise
    except Exception as error:
        if connector.fail_round(claim, error):
            attempt.discard()
        raise


def _attempt_class(claim: Claim) -> type[Attempt]:
    if claim.secure is None:
        return Attempt
    # Few models have masked updates, and a cold start does not pay for them.
    from aggregation.round.secure import SecureAttempt

    return SecureAttempt


def _finish(connector: RoundConnector, claim: Claim, attempt: Attempt) -> RoundAnswer:
    """Combine and publish, or close the round in the way that fits the outcome."""
    try:
        return connector.publish_round(claim, attempt.combine())
    except OutOfTime:
        return connector.suspend_round(claim, attempt.checkpoint)
    except MasksPending as error:
        secure = cast(SecureRoundConnector, connector)
        return secure.await_masks(claim, attempt.checkpoint, str(error))
    except NotEnoughUpdates as error:
        return connector.reject_round(claim, attempt.rejected, str(error))
