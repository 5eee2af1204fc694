"""The API for clients: enrolling, secrets, models, uploads in parts, and what became of an update."""

from __future__ import annotations

import json
import secrets
import urllib.parse
import urllib.request
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connectors import application
from connectors.publication.pointer import write_pointer
from connectors.publication.progress import write_progress
from connectors.usecases.administration.clients import (
    invite,
    remove_client,
    set_paused,
)
from models_app.models import Client, FederatedModel
from tests.connectors.api.api_tools import (
    MIB,
    Answer,
    Enrolled,
    call,
    description,
    digest,
    enrolled,
    pieces_of,
    problem,
    put_part,
)
from tests.factories import filled, get, make_model, ready_update, s3_record
from tests.test_lambda_handler import EVENTS, invoke
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "cloud", "fresh_services")


def large_update() -> bytes:
    """Return an update of 11 MiB, in three parts, of a model of one tensor."""
    return safetensors.numpy.save({"w": np.full(11 * MIB // 4, 2.0, np.float32)})


def large_model() -> FederatedModel:
    return make_model(0, initial={"w": np.zeros(11 * MIB // 4, np.float32)})


def stored_objects(prefix: str) -> list[str]:
    listed = default_storage.connection.meta.client.list_objects_v2(
        Bucket=default_storage.bucket_name, Prefix=prefix
    )
    return [each["Key"] for each in listed.get("Contents", ())]


# Enrolling and secrets


def test_a_token_enrolls_one_client() -> None:
    """The client becomes a member that counts; the same request again has the same answer; another
    secret for the token is refused."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    assert Client.objects.get().paused
    body = {"token": invitation.token, "name": "north", "secret_hash": digest("mine")}
    first = call("POST", "/v1/enroll", body)
    assert first.body == {
        "client": str(invitation.client_id),
        "name": "north",
        "models": [model.pk],
    }
    assert call("POST", "/v1/enroll", body).body == first.body
    stolen = call("POST", "/v1/enroll", {**body, "secret_hash": digest("theirs")})
    assert (stolen.status, problem(stolen)) == (403, "invitation-invalid")
    assert not Client.objects.get().paused


def test_a_paused_client_cannot_resume_itself() -> None:
    """Repeating the enrollment changes neither the pause nor the name that an operator has set."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    body = {"token": invitation.token, "name": "north", "secret_hash": digest("mine")}
    assert call("POST", "/v1/enroll", body).status == 200
    Client.objects.update(paused=True, name="renamed")
    answer = call("POST", "/v1/enroll", {**body, "name": "again"})
    assert (answer.status, problem(answer)) == (403, "paused")
    client = Client.objects.get()
    assert (client.paused, client.name) == (True, "renamed")


def test_tokens_expire_and_are_not_stored() -> None:
    """An expired token is refused, and no row contains a token or a secret."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    Client.objects.update(invite_expires_on=timezone.now() - timedelta(seconds=1))
    body = {"token": invitation.token, "secret_hash": digest("mine")}
    assert problem(call("POST", "/v1/enroll", body)) == "invitation-invalid"
    known = enrolled(model)
    rows = json.dumps(list(Client.objects.values()), default=str)
    assert invitation.token not in rows
    assert known.secret not in rows


def test_a_taken_name_is_refused() -> None:
    """The token can still be used with another name."""
    model = make_model(0)
    enrolled(model, "north")
    (invitation,) = invite(model, 1, timedelta(days=1))
    body = {"token": invitation.token, "name": "north", "secret_hash": digest("mine")}
    taken = call("POST", "/v1/enroll", body)
    assert (taken.status, problem(taken)) == (409, "name-taken")
    assert call("POST", "/v1/enroll", {**body, "name": "south"}).status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer nobody.secret",
        "Basic {id}.{secret}",
        "Bearer {id}.wrong",
        "Bearer {id}.",
    ],
)
def test_who_is_not_authenticated_learns_nothing(authorization: str) -> None:
    """Every wrong header has the same status and kind, whether or not the client exists."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    header = authorization.format(id=known.client_id, secret=known.secret)
    answer = call("GET", f"/v1/models/{model.pk}", headers={"Authorization": header})
    assert (answer.status, problem(answer)) == (401, "unauthorized")
    assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_another_model_cannot_be_told_from_none() -> None:
    """A member of one model gets the same answer for a model of others and for one that is not there."""
    model, other = make_model(0), make_model(0)
    known = enrolled(model)
    answers = [known.call("GET", f"/v1/models/{pk}") for pk in (other.pk, 10**6, "x", "９")]
    assert {(answer.status, problem(answer)) for answer in answers} == {(404, "not-found")}


def test_a_secret_is_replaced() -> None:
    """The new secret is valid at once; the old one is not; replacing it again is harmless."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    fresh = Enrolled(known.client_id, secrets.token_urlsafe(32))
    body = {"secret_hash": digest(fresh.secret)}
    assert known.call("POST", "/v1/secret", body).status == 200
    assert fresh.call("GET", f"/v1/models/{model.pk}").status == 200
    assert known.call("GET", f"/v1/models/{model.pk}").status == 401
    assert fresh.call("POST", "/v1/secret", body).status == 200


def revoke(model: FederatedModel, client: Client) -> None:
    call_command("revoke_client", str(client.pk))


def pause(model: FederatedModel, client: Client) -> None:
    set_paused(client, paused=True)


def remove(model: FederatedModel, client: Client) -> None:
    remove_client(model, client)


@pytest.mark.parametrize("change", [revoke, pause, remove])
def test_who_is_revoked_paused_or_removed_is_out(change: Any) -> None:
    """As soon as what the environment remembers has expired; the sweep writes what a change has not."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    assert known.call("GET", f"/v1/models/{model.pk}").status == 200
    change(model, Client.objects.get(pk=known.client_id))
    invoke(json.loads((EVENTS / "schedule-sweep.json").read_text()))
    application.api_services.cache_clear()  # Another environment, or this one after half a minute.
    assert known.call("GET", f"/v1/models/{model.pk}").status in (401, 404)


def test_an_environment_remembers_for_half_a_minute() -> None:
    """A secret that was revoked is refused after the time for which an environment trusts a document."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    now = [0.0]
    authenticator = application.api_services().authenticator
    authenticator.clock = lambda: now[0]
    for seconds, status in ((0.0, 200), (29.0, 200), (30.0, 401)):
        now[0] = seconds
        assert known.call("GET", f"/v1/models/{model.pk}").status == status
        call_command("revoke_client", known.client_id)


# Models and scores


def test_a_model_is_described_without_the_database() -> None:
    """Settings, the latest weights by a link, and how many updates are ready; no statement."""
    model = make_model(1, initial=filled(3.0), requirement="quorum", requirement_args=[2, 30])
    known = enrolled(model)
    write_pointer(application.objects(), model.pk)
    ready_update(model, 1, filled(1.0))
    write_progress(application.objects(), model.pk)
    known.call("GET", f"/v1/models/{model.pk}")  # The client's document is remembered.
    with CaptureQueriesContext(connection) as queries:
        answer = known.call("GET", f"/v1/models/{model.pk}")
    assert not queries.captured_queries
    latest = answer.body["latest"]
    assert latest["update_kind"] == "weights"
    assert latest["rule"] == "weighted_mean"
    assert [tensor["name"] for tensor in latest["layout"]] == ["b", "w"]
    assert answer.body["progress"]["ready"] == 1
    assert answer.body["progress"]["deadline"] > timezone.now().isoformat()
    assert answer.body["status"] is None
    with urllib.request.urlopen(latest["url"]) as response:
        whole = response.read()
    assert filled(3.0).keys() == safetensors.numpy.load(whole).keys()
    ranged = urllib.request.Request(latest["url"], headers={"Range": "bytes=8-17"})
    with urllib.request.urlopen(ranged) as response:
        assert (response.status, response.read()) == (206, whole[8:18])


def test_a_score_is_stored_where_intake_finds_it() -> None:
    """The object of a score has the client's id in its key, whatever the body says."""
    model = make_model(0)
    known = enrolled(model)
    body = {"aggregate": 7, "num_examples": 5, "results": {"accuracy": 0.5}}
    answer = known.call("POST", f"/v1/models/{model.pk}/scores", body)
    assert answer.body["key"] == f"scores/{model.pk}/{known.client_id}/7.json"
    assert json.loads(get(answer.body["key"])) == {"num_examples": 5, "accuracy": 0.5}


# Updates


def send(known: Enrolled, model: FederatedModel, data: bytes, numbers: set[int]) -> Answer:
    """Begin or continue an upload, and send some of its parts."""
    path = f"/v1/models/{model.pk}/updates"
    body = description(data)
    answer = known.call("POST", path, body, Idempotency_Key="monday-1")
    pieces = pieces_of(data, body["part_bytes"])
    for part in answer.body["parts"]:
        if part["number"] in numbers:
            assert put_part(part, pieces[part["number"] - 1]) == 200
    return answer


def test_an_upload_continues_where_it_was_interrupted() -> None:
    """The same request finds the same upload; parts that have arrived get no link; a round uses the
    update, and the client sees in which aggregate it is."""
    model = large_model()
    known, data = enrolled(model), large_update()
    first = send(known, model, data, {1, 3})
    again = send(known, model, data, {2})
    assert again.body["update"] == first.body["update"]
    assert again.body["arrived"] == [1, 3]
    assert [part["number"] for part in again.body["parts"]] == [2]
    path = f"/v1/models/{model.pk}/updates/{first.body['update']}"
    assert known.call("GET", path).status == 404
    assert known.call("POST", f"{path}/complete").body["complete"] is True
    assert known.call("POST", f"{path}/complete").body["complete"] is True
    assert known.call("GET", path).body["state"] == "uploaded"
    key = first.body["key"]
    assert get(key) == data
    assert send(known, model, data, set()).body["complete"] is True
    etag = default_storage.connection.meta.client.head_object(
        Bucket=default_storage.bucket_name, Key=key
    )["ETag"].strip('"')
    invoke({"Records": [s3_record(key, etag, len(data))]})
    update = known.call("GET", path)
    assert update.body["state"] == "complete"
    assert update.body["aggregate"] == model.aggregates.get().pk
    assert update.body["weight"] == 1.0
    seen = known.call("GET", f"/v1/models/{model.pk}").body
    assert seen["latest"]["number"] == 1
    assert seen["status"]["ready"] == 0
    assert seen["status"]["updates"][0]["key"] == key
    assert model.model_updates.get().num_examples == 10


def test_a_rejection_shows_its_reason() -> None:
    """The client sees why its update was rejected, in the words of intake."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    data = safetensors.numpy.save({"other": np.zeros(3, np.float32)})
    first = send(known, model, data, {1})
    path = f"/v1/models/{model.pk}/updates/{first.body['update']}"
    known.call("POST", f"{path}/complete")
    stat = application.objects().stat(first.body["key"])
    invoke({"Records": [s3_record(first.body["key"], stat.etag, len(data))]})
    update = known.call("GET", path).body
    assert update["state"] == "rejected"
    assert "is missing" in update["reason"]


def test_a_link_is_signed_for_its_length_and_its_checksum() -> None:
    """S3 refuses a part of another length or content, because both headers are signed."""
    model = large_model()
    known = enrolled(model)
    for part in send(known, model, large_update(), set()).body["parts"]:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(part["url"]).query)
        assert query["X-Amz-SignedHeaders"] == ["content-length;host;x-amz-checksum-sha256"]


def test_missing_parts_are_named() -> None:
    """An upload that lacks parts is not completed."""
    model = large_model()
    known = enrolled(model)
    first = send(known, model, large_update(), {2})
    path = f"/v1/models/{model.pk}/updates/{first.body['update']}/complete"
    answer = known.call("POST", path)
    assert (answer.status, problem(answer)) == (409, "parts-missing")
    assert answer.body["missing"] == [1, 3]
    assert not stored_objects("updates/")


def test_links_are_given_out_a_hundred_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links for further parts are requested by number and checksum."""
    monkeypatch.setattr("connectors.api.uploads.MAX_LINKS", 2)
    model = large_model()
    known, data = enrolled(model), large_update()
    first = send(known, model, data, {1, 2})
    assert [part["number"] for part in first.body["parts"]] == [1, 2]
    wanted = [{"number": 3, "checksum": description(data)["parts"][2]}]
    path = f"/v1/models/{model.pk}/updates/{first.body['update']}"
    (part,) = known.call("POST", f"{path}/parts", {"parts": wanted}).body["parts"]
    put_part(part, pieces_of(data, 5 * MIB)[2])
    assert known.call("POST", f"{path}/complete").status == 200
    beyond = known.call("POST", f"{path}/parts", {"parts": [{**wanted[0], "number": 4}]})
    assert beyond.status in (400, 404)


def test_quotas_bound_open_uploads_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may not begin more uploads, or send more bytes within a day, than the settings allow;
    an upload that was begun can be continued."""
    monkeypatch.setattr("django.conf.settings.API_OPEN_UPLOADS", 2)
    model = large_model()
    known, data = enrolled(model), large_update()
    path = f"/v1/models/{model.pk}/updates"
    for number in (1, 2, 1):
        key = f"upload-number-{number}"
        assert known.call("POST", path, description(data), Idempotency_Key=key).status == 200
    refused = known.call("POST", path, description(data), Idempotency_Key="upload-number-3")
    assert (refused.status, problem(refused)) == (429, "too-many-open-uploads")
    assert "Retry-After" in refused.headers
    monkeypatch.setattr("django.conf.settings.API_OPEN_UPLOADS", 10)
    monkeypatch.setattr("django.conf.settings.API_BYTES_PER_DAY", 3 * len(data) - 1)
    refused = known.call("POST", path, description(data), Idempotency_Key="upload-number-3")
    assert (refused.status, problem(refused)) == (429, "quota-exceeded")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"size": 0}, 400, "size"),
        ({"part_bytes": 1000}, 400, "part_bytes"),
        ({"parts": []}, 400, "parts"),
        ({"parts": ["x"]}, 400, "parts"),
        ({"format": "exe"}, 400, "format"),
        ({"num_examples": 0}, 400, "num_examples"),
        ({"more": 1}, 400, "more"),
        ({"size": 30 * MIB}, 400, "6 parts"),
        ({"size": 11 << 30}, 413, "at most"),
    ],
)
def test_wrong_descriptions_are_refused(changes: dict[str, Any], status: int, said: str) -> None:
    """The problem names the member that is wrong; nothing is begun."""
    model = large_model()
    known = enrolled(model)
    body = {**description(large_update()), **changes}
    answer = known.call(
        "POST", f"/v1/models/{model.pk}/updates", body, Idempotency_Key="a-key-of-mine"
    )
    assert answer.status == status
    problem(answer)
    assert said in answer.body["detail"]
    assert not application.api_services().uploads._storage.open_uploads("updates/")


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', "{" * 100_000])
def test_bodies_that_are_no_objects_are_refused(body: str) -> None:
    """Whatever the body is, the answer is a problem of the client's."""
    model = make_model(0)
    known = enrolled(model)
    answer = known.call("POST", f"/v1/models/{model.pk}/scores", body)
    assert (answer.status, problem(answer)) == (400, "invalid-request")


def test_an_upload_needs_an_idempotency_key() -> None:
    """Without one, a repeated request would begin another upload."""
    model = large_model()
    known = enrolled(model)
    answer = known.call("POST", f"/v1/models/{model.pk}/updates", description(large_update()))
    assert answer.status == 400
    assert "Idempotency-Key" in answer.body["detail"]


def test_unknown_routes_are_problems() -> None:
    """A path or a method that does not exist has a problem document, too."""
    assert problem(call("GET", "/v2/nothing")) == "not-found"
    assert problem(call("DELETE", "/v1/enroll")) == "not-found"
