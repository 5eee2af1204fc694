"""A warm function that forks a process for each invocation: ``python -m tests.faults.warm_worker``.

Commands come as JSON lines on stdin and are answered on stdout; what the function logs goes to stderr.
The process that forks has no threads and no open connections, so that a child is a whole process of its
own, which can be killed, stopped and continued, without the second that a cold start takes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.client import BaseClient
from django.db import connections

from tests.conftest import using_database
from tests.faults.function import handler
from tests.untyped import default_storage

#: A process that takes longer is killed, so that its test fails instead of hanging.
PATIENCE_SECONDS = 60

READS = ("GetObject", "HeadObject", "ListObjectsV2", "ListMultipartUploads", "ListParts")


class Context:
    """The context that the runtime passes to a handler."""

    function_name = "aggregator"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:aggregator"

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self.aws_request_id = f"process-{os.getpid()}"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int(1000 * (self._ends - time.monotonic())))


class Steps:
    """Counts the external steps of a process, and calls a function before one of them.

    A step is a SQL statement, a COMMIT, a request to AWS, or the answer; reads of S3 in a row are one,
    since they leave the world as it is. The world after a step is the world before the next one, so
    that stopping before every step is stopping after every step, too.

    Parameters
    ----------
    at : int or str or None
        The step's number, counted from 1; or its name, ``"COMMIT"``, and which of that name it is:
        ``"COMMIT 2"``.
    act : callable
        Called once with the name of the step.
    """

    def __init__(self, at: int | str | None, act: Callable[[str], None]) -> None:
        self.names: list[str] = []
        self._count = 0
        self._at = at
        self._act = act

    def take(self, name: str) -> None:
        in_a_row = name in READS and self.names[-1:] and self.names[-1] in READS
        self.names.append(name)
        self._count += not in_a_row
        if self._at in (self._count, name, f"{name} {self.names.count(name)}"):
            self._at = None
            self._act(name)

    def watch(self) -> None:
        """Hook the database connection and every AWS client, in all threads."""

        connection = connections["default"]

        def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            verb, _, rest = sql.partition(" ")
            table = rest.partition('"models_app_')[2].partition('"')[0]
            self.take(f"{verb} {table}".strip())
            return run(sql, params, many, context)

        untyped: Any = connection

        def commit() -> None:
            self.take("COMMIT")
            type(untyped)._commit(untyped)

        def call(client: Any, operation: str, parameters: Any) -> Any:
            self.take(operation)
            return request(client, operation, parameters)

        # Private methods, which the types do not have.
        client_class: Any = BaseClient
        request = client_class._make_api_call
        connection.execute_wrappers.append(execute)
        untyped._commit = commit
        client_class._make_api_call = call


def invoke(event: Any, seconds: float = 300) -> Any:
    """Return the response or the error of the handler as JSON."""
    try:
        return handler(event, Context(seconds))  # type: ignore[arg-type]
    except Exception as error:
        return {"errorType": type(error).__name__, "errorMessage": str(error)}


def settle(events: list[Any], tick_first: bool = False) -> list[Any]:
    """Deliver events, then sweep until no round is due; optionally sweep once before."""
    answers = tick() if tick_first else []
    answers += [invoke(event) for event in events]
    for _ in range(5):
        asked = tick()
        answers += asked
        if not asked:
            return answers
    raise AssertionError(f"it does not become quiet: {answers}")


def tick() -> list[Any]:
    """Sweep, and deliver the requested rounds."""
    swept = invoke({"detail-type": "Scheduled Event"})
    wanted = swept["requested"]
    return [
        invoke({"detail-type": "Scheduled Event", "detail": {"model_id": each}}) for each in wanted
    ]


def pump(queue_url: str, until: str, batch_size: int) -> int:
    """Process a queue, as one of several copies of the function, until a file exists."""
    from local.event_pump import EventPump

    pumping = EventPump(queue_url, invoke, batch_size=batch_size, wait_seconds=0)
    delivered = 0
    while not Path(until).exists():
        delivered += pumping.pump_once()
    return delivered


def _child(command: dict[str, Any]) -> None:
    """Execute a command, and write its outcome to a file."""

    def write_outcome(**outcome: Any) -> None:
        Path(command["outcome"]).write_text(json.dumps({**outcome, "steps": steps.names}))

    def act(name: str) -> None:
        write_outcome(at=name)
        os.kill(os.getpid(), signal.Signals[command["signal"]])

    steps = Steps(command["at"], act)
    with using_database(command["database"]):
        steps.watch()
        answer = ACTS[command["do"]](**command["arguments"])
        steps.take("answer")
        write_outcome(answer=answer)


ACTS: dict[str, Callable[..., Any]] = {
    "invoke": invoke,
    "settle": settle,
    "tick": tick,
    "pump": pump,
}


def _fork(command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(PATIENCE_SECONDS)
    try:
        _child(command)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def _wait(pid: int) -> str | int:
    """Return the signal that stopped or ended a child, or its exit code."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return signal.Signals(os.WSTOPSIG(status)).name
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else signal.Signals(-code).name


def _warm_up() -> None:
    """Load what the first statement and request would, and leave no connection open; and let the
    bucket be, which an environment lists once an hour."""
    import django.db.backends.postgresql.base
    import django.db.backends.sqlite3.base  # noqa: F401

    from connectors import application

    application.prepare()
    application.garbage.is_due()  # From now on it is not, for an hour.
    client = default_storage.connection.meta.client
    client.list_objects_v2(Bucket=default_storage.bucket_name, MaxKeys=1)
    client.close()


def main() -> None:
    """Execute commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _warm_up()
    for line in sys.stdin:
        command = json.loads(line)
        answer = _wait(command["wait"]) if "wait" in command else _fork(command)
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
