"""The Lambda function: boot Django once per environment, parse the event, act, answer."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

from aws_lambda_powertools import Logger, Metrics  # noqa: E402
from aws_lambda_powertools.metrics import MetricUnit  # noqa: E402
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType  # noqa: E402
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord  # noqa: E402
from aws_lambda_powertools.utilities.typing import LambdaContext  # noqa: E402
from botocore.config import Config  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.management import call_command, get_commands  # noqa: E402
from django.db import close_old_connections, connections  # noqa: E402
from django.utils import timezone  # noqa: E402

from aggregation.engine import Resources  # noqa: E402
from aggregation.errors import TemporarilyUnavailable, quoted  # noqa: E402
from aggregation.round import Claim, RoundAnswer, Status, run_round  # noqa: E402
from connectors import DjangoAggConnector  # noqa: E402
from connectors.announcements import Announcer  # noqa: E402
from connectors.door import Admission, Door, NotAnUpdate  # noqa: E402
from connectors.events import (  # noqa: E402
    Request,
    RoundRequest,
    StorageTest,
    SweepRequest,
    Upload,
    is_sqs_batch,
    parse,
    parse_body,
)
from connectors.housekeeping import collect  # noqa: E402
from connectors.latest import tell_latest, untold_models  # noqa: E402
from connectors.queries import due_models  # noqa: E402
from connectors.queue import RoundQueue  # noqa: E402
from connectors.scores import PREFIX as SCORES  # noqa: E402
from connectors.scores import ScoreDoor  # noqa: E402

Handler = Callable[[Any, LambdaContext], dict[str, Any]]

# An invocation that had nothing to count is no mistake.
warnings.filterwarnings("ignore", "No application metrics to publish")


def traced(function: Handler) -> Handler:
    """Trace a handler, where X-Ray is on; its SDK is half of a cold start, and not imported else."""
    if "AWS_XRAY_DAEMON_ADDRESS" not in os.environ or _is_set("POWERTOOLS_TRACE_DISABLED"):
        return function
    from aws_lambda_powertools import Tracer

    return Tracer().capture_lambda_handler(function, capture_response=False)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


logger = Logger()
metrics = Metrics()

#: By what the logs of one event are found together, whatever the event is.
CORRELATION_ID = 'id || Records[0].messageId || Records[0].responseElements."x-amz-request-id"'

#: An attempt stops this long before the function's time is up, or at this share of it if that is
#: less: enough to store a part and to ask for the rest.
STOP_BEFORE_END_SECONDS = 20.0
STOP_BEFORE_END_SHARE = 0.2

#: Before every moment there is.
NEVER = datetime.min.replace(tzinfo=UTC)

#: How often an environment that sweeps also looks for what dead rounds left behind.
COLLECT_EVERY = timedelta(hours=1)

#: Telling what has happened must not hold up a round.
IN_PASSING = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2})

#: How much longer than its time a function is trusted to live.
LEASE_SLACK_SECONDS = 15.0


@logger.inject_lambda_context(correlation_id_path=CORRELATION_ID, clear_state=True)
@traced
@metrics.log_metrics
def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Answer one invocation. The table of events is in README.md.

    Raises
    ------
    connectors.events.UnknownEvent
    connectors.queries.UnknownModel
    aggregation.errors.TemporarilyUnavailable
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
            wanted = invocation.admit(requests)
            return {"rounds": [told(invocation.run(model_id)) for model_id in wanted]}


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
    """
    if not event or "command" not in event:
        DjangoAggConnector(AGGREGATOR).update_metadata_database_arch()
        return {"migrated": True}
    own = sorted(name for name, app in get_commands().items() if app in OPERATED)
    if event["command"] not in own:
        raise ValueError(f"no command {quoted(event['command'])}; there are {', '.join(own)}")
    output = io.StringIO()
    call_command(event["command"], *event.get("arguments", []), stdout=output, no_color=True)
    return {"output": output.getvalue()}


#: Apps whose commands an operator may run; Django's own can do anything.
OPERATED = ("connectors", "models_app")


AGGREGATOR: dict[str, Any] = {
    "metadata_connector": {"type": "DjangoMetadataConnector"},
    "model_data_connector": {"type": "DjangoModelDataConnector"},
}


@dataclass
class Collecting:
    """When this environment looks for leftovers next; forgotten with it, and no harm done."""

    next_on: datetime = NEVER


collecting = Collecting()


@cache
def door() -> Door:
    """Where uploads are registered; keeps the layouts it has seen."""
    return Door(DjangoAggConnector(AGGREGATOR).model_data)


