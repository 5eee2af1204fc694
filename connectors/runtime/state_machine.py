"""The state machine that has a distributed round done by several functions."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from aggregation.round import RoundAnswer
from aggregation.round.plan import Execution
from connectors.errors import translate_aws_errors


class StateMachine:
    """Starts executions of Step Functions.

    Parameters
    ----------
    client
        boto3's client of Step Functions.
    arn : str
    """

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    def start(self, name: str, execution: Execution) -> RoundAnswer | None:
        """Start an execution; nothing happens if one of this name has been started.

        Raises
        ------
        TemporarilyUnavailable
        ServiceRefused
        """
        already_started = suppress(self._client.exceptions.ExecutionAlreadyExists)
        with translate_aws_errors("Step Functions"), already_started:
            self._client.start_execution(
                stateMachineArn=self._arn, name=name, input=json.dumps(execution.to_json())
            )
        return None
