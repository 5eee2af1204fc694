"""Rounds that several functions share: the state machine, and the functions that do its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moto.s3 import models as moto_s3

from local.cloud import REGION, Cloud
from local.function import sqlite_url
from local.lambda_runtime import LambdaRuntime
from local.step_functions import FunctionPool, state_machine

#: The handlers of both functions; their results have small parts.
HANDLER, WORKER_HANDLER = "local.small_parts.handler", "local.small_parts.work"

#: The rate at which a function is assumed to read. It is so low that even small rounds are shared.
BYTES_PER_SECOND = 300


class SharedRounds:
    """Functions that share rounds.

    Attributes
    ----------
    main : LambdaRuntime
        The aggregating function, which is started with `environment`.
    environment : dict
        Variables by which functions know of each other.
    """

    main: LambdaRuntime

    def __init__(self, workers: FunctionPool, environment: Mapping[str, str]) -> None:
        self._workers = workers
        self.environment = dict(environment)

    def invoke(self, name: str, event: Any) -> Any:
        """Invoke the function of a name."""
        return self._workers.invoke(name, event) if name == "worker" else self.main.invoke(event)


@contextmanager
def shared_rounds(
    cloud: Cloud, environment: Mapping[str, str], functions: int, log: Path
) -> Iterator[SharedRounds]:
    """Run the state machine and the functions that do its tasks.

    Parameters
    ----------
    cloud : Cloud
        In this process.
    environment : mapping
        Of the aggregating function.
    functions : int
        Functions that share a round.
    log : Path
        Where the output of the functions is appended.
    """
    started: list[SharedRounds] = []

    def invoke(name: str, event: Any) -> Any:
        return started[0].invoke(name, event)

    with ExitStack() as stack:
        stack.enter_context(_small_uploads())
        arn = stack.enter_context(state_machine(cloud.endpoint, invoke, REGION))
        own = {
            "STATE_MACHINE_ARN": arn,
            "MAX_FUNCTIONS": str(functions),
            "FUNCTION_BYTES_PER_SECOND": str(BYTES_PER_SECOND),
        }
        # Workers need no database, and could not open one in a folder that does not exist.
        of_worker = {**environment, **own, "DATABASE_URL": sqlite_url(log.parent / "none")}
        workers = [
            stack.enter_context(LambdaRuntime(WORKER_HANDLER, environment=of_worker, log=log))
            for _ in range(functions)
        ]
        started.append(SharedRounds(FunctionPool(workers), own))
        yield started[0]


@contextmanager
def _small_uploads() -> Iterator[None]:
    """Let moto accept parts of any size."""
    minimum: Any = moto_s3
    before = minimum.S3_UPLOAD_PART_MIN_SIZE
    minimum.S3_UPLOAD_PART_MIN_SIZE = 1
    try:
        yield
    finally:
        minimum.S3_UPLOAD_PART_MIN_SIZE = before