@cache
def scores() -> ScoreDoor:
    """Where scores are registered."""
    return ScoreDoor(DjangoAggConnector(AGGREGATOR).model_data.objects)


@cache
def queue() -> RoundQueue | None:
    """The function's own queue, if it has one."""
    if not settings.QUEUE_URL:
        return None
    import boto3

    return RoundQueue(boto3.client("sqs"), settings.QUEUE_URL)


@cache
def announcer() -> Announcer | None:
    """Who tells what has happened to the event bus, if there is one."""
    if not settings.EVENT_BUS:
        return None
    import boto3

    return Announcer(boto3.client("events", config=IN_PASSING), settings.EVENT_BUS)


def announce() -> None:
    """Tell what has happened; what cannot be told now is told by the next invocation."""
    to = announcer()
    if to is None:
        return
    try:
        metrics.add_metric("EventsSent", MetricUnit.Count, to.announce())
    except Exception:
        logger.exception("events not sent: they are sent later")
        metrics.add_metric("EventsFailed", MetricUnit.Count, 1)


def told(answer: RoundAnswer) -> dict[str, Any]:
    """An answer as the caller is given it."""
    shown = {
        "model_id": answer.model_id,
        "status": str(answer.status),
        "round": answer.round,
        "aggregate_id": answer.aggregate_id,
        "updates_used": answer.updates_used,
        "updates_rejected": answer.updates_rejected,
    }
    return shown | ({"reason": answer.reason} if answer.reason else {})


def _tell_score(admission: Admission, about: dict[str, Any]) -> None:
    if admission.reason:
        logger.warning("score rejected at the door", extra=about | {"reason": admission.reason})
        metrics.add_metric("ScoresRejected", MetricUnit.Count, 1)
    else:
        logger.info("score registered", extra=about | {"seen_before": admission.seen_before})
        metrics.add_metric("ScoresRegistered", MetricUnit.Count, 1)


def _name_in_logs(claim: Claim) -> None:
    logger.append_keys(round=claim.number, attempt=claim.attempt)
    logger.info("round claimed", updates=len(claim.updates))


