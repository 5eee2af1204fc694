"""The events of the function: every payload in `events/`, and arbitrary JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.intake.upload import Upload
from connectors.runtime.events import (
    RoundRequest,
    StorageTest,
    SweepRequest,
    UnknownEvent,
    is_sqs_batch,
    parse,
    parse_body,
)

PAYLOADS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[3] / "events").glob("*.json"))
}

KEY = "updates/3/11111111-1111-4111-8111-111111111111"


#: When the uploads were stored: EventBridge leaves the milliseconds out.
TIME = datetime(2026, 11, 24, 8, 30, 0, 123000, tzinfo=UTC)


def upload(name: str, version: str, time: datetime = TIME) -> Upload:
    return Upload(
        bucket="federated-updates",
        key=f"{KEY}/{name}",
        etag="7265f4d211b56873a381d321f586e4a9",
        version=version,
        size=1024,
        event_time=time,
    )


#: What each payload asks for.
EXPECTED: dict[str, Any] = {
    "eventbridge-object-created": upload(
        "round 1+2.safetensors", "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e", TIME.replace(microsecond=0)
    ),
    "s3-put": upload("round-1.safetensors", "096fKKXTRTtl3on89fVO.nfljtsv6qko"),
    "s3-test-event": StorageTest(),
    "schedule-model": RoundRequest(3),
    "schedule-sweep": SweepRequest(),
    "schedule-sweep-scheduler": SweepRequest(),
    "sqs-eventbridge-object-created": upload(
        "round 1+2.safetensors", "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e", TIME.replace(microsecond=0)
    ),
    "sqs-model": RoundRequest(3),
    "sqs-s3-put": upload("round 1+2.safetensors", "096fKKXTRTtl3on89fVO.nfljtsv6qko"),
    "sqs-s3-put-moto": upload("round 1+2.safetensors", ""),
    "sqs-s3-test-event": StorageTest(),
}


def requests_in(event: Any) -> list[Any]:
    """Return the requests in an event, parsed as the handler parses them."""
    if is_sqs_batch(event):
        return [each for record in event["Records"] for each in parse_body(record["body"])]
    return list(parse(event))


def test_every_payload_has_an_expected_request() -> None:
    """Every payload has an expected request, except the one that is unknown."""
    assert PAYLOADS.keys() == EXPECTED.keys() | {"unknown"}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_payload_is_parsed_to_its_request(name: str) -> None:
    """Real payloads are parsed, and object keys are decoded to those in S3."""
    assert requests_in(PAYLOADS[name]) == [EXPECTED[name]]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_batch_is_recognised_by_its_records(name: str) -> None:
    """Only events from a queue are batches."""
    assert is_sqs_batch(PAYLOADS[name]) is name.startswith("sqs-")


def test_a_notification_may_name_several_uploads() -> None:
    """Each record is a separate upload, in the order of the records."""
    (record,) = PAYLOADS["s3-put"]["Records"]
    other = changed(record, ("s3", "object", "key"), "updates/3/x/%C3%BC+%2B.npz")
    found = parse({"Records": [record, other]})
    keys = [each.key for each in found if isinstance(each, Upload)]
    assert keys == [f"{KEY}/round-1.safetensors", "updates/3/x/ü +.npz"]


@pytest.mark.parametrize("name", ["Put", "Post", "Copy", "CompleteMultipartUpload"])
def test_every_way_of_creating_an_object_is_an_upload(name: str) -> None:
    """Every event name for a created object is parsed to the same upload."""
    record = changed(PAYLOADS["s3-put"]["Records"][0], ("eventName",), f"ObjectCreated:{name}")
    assert parse({"Records": [record]}) == [EXPECTED["s3-put"]]


def test_the_input_of_a_scheduler_is_text() -> None:
    """EventBridge Scheduler passes its input as text, which is parsed like any other detail."""
    event = {**PAYLOADS["schedule-sweep-scheduler"], "detail": '{"model_id": 5}'}
    assert parse(event) == [RoundRequest(5)]


def changed(event: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of an event with one value replaced, or removed for REMOVED."""
    event = copy.deepcopy(event)
    inner = event
    for step in path[:-1]:
        inner = inner[step]
    if value is REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return event


