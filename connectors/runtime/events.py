"""Parse the events that invoke the function into requests and tasks.

Wire shapes: Amazon S3 User Guide, "Event message structure" and "EventBridge event message structure";
Amazon EventBridge, "Scheduled Event"; `events/` holds one real payload of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from aggregation.errors import quoted
from connectors.intake.upload import Upload
from connectors.storage.keys import is_plan_folder


class UnknownEvent(ValueError):
    """The function was invoked with something it does not know; the message describes it."""


@dataclass(frozen=True)
class RoundRequest:
    """Requests a round of one federated model."""

    model_id: int


@dataclass(frozen=True)
class SweepRequest:
    """Requests a sweep: everything that is due, for all models."""


@dataclass(frozen=True)
class StorageTest:
    """The test event that S3 sends when notifications are configured; it is ignored."""


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """A task of a distributed round, from its state machine.

    Parameters
    ----------
    kind : str
        ``measure``, ``combine``, ``select``, ``publish`` or ``fail``.
    plan : str
        The folder of the plan.
    attempt, item, retries : int
        The fencing token, the number of the task, and how often it has failed; 0 where they are not
        needed.
    centre : str
    error : mapping
        The error of a task, as Step Functions reports it.
    """

    kind: str
    plan: str
    attempt: int = 0
    item: int = 0
    retries: int = 0
    centre: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)


#: The fields that each kind of task has in addition to its plan.
TASK_FIELDS = {
    "measure": {"item", "centre"},
    "combine": {"item", "centre"},
    "select": {"attempt", "centre"},
    "publish": {"attempt"},
    "fail": {"attempt", "error"},
}

Request = Upload | RoundRequest | SweepRequest | StorageTest


def is_sqs_batch(event: Any) -> bool:
    """Return whether an event is a batch of messages from a queue."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    return (
        isinstance(records, list)
        and bool(records)
        and all(
            isinstance(record, Mapping) and record.get("eventSource") == "aws:sqs"
            for record in records
        )
    )


def parse_body(body: str) -> list[Request]:
    """Return the requests in the body of one message.

    Raises
    ------
    UnknownEvent
    """
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnknownEvent(f"a message whose body is not JSON: {quoted(body)}") from error
    if isinstance(event, Mapping) and event.keys() == {"model_id"}:
        return [RoundRequest(_model_id(event["model_id"]))]
    return parse(event)


def parse(event: Any) -> list[Request]:
    """Return the requests in an event that did not come through a queue.

    Raises
    ------
    UnknownEvent
    """
    try:
        if not isinstance(event, Mapping):
            raise UnknownEvent(f"expected a JSON object, got {quoted(event)}")
        return list(_requests(event))
    except (KeyError, TypeError, AttributeError) as error:
        raise UnknownEvent(f"an event that lacks {error}: {_described(event)}") from error
    except RecursionError as error:
        raise UnknownEvent("an event that is nested too deeply to be parsed") from error


def _requests(event: Mapping[str, Any]) -> Iterator[Request]:
    if event.get("Event") == "s3:TestEvent":
        yield StorageTest()
    elif event.get("Records"):
        for record in event["Records"]:
            yield _upload_of_s3_record(record)
    elif event.get("detail-type") == "Object Created" and event.get("source") == "aws.s3":
        yield _upload_of_eventbridge_event(event)
    elif event.get("detail-type") == "Scheduled Event":
        yield _schedule(event.get("detail") or {})
    else:
        raise UnknownEvent(
            f"an event this function does not know: {_described(event)}. It takes S3 uploads, "
            "schedules and messages; the table is in docs/reference/events.md"
        )


def _upload_of_s3_record(record: Mapping[str, Any]) -> Upload:
    """Return the upload in a record of an S3 notification, whose key is URL-encoded."""
    if record.get("eventSource") != "aws:s3" or not record["eventName"].startswith(
        "ObjectCreated:"
    ):
        raise UnknownEvent(f"expected an ObjectCreated record of aws:s3, got {_described(record)}")
    stored = record["s3"]["object"]
    return _checked_upload(
        bucket=record["s3"]["bucket"]["name"],
        key=unquote_plus(stored["key"]),
        etag=stored.get("eTag", ""),
        version=stored.get("versionId") or "",
        size=stored.get("size"),
        time=record.get("eventTime"),
    )