class Invocation:
    """One invocation: what it may still do follows from the time that is left of it."""

    def __init__(self, context: LambdaContext) -> None:
        self._context = context
        seconds = self._seconds_left()
        self._margin = min(STOP_BEFORE_END_SECONDS, seconds * STOP_BEFORE_END_SHARE)
        metadata = {
            "lease_seconds": seconds + LEASE_SLACK_SECONDS,
            "request_id": context.aws_request_id,
        }
        kind = AGGREGATOR["metadata_connector"]["type"]
        self._connector = DjangoAggConnector(
            {**AGGREGATOR, "metadata_connector": {"type": kind, "settings": metadata}}
        )

    def _seconds_left(self) -> float:
        return self._context.get_remaining_time_in_millis() / 1000

    def _out_of_time(self) -> bool:
        return self._seconds_left() <= self._margin

    def answer_batch(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """Act on a batch of messages: all are read first, then one round is run for each model that
        is named, and the messages that named it share its fate."""
        processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
        senders: dict[int, list[SQSRecord]] = {}

        def read(record: SQSRecord) -> None:
            try:
                wanted = self.admit(parse_body(record.body))
            except Exception:
                logger.exception("message failed", message_id=record.message_id)
                raise
            for model_id in wanted:
                senders.setdefault(model_id, []).append(record)

        with processor(records=records, handler=read):
            processor.process()
            for model_id, named_by in senders.items():
                try:
                    self.run(model_id)
                except Exception:
                    for record in named_by:
                        processor.failure_handler(record, sys.exc_info())
        failed = {str(item["itemIdentifier"]) for item in processor.response()["batchItemFailures"]}
        return {"batchItemFailures": [{"itemIdentifier": each} for each in sorted(failed)]}

    def admit(self, requests: Iterable[Request]) -> list[int]:
        """Register what was uploaded; the models for which a round is wanted, each once."""
        wanted: dict[int, None] = {}
        for request in requests:
            match request:
                case Upload():
                    wanted |= dict.fromkeys(self._register(request))
                case RoundRequest(model_id):
                    wanted[model_id] = None
                case SweepRequest():
                    self.sweep()
                case StorageTest():
                    logger.info("S3 tried its notifications: ignored")
        return list(wanted)

    def _register(self, upload: Upload) -> list[int]:
        try:
            is_score = upload.key.startswith(SCORES)
            admission = (scores() if is_score else door()).admit(upload)
        except NotAnUpdate as error:
            logger.warning("upload ignored", key=ascii(upload.key), reason=str(error))
            metrics.add_metric("UploadsIgnored", MetricUnit.Count, 1)
            return []
        about: dict[str, Any] = {"model": admission.model_id, "client": admission.client}
        if is_score:
            _tell_score(admission, about)
            return []
        if admission.reason:
            about["reason"] = admission.reason
            logger.warning("update rejected at the door", extra=about)
            metrics.add_metric("UpdatesRejected", MetricUnit.Count, 1)
            return []
        about["seen_before"] = admission.seen_before
        logger.info("update registered", extra=about)
        return [admission.model_id]

    def sweep(self) -> dict[str, Any]:
        """See to every model that has ready updates or a round left behind."""
        due = due_models(timezone.now())
        to = queue()
        if to is not None:
            to.request_rounds(due)
            answer: dict[str, Any] = {"requested": due}
        else:
            answer = {"rounds": [told(self.run(model_id)) for model_id in due]}
        logger.info("swept", extra=answer)
        for model_id in untold_models():
            self._tell_latest(model_id)
        self._collect()
        return answer

    def _collect(self) -> None:
        """Remove what dead rounds left behind: from time to time, since it lists the bucket."""
        now = timezone.now()
        if now < collecting.next_on:
            return
        collecting.next_on = now + COLLECT_EVERY
        for collected in collect(self._connector.model_data.objects, now):
            logger.warning("leftover collected", extra=asdict(collected))
            metrics.add_metric("LeftoversCollected", MetricUnit.Count, 1)

    def run(self, model_id: int) -> RoundAnswer:
        """Run a round of a model, and further ones while updates that came meanwhile suffice.

        Returns
        -------
        RoundAnswer
            Of the first round.
        """
        first = answer = self._run_one(model_id)
        while answer.status is Status.PUBLISHED and not self._out_of_time():
            answer = self._run_one(model_id)
        to = queue()
        if (answer.continues or answer.status is Status.PUBLISHED) and to is not None:
            to.request_rounds([model_id])
        return first

    def _run_one(self, model_id: int) -> RoundAnswer:
        logger.append_keys(model=model_id)
        try:
            answer = run_round(
                self._connector,
                model_id,
                resources=Resources(
                    memory_bytes=settings.MEMORY_BUDGET_MB << 20,
                    readers=settings.READ_THREADS if settings.BUCKET else os.cpu_count() or 1,
                    workers=os.cpu_count() or 1,
                ),
                out_of_time=self._out_of_time,
                on_claim=_name_in_logs,
            )
        except TemporarilyUnavailable:
            logger.warning("round interrupted: it goes on later", exc_info=True)
            metrics.add_metric("RoundsInterrupted", MetricUnit.Count, 1)
            raise
        except Exception:
            logger.exception("round failed")
            metrics.add_metric("RoundsFailed", MetricUnit.Count, 1)
            self._tell_if_paused(model_id)
            raise
        else:
            self._tell(answer)
            if answer.status is Status.PUBLISHED:
                self._tell_latest(model_id)
            return answer
        finally:
            logger.remove_keys(["model", "round", "attempt"])

    def _tell_latest(self, model_id: int) -> None:
        """Bring `latest.json` up to date; if that fails, the sweep does it."""
        try:
            tell_latest(self._connector.model_data.objects, model_id)
        except Exception:
            logger.exception("latest.json not written: it is written later", model_id=model_id)

    def _tell(self, answer: RoundAnswer) -> None:
        logger.info(f"round {answer.status}", extra=told(answer))
        if answer.status is Status.PUBLISHED:
            metrics.add_metric("RoundsPublished", MetricUnit.Count, 1)
            metrics.add_metric("UpdatesUsed", MetricUnit.Count, answer.updates_used)
            metrics.add_metric("BytesRead", MetricUnit.Bytes, answer.bytes_read)
        if answer.status is Status.REJECTED:
            metrics.add_metric("RoundsRejected", MetricUnit.Count, 1)
        if answer.status is Status.PAUSED:
            metrics.add_metric("ModelsPaused", MetricUnit.Count, 1)
        if answer.updates_rejected:
            metrics.add_metric("UpdatesRejected", MetricUnit.Count, answer.updates_rejected)

    def _tell_if_paused(self, model_id: int) -> None:
        model = self._connector.pull_federated_model_w_id(model_id)
        if model and not model.allow_aggregation:
            logger.error("model paused", reason=model.pause_reason)
            metrics.add_metric("ModelsPaused", MetricUnit.Count, 1)


def prepare() -> None:
    """Load what every round needs while the environment starts, which the first event else would
    wait for: the database driver, and the client of the bucket. Nothing is connected to yet."""
    _ = connections["default"], door()


prepare()