REMOVED = object()

S3 = ("Records", 0, "s3")
WRONG: list[tuple[str, tuple[Any, ...], Any]] = [
    ("s3-put", ("Records",), []),
    ("s3-put", ("Records",), {}),
    ("s3-put", ("Records",), "aws:s3"),
    ("s3-put", ("Records", 0), None),
    ("s3-put", ("Records", 0, "eventSource"), "aws:sns"),
    ("s3-put", ("Records", 0, "eventSource"), REMOVED),
    ("s3-put", ("Records", 0, "eventName"), "ObjectRemoved:Delete"),
    ("s3-put", ("Records", 0, "eventName"), "ReducedRedundancyLostObject"),
    ("s3-put", ("Records", 0, "eventName"), 1),
    ("s3-put", S3, REMOVED),
    ("s3-put", (*S3, "bucket"), "federated-updates"),
    ("s3-put", (*S3, "bucket", "name"), None),
    ("s3-put", (*S3, "object", "key"), REMOVED),
    ("s3-put", (*S3, "object", "key"), 7),
    ("s3-put", (*S3, "object", "eTag"), None),
    ("s3-put", (*S3, "object", "versionId"), 7),
    ("s3-put", (*S3, "object", "versionId"), ["7"]),
    ("s3-put", ("Records", 0, "eventTime"), "yesterday"),
    ("s3-put", ("Records", 0, "eventTime"), 1732437000),
    ("s3-put", ("Records", 0, "eventTime"), "0001-01-01T00:00:00+14:00"),
    ("s3-put", (*S3, "object", "size"), "1024"),
    ("s3-put", (*S3, "object", "size"), -1),
    ("s3-put", (*S3, "object", "size"), 1.5),
    ("s3-put", (*S3, "object", "size"), True),
    ("s3-put", (*S3, "object", "size"), 1 << 63),
    ("s3-put", (*S3, "object", "size"), float("inf")),
    ("eventbridge-object-created", ("source",), "aws.ec2"),
    ("eventbridge-object-created", ("detail-type",), "Object Deleted"),
    ("eventbridge-object-created", ("detail", "object"), REMOVED),
    ("eventbridge-object-created", ("detail", "object", "key"), 7),
    ("eventbridge-object-created", ("detail", "object", "size"), -1),
    ("eventbridge-object-created", ("detail", "bucket", "name"), 7),
    ("schedule-model", ("detail", "model_id"), "3"),
    ("schedule-model", ("detail", "model_id"), 0),
    ("schedule-model", ("detail", "model_id"), -3),
    ("schedule-model", ("detail", "model_id"), 3.0),
    ("schedule-model", ("detail", "model_id"), True),
    ("schedule-model", ("detail", "model_id"), None),
    ("schedule-model", ("detail",), ["model_id"]),
    ("schedule-model", ("detail",), [3]),
    ("schedule-model", ("detail",), 3),
    ("schedule-model", ("detail",), "no JSON"),
    ("schedule-model", ("detail",), "[" * 100_000),
    ("schedule-model", ("detail-type",), "EC2 Instance Launch"),
]


@pytest.mark.parametrize(("name", "path", "value"), WRONG)
def test_a_payload_with_a_wrong_value_is_unknown(
    name: str, path: tuple[Any, ...], value: Any
) -> None:
    """A missing or wrong value in a payload raises UnknownEvent and no other error."""
    with pytest.raises(UnknownEvent):
        parse(changed(PAYLOADS[name], path, value))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "text",
        "3",
        "null",
        "[]",
        "{}",
        '{"model_id": "3"}',
        '{"model_id": 3, "x": 1}',
        "[" * 10**5,
    ],
)
def test_a_message_without_a_known_request_is_unknown(body: str) -> None:
    """A message whose body is not JSON with a known request is refused."""
    with pytest.raises(UnknownEvent):
        parse_body(body)


