"""The Lambda function: boot Django once per environment, parse the event, call a use case, respond."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import django

gc.disable()  # What is imported stays; looking for garbage in it takes 7 % of a cold start.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from django.db import close_old_connections, connections  # noqa: E402

from connectors import application  # noqa: E402
from connectors.runtime import snapstart  # noqa: E402
from connectors.runtime.events import UnknownEvent, parse_task  # noqa: E402
from connectors.runtime.telemetry import logger, metrics  # noqa: E402
from connectors.usecases.after_round import publish_events  # noqa: E402

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    Handler = Callable[[Any, LambdaContext], dict[str, Any]]

#: Finds all log lines of one event, whatever kind of event it is.
CORRELATION_ID = 'id || Records[0].messageId || Records[0].responseElements."x-amz-request-id"'


def trace(function: Handler) -> Handler:
    """Trace a handler where X-Ray is on; importing its SDK is half of a cold start."""
    disabled = os.environ.get("POWERTOOLS_TRACE_DISABLED", "").lower() in ("1", "true", "yes", "on")
    if "AWS_XRAY_DAEMON_ADDRESS" not in os.environ or disabled:
        return function
    from aws_lambda_powertools import Tracer

    return Tracer().capture_lambda_handler(function, capture_response=False)


@logger.inject_lambda_context(correlation_id_path=CORRELATION_ID, clear_state=True)
@trace
@metrics.log_metrics
def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Return the response to one invocation; docs/reference/events.md has the table of events."""
    close_old_connections()
    try:
        return application.dispatcher(context).dispatch(event)
    finally:
        publish_events(application.event_publisher(), application.telemetry)


@logger.inject_lambda_context(clear_state=True)
@trace
def work(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Do a task of a distributed round that needs no database: the handler of the workers' function."""
    task = parse_task(event)
    runner = application.worker(context)
    if task.kind == "measure":
        return runner.measure(task.plan, task.item, task.centre, task.retries)
    if task.kind == "combine":
        return runner.combine(task.plan, task.item, task.retries)
    raise UnknownEvent(f"{task.kind} is a task of the aggregating function")


@logger.inject_lambda_context(correlation_id_path="requestContext.requestId", clear_state=True)
@trace
def api(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Answer a request of a client: the handler of the API's function."""
    close_old_connections()
    return application.api().resolve(event, context)


def migrate(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Migrate the database, or run one of the project's commands: the handler of the second function.

    It runs on deployment, and inside the network it is also how an operator reaches the database:
    ``{"command": "resume", "arguments": ["3"]}``.
    """
    # The aggregating function, which has this file too, need not import what it never calls.
    from connectors.runtime.remote_commands import handle_remote_command

    close_old_connections()
    return handle_remote_command(event or {})


_ = connections["default"]  # Imports the database driver before the first event.
application.prepare()
snapstart.register(application.prepare)
gc.freeze()
gc.enable()
