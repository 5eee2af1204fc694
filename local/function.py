"""The function as it is deployed: its runtime, its queue, its schedule and its environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from local.cloud import REGION, Cloud
from local.event_pump import EventPump
from local.lambda_runtime import LambdaRuntime
from local.schedule import Schedule, scheduled_event

#: The user's own variables that would lead Django or boto3 to another database, bucket or account.
MISLEADING = (
    "STORAGE_ROOT",
    "ADMIN",
    "DATABASE_IAM_AUTH",
    "EVENT_BUS",
    "AWS_SESSION_TOKEN",
    "PRIVACY_KEY",
)


def sqlite_url(folder: Path) -> str:
    """Return the URL of the SQLite database in a folder, whatever characters its name has."""
    return f"sqlite:///{quote(str(folder / 'database.sqlite3'))}"


def function_environment(cloud: Cloud, database_url: str) -> dict[str, str]:
    """Return the variables of the function, and of commands that use its database and bucket."""
    return {
        **cloud.environment(),
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": "settings",
        "POWERTOOLS_SERVICE_NAME": "aggregator",
        "POWERTOOLS_METRICS_NAMESPACE": "aggregator",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }


@contextmanager
def running_function(
    cloud: Cloud,
    environment: dict[str, str],
    *,
    log: Path,
    sweep_seconds: float,
    batch_window_seconds: float = 0,
    handler: str = "lambda_handler.handler",
) -> Iterator[LambdaRuntime]:
    """Run the function in the Lambda runtime, invoked by its queue and its schedule.

    Parameters
    ----------
    environment : dict
        From `function_environment`; the database has its tables.
    log : Path
        Where the function's output is appended.
    sweep_seconds : float
        Interval of the sweep.
    batch_window_seconds : float
        How long a batch that is not full waits for more messages.
    handler : str

    Raises
    ------
    local.errors.FunctionError
        If the function does not start.
    """
    with ExitStack() as stack:
        runtime = stack.enter_context(LambdaRuntime(handler, environment=environment, log=log))
        runtime.invoke(scheduled_event(REGION))  # A function that does not start fails here.
        stack.enter_context(
            EventPump(
                cloud.queue_url,
                runtime.invoke,
                sqs=cloud.client("sqs"),
                batch_window_seconds=batch_window_seconds,
                retry_seconds=1,
            )
        )
        stack.enter_context(Schedule(runtime.invoke, every_seconds=sweep_seconds, region=REGION))
        yield runtime