@pytest.mark.parametrize("event", [None, 3, "text", [], [PAYLOADS["s3-put"]], {}])
def test_an_invocation_that_is_not_an_event_is_unknown(event: Any) -> None:
    """An invocation without an event is refused instead of treated as an empty success."""
    assert not is_sqs_batch(event)
    with pytest.raises(UnknownEvent):
        parse(event)


def test_records_from_other_sources_are_not_a_batch() -> None:
    """An event with a record from another source is not a batch."""
    (record,) = PAYLOADS["sqs-model"]["Records"]
    assert not is_sqs_batch({"Records": [record, {**record, "eventSource": "aws:kafka"}]})
    assert not is_sqs_batch({"Records": [record, None]})


def test_the_error_shows_the_event_escaped_and_shortened() -> None:
    """Untrusted text in the error message is escaped and shortened."""
    event = {"source": "evil\n\x1b[31m" + "x" * 1000, "detail-type": "\u202eObject Created"}
    with pytest.raises(UnknownEvent, match="source") as refused:
        parse(event)
    message = str(refused.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(event: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in an event."""
    if path:
        yield path
    inner: Any = ()
    if isinstance(event, dict):
        inner = event.items()
    elif isinstance(event, list):
        inner = enumerate(event)
    for step, value in inner:
        yield from places(value, (*path, step))


PLACES = [(name, path) for name, event in PAYLOADS.items() for path in places(event)]


def assert_parsed_or_unknown(event: Any) -> None:
    """Parse an event as the handler does, and check the types of the requests."""
    try:
        found = requests_in(event)
    except UnknownEvent:
        return
    for request in found:
        if isinstance(request, RoundRequest):
            assert type(request.model_id) is int
        if isinstance(request, Upload):
            texts = (request.bucket, request.key, request.etag, request.version)
            assert {type(text) for text in texts} == {str}
            assert request.size is None or type(request.size) is int


@given(st.sampled_from(PLACES), JSON)
@settings(deadline=None, max_examples=500)
def test_any_value_anywhere_is_parsed_or_unknown(
    place: tuple[str, tuple[Any, ...]], value: Any
) -> None:
    """A real payload with one value replaced raises UnknownEvent or nothing."""
    name, path = place
    event = changed(PAYLOADS[name], path, value)
    if name.startswith("sqs-") and path[-1] == "body" and not isinstance(value, str):
        return  # SQS bodies are text.
    assert_parsed_or_unknown(event)


@given(JSON)
@settings(deadline=None, max_examples=300)
def test_any_json_is_parsed_or_unknown(event: Any) -> None:
    """Any JSON, as an event or as the body of a message, raises UnknownEvent or nothing."""
    assert_parsed_or_unknown(event)
    assert_parsed_or_unknown({"Records": [{"eventSource": "aws:sqs", "body": json.dumps(event)}]})


@given(st.sampled_from(PLACES), JSON)
@settings(deadline=None, max_examples=300)
def test_any_value_in_the_body_of_a_message_is_parsed_or_unknown(
    place: tuple[str, tuple[Any, ...]], value: Any
) -> None:
    """A changed payload in the body of a queue message raises UnknownEvent or nothing."""
    name, path = place
    body = json.dumps(changed(PAYLOADS[name], path, value))
    assert_parsed_or_unknown({"Records": [{"eventSource": "aws:sqs", "body": body}]})


@pytest.mark.parametrize("depth", [900, 950, 970, 980, 985, 990, 995, 1000, 10_000])
def test_deep_nesting_is_parsed_or_unknown(depth: int) -> None:
    """Nesting around the limit of the JSON parser raises UnknownEvent or nothing."""
    for inner in ("{}", '{"Records": %s}', '{"detail-type": "Scheduled Event", "detail": %s}'):
        nested = "[" * depth + "]" * depth
        assert_parsed_or_unknown(
            {
                "Records": [
                    {
                        "eventSource": "aws:sqs",
                        "body": inner % nested if "%s" in inner else nested,
                    }
                ]
            }
        )