def _upload_of_eventbridge_event(event: Mapping[str, Any]) -> Upload:
    """Return the upload in an "Object Created" event, whose key is not encoded."""
    detail = event["detail"]
    stored = detail["object"]
    return _checked_upload(
        bucket=detail["bucket"]["name"],
        key=stored["key"],
        etag=stored.get("etag", ""),
        version=stored.get("version-id") or "",
        size=stored.get("size"),
        time=event.get("time"),
    )


def _checked_upload(
    *, bucket: Any, key: Any, etag: Any, version: Any, size: Any, time: Any
) -> Upload:
    """Return an upload whose fields have the types that S3 documents, or raise `UnknownEvent`."""
    for text in (bucket, key, etag, version):
        if not isinstance(text, str):
            raise UnknownEvent(f"expected a text in an upload's event, got {quoted(text)}")
    if size is not None and (type(size) is not int or not 0 <= size <= MAX_SIZE):
        raise UnknownEvent(f"expected a size in bytes, got {quoted(size)}")
    return Upload(
        bucket=bucket,
        key=key,
        etag=etag.strip('"'),
        version=version,
        size=size,
        event_time=_event_time(time),
    )


def _event_time(text: Any) -> datetime | None:
    """Return the time of an event; None if it has none."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnknownEvent(f"expected a time in ISO 8601, got {quoted(text)}") from error


#: More bytes than an object can have, and as many as a database can count.
MAX_SIZE = (1 << 63) - 1


def _schedule(detail: Mapping[str, Any] | str) -> Request:
    # EventBridge Scheduler passes its input on as text.
    try:
        fields = json.loads(detail) if isinstance(detail, str) else detail
    except ValueError as error:
        raise UnknownEvent(f"a schedule whose detail is not JSON: {quoted(detail)}") from error
    if not isinstance(fields, Mapping):
        raise UnknownEvent(f"a schedule whose detail is no JSON object: {quoted(fields)}")
    return RoundRequest(_model_id(fields["model_id"])) if "model_id" in fields else SweepRequest()


def _model_id(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UnknownEvent(f"model_id must be a positive whole number, got {quoted(value)}")
    return value


def _described(event: Mapping[str, Any]) -> str:
    """Return a short description of an event: its keys and the fields that identify its kind."""
    fields = {name: event[name] for name in _IDENTIFYING_FIELDS if name in event}
    return (
        f"{quoted(json.dumps(fields, default=str))} with the keys {quoted(sorted(map(str, event)))}"
    )


_IDENTIFYING_FIELDS = ("source", "detail-type", "eventSource", "eventName", "Event")


def parse_task(event: Any) -> RoundTask:
    """Return the task in an event of a distributed round's state machine.

    Raises
    ------
    UnknownEvent
    """
    fields = dict(event) if isinstance(event, Mapping) else {}
    kind = str(fields.pop("task", ""))
    required = TASK_FIELDS.get(kind, set()) | {"plan"}
    optional = {"retries"} if "item" in required else set()
    if kind not in TASK_FIELDS or not required <= fields.keys() <= required | optional:
        raise UnknownEvent(f"expected a task of a distributed round, got {_described(event)}")
    counts = [fields.get(name, 0) for name in ("attempt", "item", "retries")]
    if not isinstance(fields["plan"], str) or any(type(count) is not int for count in counts):
        raise UnknownEvent(f"expected a plan and whole numbers, got {quoted(fields)}")
    if not is_plan_folder(fields["plan"]):
        raise UnknownEvent(f"expected the folder of a plan, got {quoted(fields['plan'])}")
    return RoundTask(kind=kind, **fields)


def is_task(event: Any) -> bool:
    """Return whether an event comes from the state machine of a distributed round."""
    return isinstance(event, Mapping) and "task" in event
