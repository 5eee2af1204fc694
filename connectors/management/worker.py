"""A process that does tasks of a distributed round: the workers' function of `run_round --functions`.

Nothing that needs Django is imported at the top: the process begins here.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from connectors.runtime.events import RoundTask
    from connectors.usecases.distributed_round import TaskRunner


def serve(connection: Connection) -> None:
    """Do the tasks that arrive, one after another, until the other end of the connection is closed.

    A task stops with `OutOfTime` if a message arrives meanwhile, or if the sender has died.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is handled by the process that sends tasks.
    django.setup()
    from connectors import application
    from connectors.usecases.distributed_round import TaskRunner

    resources = replace(application.round_resources(), workers=1)
    runner = TaskRunner(application.round_connector(), resources, connection.poll)
    with suppress(EOFError, OSError):
        while task := connection.recv():
            connection.send(_reply(runner, task))


def _reply(runner: TaskRunner, task: RoundTask) -> dict[str, Any]:
    """Return what a task did, or its error as Lambda reports it."""
    try:
        if task.kind == "measure":
            return runner.measure(task.plan, task.item, task.centre, task.retries)
        return runner.combine(task.plan, task.item, task.retries)
    except Exception as error:
        return {"errorType": type(error).__name__, "errorMessage": str(error)}
