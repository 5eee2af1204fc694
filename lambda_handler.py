"""The Lambda function: boot Django once per environment, parse the event, act, answer."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import django

gc.disable()  # All that is imported stays; to look for garbage in it takes 7 % of a cold start.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.db import close_old_connections, connections  # noqa: E402

from connectors.application import update_intake  # noqa: E402
from connectors.runtime import snapstart  # noqa: E402
from connectors.runtime.dispatcher import Invocation  # noqa: E402
from connectors.runtime.events import RoundRequest, SweepRequest, is_sqs_batch, parse  # noqa: E402
from connectors.runtime.telemetry import logger, metrics, told  # noqa: E402
from connectors.usecases.after_round import announce  # noqa: E402
from connectors.workflow.aggregator import DEFAULT_SETTINGS, DjangoAggConnector  # noqa: E402

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    Handler = Callable[[Any, LambdaContext], dict[str, Any]]


def traced(function: Handler) -> Handler:
    """Trace a handler, where X-Ray is on; its SDK is half of a cold start, and not imported else."""
    if "AWS_XRAY_DAEMON_ADDRESS" not in os.environ or _is_set("POWERTOOLS_TRACE_DISABLED"):
        return function
    from aws_lambda_powertools import Tracer

    return Tracer().capture_lambda_handler(function, capture_response=False)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


#: By what the logs of one event are found together, whatever the event is.
CORRELATION_ID = 'id || Records[0].messageId || Records[0].responseElements."x-amz-request-id"'


@logger.inject_lambda_context(correlation_id_path=CORRELATION_ID, clear_state=True)
@traced
@metrics.log_metrics
def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Answer one invocation. The table of events is in README.md.

    Raises
    ------
    connectors.runtime.events.UnknownEvent
    connectors.errors.UnknownModel
    aggregation.errors.TemporarilyUnavailable, aggregation.errors.OutOfTime
        The same event is to be delivered again.
    """
    close_old_connections()
    try:
        return _answered(event, Invocation(context))
    finally:
        announce()


def _answered(event: Any, invocation: Invocation) -> dict[str, Any]:
    if is_sqs_batch(event):
        return invocation.answer_batch(event["Records"])
    requests = parse(event)
    match requests:
        case [RoundRequest(model_id)]:
            return told(invocation.run(model_id))
        case [SweepRequest()]:
            return invocation.sweep()
        case _:
            return invocation.run_each(invocation.register(requests)).told()


def migrate(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Bring the database to the newest structure, or run one of the project's own commands.

    The handler of the function that runs on deploy. Being inside the network, it is also how an
    operator reaches the database: ``{"command": "resume", "arguments": ["3"]}``.

    Raises
    ------
    Exception
        Whatever kept a migration from being applied: the deployment is to fail.
    ValueError
        If there is no such command.
    CommandError
        If the command could not do what it was asked.
    """
    close_old_connections()
    if not event or "command" not in event:
        DjangoAggConnector(DEFAULT_SETTINGS).update_metadata_database_arch()
        return {"migrated": True}
    # The other function, which has this file too, need not load what it never does.
    from connectors.runtime.remote_commands import run_remote_command

    return run_remote_command(event["command"], event.get("arguments", []))


def prepare() -> None:
    """Load what every round needs while the environment starts, which the first event else would
    wait for: the database driver, and the client of the bucket. Nothing is connected to yet."""
    _ = connections["default"], update_intake()


prepare()
snapstart.register()
gc.freeze()
gc.enable()
