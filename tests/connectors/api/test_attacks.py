"""What a stolen secret, a replayed request, a flood and a guessed id cannot do: docs/security.md."""

from __future__ import annotations

import json
import secrets
import urllib.parse
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from connectors import application
from connectors.api import credentials
from connectors.api.credentials import Authenticator
from connectors.api.problems import Problem
from connectors.storage.multipart import MAX_PARTS, ClientUploads, OpenUpload
from models_app.models import Client, ClientAggregateScore, FederatedModel, ModelAggregate
from tests.connectors.api.api_tools import (
    MIB,
    Answer,
    Enrolled,
    call,
    checksum,
    description,
    digest,
    enrolled,
    pieces_of,
    problem,
    put_part,
)
from tests.factories import filled, get, make_model, s3_record
from tests.test_lambda_handler import invoke
from tests.untyped import default_storage

pytestmark = [
    pytest.mark.usefixtures("database", "cloud", "fresh_services"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

DATA = bytes(range(256)) * (6 * MIB // 256)


def updates_of(model: FederatedModel) -> str:
    return f"/v1/models/{model.pk}/updates"


def begin(known: Enrolled, model: FederatedModel, data: bytes = DATA, **more: Any) -> Answer:
    answer = known.call(
        "POST", updates_of(model), description(data, **more), Idempotency_Key="monday-1"
    )
    assert answer.status == 200, answer
    return answer


def send_all(begun: Answer, data: bytes = DATA) -> None:
    for part, piece in zip(begun.body["parts"], pieces_of(data, 5 * MIB), strict=True):
        put_part(part, piece)


def upload_ids(begun: Answer) -> set[str]:
    """Return the ids of the multipart uploads that the links of an answer belong to."""
    queries = (urllib.parse.urlsplit(part["url"]).query for part in begun.body["parts"])
    return {urllib.parse.parse_qs(query)["uploadId"][0] for query in queries}


def s3() -> Any:
    return default_storage.connection.meta.client


# A stolen secret and a guessed id


@pytest.mark.parametrize("call_of", ["GET ", "POST /parts", "POST /complete"])
def test_another_clients_update_does_not_exist(call_of: str) -> None:
    """Who knows the name of another client's update gets the answer for one that nobody has begun, also
    after it has arrived, and changes nothing."""
    model = make_model(0)
    known, thief = enrolled(model), enrolled(model)
    begun = begin(known, model)
    method, _, action = call_of.partition(" ")
    body = (
        {"parts": [{"number": 1, "checksum": checksum(b"theirs")}]} if "parts" in action else None
    )
    path = f"{updates_of(model)}/{begun.body['update']}{action}"
    before = thief.call(method, path, body)
    send_all(begun)
    completed = known.call("POST", f"{updates_of(model)}/{begun.body['update']}/complete")
    assert completed.status == 200
    after = thief.call(method, path, body)
    for answer in (before, after):
        assert (answer.status, problem(answer)) == (404, "not-found")
    assert before.body["detail"] == after.body["detail"]
    assert get(begun.body["key"]) == DATA


def test_a_stolen_secret_reads_no_update() -> None:
    """No answer contains a link to an update, not even the client's own."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    begun = begin(known, model)
    send_all(begun)
    path = f"{updates_of(model)}/{begun.body['update']}"
    answers = [
        known.call("POST", f"{path}/complete"),
        known.call("GET", path),
        known.call("GET", f"/v1/models/{model.pk}"),
        begin(known, model),
    ]
    assert "https://" not in json.dumps([answer.body for answer in answers])
    assert "X-Amz-Signature" not in json.dumps([answer.body for answer in answers])


def test_links_are_valid_for_an_hour() -> None:
    """Links that a revoked client holds end within an hour."""
    model = make_model(0)
    for part in begin(enrolled(model), model).body["parts"]:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(part["url"]).query)
        assert query["X-Amz-Expires"] == ["3600"]


def test_what_a_revoked_client_still_sends_is_rejected() -> None:
    """Intake asks the database, and does not wait until the API has learned of it."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    begun = begin(known, model)
    send_all(begun)
    Client.objects.update(paused=True, secret_hash="")  # The document is not written yet.
    path = f"{updates_of(model)}/{begun.body['update']}/complete"
    assert known.call("POST", path).status == 200
    stored = application.objects().stat(begun.body["key"])
    invoke({"Records": [s3_record(begun.body["key"], stored.etag, stored.size)]})
    assert "paused" in model.model_updates.get().rejection_reason


def test_a_replaced_secret_is_valid_in_every_environment_at_once() -> None:
    """An environment that remembers the old one reads the document again when another secret arrives."""
    model = make_model(0)
    known = enrolled(model)
    fresh = Enrolled(known.client_id, secrets.token_urlsafe(32))
    now = [0.0]
    other = Authenticator(application.objects(), clock=lambda: now[0])
    assert other.authenticate(known.headers["Authorization"])
    now[0] = 2.0
    known.call("POST", "/v1/secret", {"secret_hash": digest(fresh.secret)})
    assert other.authenticate(fresh.headers["Authorization"])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/{model}/updates/..%2f{other}%2f{update}",
        "/v1/models/{model}/updates/../{other}/{update}",
        "/v1/models/{model}/updates/{update}/../../../{other}",
        "/v1/models/{model}/updates/{update}%00",
        "/v1/models/{model}/updates/{update}\n",
        "/v1/models/ {model}/updates/{update}",
        "/v1/models/{model}e0/updates/{update}",
        "/v1/models/-{model}/updates/{update}",
        "/v1//models/{model}/updates/{update}",
    ],
)
def test_tricks_with_paths_find_nothing(path: str) -> None:
    """A name is matched as a whole, and is never a path."""
    model = make_model(0)
    known, other = enrolled(model), enrolled(model)
    update = begin(known, model).body["update"]
    named = path.format(model=model.pk, other=other.client_id, update=update)
    assert known.call("GET", named).status == 404


# A replayed request


def test_the_same_request_at_the_same_time_begins_one_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that began later gets links of the first one's upload, and nothing is left of its own."""
    model = make_model(0)
    known = enrolled(model)
    begin_upload, open_uploads = ClientUploads.begin, ClientUploads.open_uploads
    begun, answers = list[str](), list[Answer]()

    def overtaken(self: ClientUploads, key: str, metadata: Any) -> str:
        if not answers:
            answers.append(Answer(0, {}, {}))
            answers[0] = begin(known, model)
        begun.append(begin_upload(self, key, metadata))
        return begun[-1]

    def in_order(self: ClientUploads, prefix: str) -> list[OpenUpload]:
        """List uploads by the order in which they began; moto states the same time for all."""
        return sorted(open_uploads(self, prefix), key=lambda each: begun.index(each.upload_id))

    monkeypatch.setattr(ClientUploads, "begin", overtaken)
    monkeypatch.setattr(ClientUploads, "open_uploads", in_order)
    answers.append(begin(known, model))
    answers.append(begin(known, model))
    assert len(begun) == 2
    assert [upload_ids(answer) for answer in answers] == [{begun[0]}] * 3
    assert len(application.api_services().uploads._storage.open_uploads("updates/")) == 1


def test_completing_twice_at_the_same_time_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the upload gone and the object there."""
    model = make_model(0)
    known = enrolled(model)
    begun = begin(known, model)
    send_all(begun)
    path = f"{updates_of(model)}/{begun.body['update']}/complete"
    complete, answers = ClientUploads.complete, list[Answer]()

    def overtaken(self: ClientUploads, *arguments: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ClientUploads, "complete", complete)
            answers.append(known.call("POST", path))
        complete(self, *arguments)

    monkeypatch.setattr(ClientUploads, "complete", overtaken)
    answers.append(known.call("POST", path))
    assert [answer.status for answer in answers] == [200, 200]
    assert get(begun.body["key"]) == DATA


def test_a_key_that_is_used_for_another_update_is_another_update() -> None:
    """Neither parts nor numbers of examples of two updates are mixed."""
    model = make_model(0)
    known = enrolled(model)
    first = begin(known, model)
    put_part(first.body["parts"][0], DATA[: 5 * MIB])
    for other in (begin(known, model, DATA[::-1]), begin(known, model, num_examples=11)):
        assert other.body["update"] != first.body["update"]
        assert other.body["arrived"] == []


def test_a_replayed_score_counts_once() -> None:
    """The first score of a client for an aggregate stands."""
    model = make_model(0, initial=filled(0.0), score_metric="accuracy")
    aggregate = ModelAggregate.objects.create(federated_model=model, number=1, result="a.npz")
    known = enrolled(model)
    for accuracy in (0.5, 0.5, 0.9):
        results = {"accuracy": accuracy, "of classes": {"cat": [0.1, 0.9]}, "note": "nested"}
        body = {"aggregate": aggregate.pk, "num_examples": 5, "results": results}
        answer = known.call("POST", f"/v1/models/{model.pk}/scores", body)
        stored = application.objects().stat(answer.body["key"])
        invoke({"Records": [s3_record(answer.body["key"], stored.etag, stored.size)]})
    score = ClientAggregateScore.objects.get()
    assert score.validation_results["of classes"] == {"cat": [0.1, 0.9]}
    aggregate.refresh_from_db()
    assert aggregate.validation_score == 0.5


# A flood


def test_strangers_neither_wake_the_database_nor_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests of clients that do not exist take no statement; an environment remembers so many."""
    monkeypatch.setattr(credentials, "CACHE_CLIENTS", 5)
    model = make_model(0)
    authenticator = application.api_services().authenticator
    with CaptureQueriesContext(connection) as queries:
        for number in range(20):
            stranger = Enrolled(f"11111111-1111-4111-8111-{number:012}", "guessed")
            assert stranger.call("GET", f"/v1/models/{model.pk}").status == 401
            assert stranger.call("POST", updates_of(model), {}).status == 401
            assert len(authenticator._known) <= 5
    assert not queries.captured_queries


def test_wrong_secrets_read_a_document_once_a_second() -> None:
    """Guessing does not cost a request to S3 for each guess."""
    model = make_model(0)
    known = enrolled(model)
    asked: list[str] = []

    class Counting:
        def read(self, key: str) -> bytes:
            asked.append(key)
            return get(key)

    authenticator = Authenticator(Counting(), clock=lambda: 5.0)  # type: ignore[arg-type]
    for _ in range(10):
        with pytest.raises(Problem):
            authenticator.authenticate(f"Bearer {known.client_id}.guessed")
    assert len(asked) == 1


@pytest.mark.parametrize("part_bytes", [1, 5 * MIB])
def test_a_name_of_very_many_parts_is_refused(part_bytes: int) -> None:
    """A client that also has AWS credentials may begin an upload under any name; none takes long."""
    model = make_model(0)
    known = enrolled(model)
    name = f"{'a' * 32}-{10**14}-{part_bytes}.npz"
    key = f"updates/{model.pk}/{known.client_id}/{name}"
    s3().create_multipart_upload(Bucket=default_storage.bucket_name, Key=key)
    answer = known.call("POST", f"{updates_of(model)}/{name}/complete")
    assert (answer.status, problem(answer)) == (404, "not-found")
    assert 10**14 // part_bytes > MAX_PARTS


def test_a_part_of_another_size_has_not_arrived() -> None:
    """A part that was stored without a link of the API, and has another size, is sent again."""
    model = make_model(0)
    known = enrolled(model)
    begun = begin(known, model)
    (upload_id,) = upload_ids(begun)
    place = {"Bucket": default_storage.bucket_name, "Key": begun.body["key"]}
    s3().upload_part(**place, UploadId=upload_id, PartNumber=1, Body=DATA[: 5 * MIB])
    for number, body in ((2, b"short"), (3, b"one too many")):
        s3().upload_part(**place, UploadId=upload_id, PartNumber=number, Body=body)
    path = f"{updates_of(model)}/{begun.body['update']}/complete"
    assert known.call("POST", path).body["missing"] == [2]
    assert begin(known, model).body["arrived"] == [1]


HOSTILE_BODIES = {
    "nan": '{"aggregate": 1, "num_examples": 1, "results": {"loss": NaN}}',
    "infinite": '{"aggregate": 1, "num_examples": 1, "results": {"loss": 1e999}}',
    "twice": '{"aggregate": 1, "aggregate": 2, "num_examples": 1, "results": {}}',
    "surrogate": r'{"aggregate": 1, "num_examples": 1, "results": {"\ud800": 1}}',
    "zero": r'{"aggregate": 1, "num_examples": 1, "results": {"a": "\u0000"}}',
    "deep": '{"aggregate": 1, "num_examples": 1, "results": {"a": ' + "[" * 99 + "]" * 99 + "}}",
    "long id": '{"aggregate": 1' + "0" * 1100 + ', "num_examples": 1, "results": {}}',
    "digits": '{"aggregate": 1' + "0" * 5000 + ', "num_examples": 1, "results": {}}',
    "count": '{"aggregate": 1, "num_examples": 1e12, "results": {}}',
    "misspelt": '{"aggregate": 1, "num_examples": 1, "results": {"num_exmaples": 9}}',
    "large": json.dumps({"aggregate": 1, "num_examples": 1, "results": {"a": "x" * 70_000}}),
    "huge": "[" * (6 << 20),
}


@pytest.mark.parametrize("name", HOSTILE_BODIES)
def test_hostile_bodies_are_refused(name: str) -> None:
    """What intake would reject later is refused at once, and stores nothing."""
    model = make_model(0)
    known = enrolled(model)
    answer = known.call("POST", f"/v1/models/{model.pk}/scores", HOSTILE_BODIES[name])
    assert (answer.status, problem(answer)) == (400, "invalid-request")
    assert not list(application.objects().listing("scores/"))


def test_whole_numbers_may_have_a_point() -> None:
    """JSON Schema takes 10.0 for an integer, and so do keys and metadata."""
    model = make_model(0)
    known = enrolled(model)
    body = json.dumps(description(b"0123456789") | {"num_examples": 12.0, "size": 10.0})
    begun = known.call("POST", updates_of(model), body, Idempotency_Key="monday-1")
    put_part(begun.body["parts"][0], b"0123456789")
    path = f"{updates_of(model)}/{begun.body['update']}/complete"
    assert known.call("POST", path).status == 200
    assert application.objects().stat(begun.body["key"]).metadata["num-examples"] == "12"


@pytest.mark.parametrize("member", ["num_examples", "num_steps"])
def test_more_examples_than_intake_accepts_are_refused(member: str) -> None:
    """The client learns it before it has sent a byte."""
    model = make_model(0)
    known = enrolled(model)
    body = description(DATA, **{member: 10**9 + 1})
    answer = known.call("POST", updates_of(model), body, Idempotency_Key="monday-1")
    assert (answer.status, problem(answer)) == (400, "invalid-request")
    assert member in answer.body["detail"]


@pytest.mark.parametrize("token", ["\ud800", "x" * 201, "", "\0"])
def test_hostile_tokens_are_refused(token: str) -> None:
    """A token is any text, and a stranger's may be worse."""
    body = json.dumps({"token": token, "secret_hash": digest("mine")})
    assert call("POST", "/v1/enroll", body).status in (400, 403)


def test_hostile_secrets_are_refused() -> None:
    """A header may contain what no client sends."""
    client = "11111111-1111-4111-8111-000000000001"
    for secret in ("\ud800", "\xff", "x" * 100_000, "a b", "."):
        headers = {"Authorization": f"Bearer {client}.{secret}"}
        assert call("GET", "/v1/models/1", headers=headers).status == 401


def test_an_object_that_cannot_be_read_is_no_server_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with AWS credentials may have stored it so that nobody else can read it."""
    from aggregation.errors import UpdateRejected

    model = make_model(0)
    known = enrolled(model)
    update = begin(known, model).body["update"]

    def unreadable(key: str, **_: Any) -> None:
        raise UpdateRejected("the object is stored so that it cannot be read: AccessDenied")

    monkeypatch.setattr(application.api_services().objects, "stat", unreadable)
    answer = known.call("GET", f"{updates_of(model)}/{update}")
    assert (answer.status, problem(answer)) == (409, "unreadable")
