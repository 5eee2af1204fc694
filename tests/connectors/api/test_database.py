"""The API and the database: which calls need it, how often, and while it wakes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.models import Q
from django.test.utils import CaptureQueriesContext

from aggregation.errors import TemporarilyUnavailable
from connectors import application
from connectors.api.enrollment import enroll
from connectors.api.problems import Problem
from connectors.publication import replacement
from connectors.publication.credentials import PENDING, write_credentials
from connectors.publication.status import MAX_UPDATES, write_statuses
from connectors.storage.keys import credentials_key
from connectors.usecases.administration.clients import (
    add_clients,
    invite,
    remove_client,
    revoke,
    set_paused,
)
from models_app.models import Client, ModelUpdate
from tests.connectors.api.api_tools import (
    Answer,
    Enrolled,
    call,
    description,
    digest,
    enrolled,
    problem,
    put_part,
)
from tests.connectors.rounds.test_concurrent_rounds import eight_times
from tests.factories import filled, get, make_model, put

pytestmark = pytest.mark.usefixtures("database", "cloud", "fresh_services")

DATA = b"0123456789"


def statements_of(act: Any) -> int:
    with CaptureQueriesContext(connection) as queries:
        act()
    return len(queries.captured_queries)


def test_enrolling_and_rotating_take_three_statements() -> None:
    """Also if they are repeated or refused."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    known = Enrolled(str(invitation.client_id), "mine")
    body = {"token": invitation.token, "name": "north", "secret_hash": digest("mine")}
    fresh = {"secret_hash": digest("fresh")}
    for act in (
        lambda: call("POST", "/v1/enroll", body),
        lambda: call("POST", "/v1/enroll", body),
        lambda: call("POST", "/v1/enroll", {**body, "secret_hash": digest("theirs")}),
        lambda: known.call("POST", "/v1/secret", fresh),
        lambda: Enrolled(known.client_id, "fresh").call("POST", "/v1/secret", fresh),
    ):
        assert 0 < statements_of(act) <= 3
    assert Client.objects.get().secret_hash == digest("fresh")


def test_no_other_call_needs_the_database() -> None:
    """Whether it succeeds or is refused."""
    model = make_model(0, initial=filled(0.0))
    known = enrolled(model)
    base = f"/v1/models/{model.pk}"

    def everything(client: Enrolled) -> None:
        begun = client.call(
            "POST", f"{base}/updates", description(DATA), Idempotency_Key="monday-1"
        )
        if begun.status == 200:
            put_part(begun.body["parts"][0], DATA)
        update = f"{base}/updates/{begun.body.get('update', 'x')}"
        parts = {"parts": [{"number": 1, "checksum": description(DATA)["parts"][0]}]}
        client.call("POST", f"{update}/parts", parts)
        client.call("POST", f"{update}/complete")
        client.call("GET", update)
        client.call("GET", base)
        scores = {"aggregate": 1, "num_examples": 1, "results": {}}
        client.call("POST", f"{base}/scores", scores)

    for client in (known, Enrolled(known.client_id, "wrong")):
        assert statements_of(partial(everything, client)) == 0


def test_an_old_update_takes_one_statement() -> None:
    """The status document shows the newest updates only; the client learns of each."""
    model = make_model(0)
    known = enrolled(model)
    path = f"/v1/models/{model.pk}/updates"
    begun = known.call("POST", path, description(DATA), Idempotency_Key="monday-1")
    put_part(begun.body["parts"][0], DATA)
    known.call("POST", f"{path}/{begun.body['update']}/complete")
    state = {"status": ModelUpdate.Status.INVALID, "rejection_reason": "nan"}
    for number in range(MAX_UPDATES + 1):
        key = f"updates/{model.pk}/{known.client_id}/{number}.npz" if number else begun.body["key"]
        ModelUpdate.objects.create(
            federated_model=model,
            client_id=known.client_id,
            data=key,
            **(state if not number else {}),
        )
    write_statuses(application.objects(), model.pk)
    seen: list[Any] = []
    url = f"{path}/{begun.body['update']}"
    assert statements_of(lambda: seen.append(known.call("GET", url).body)) == 1
    assert (seen[0]["state"], seen[0]["reason"]) == ("rejected", "nan")


def waking(*_: Any) -> None:
    raise OperationalError("the database system is starting up")


def test_while_the_database_wakes_the_answer_is_503() -> None:
    """The client is asked to come back, and enrolls or rotates later by the same request."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    body = {"token": invitation.token, "secret_hash": digest("mine")}
    known = Enrolled(str(invitation.client_id), "mine")
    acts: list[Callable[[], Answer]] = [
        lambda: call("POST", "/v1/enroll", body),
        lambda: known.call("POST", "/v1/secret", {"secret_hash": digest("fresh")}),
    ]
    for act in acts:
        with connection.execute_wrapper(waking):
            answer = act()
        assert (answer.status, problem(answer)) == (503, "temporarily-unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert act().status == 200


def test_an_unexpected_error_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a problem document without details, and the log has the error and no secret."""
    model = make_model(0)
    known = enrolled(model)
    documents = application.api_services().documents
    monkeypatch.setattr(documents, "model", lambda *_: 1 / 0)
    answer = known.call("GET", f"/v1/models/{model.pk}")
    assert (answer.status, problem(answer)) == (500, "internal-error")
    assert "division" not in json.dumps(answer.body)
    assert "division by zero" in caplog.text
    assert known.secret not in caplog.text


# Races


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_token_enrolls_one_of_many_at_once() -> None:
    """Of eight that use a token at the same time with secrets of their own, one becomes the client."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    objects = application.objects()

    def use() -> str:
        secret = digest(secrets.token_hex())
        try:
            enroll(objects, token=invitation.token, name="", secret_hash=secret)
        except Problem as refused:
            return refused.kind
        return secret

    won, lost = sorted(set(eight_times(use)))
    assert lost == "invitation-invalid"
    assert Client.objects.get().secret_hash == won
    assert json.loads(get(credentials_key(invitation.client_id)))["secret_hash"] == won


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_the_same_enrollment_at_once_is_one() -> None:
    """Eight copies of one request have the same outcome; some may be asked to try again."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    objects = application.objects()

    def use() -> Any:
        try:
            return enroll(
                objects, token=invitation.token, name="north", secret_hash=digest("mine")
            ).client_id
        except TemporarilyUnavailable:
            return None

    assert invitation.client_id in {*eight_times(use)} <= {invitation.client_id, None}
    write_credentials(objects)
    assert Enrolled(str(invitation.client_id), "mine").call("GET", f"/v1/models/{model.pk}").body


class Slow:
    """Storage that does something else just before it replaces the first document."""

    def __init__(self, act: Any) -> None:
        self._acts = [act]

    def __getattr__(self, name: str) -> Any:
        return getattr(application.objects(), name)

    def replace(self, key: str, data: bytes, *, etag: str) -> None:
        for act in self._acts:
            self._acts = []
            act()
        application.objects().replace(key, data, etag=etag)


def test_a_slow_writer_does_not_let_a_revoked_client_in() -> None:
    """A client that is revoked while it enrolls stays out, whoever writes its document last."""
    model = make_model(0)
    (invitation,) = invite(model, 1, timedelta(days=1))
    client = Client.objects.get()
    slow: Any = Slow(lambda: revoke(application.objects(), client))
    enroll(slow, token=invitation.token, name="", secret_hash=digest("mine"))
    assert not json.loads(get(credentials_key(client.pk)))["secret_hash"]
    write_credentials(application.objects())
    known = Enrolled(str(client.pk), "mine")
    assert known.call("GET", f"/v1/models/{model.pk}").status == 401


def test_a_change_while_the_document_is_written_is_written_by_the_sweep() -> None:
    """A membership that ends between reading a row and recording that it was written."""
    model = make_model(0)
    known = enrolled(model)
    client = Client.objects.get(pk=known.client_id)
    add_clients(make_model(0), 0, [known.client_id])
    write_credentials(Slow(lambda: remove_client(model, client)))
    assert Client.objects.filter(PENDING).get() == client
    write_credentials(application.objects())
    assert not Client.objects.filter(PENDING).exists()
    assert model.pk not in json.loads(get(credentials_key(client.pk)))["models"]


def test_documents_follow_a_database_that_was_restored() -> None:
    """Versions follow the clock: after a restore, a revocation replaces a document of the time between."""
    model = make_model(0)
    known = enrolled(model)
    client = Client.objects.get()
    before = client.credentials_version
    set_paused(client, paused=True)
    set_paused(client, paused=False)
    write_credentials(application.objects())
    Client.objects.update(credentials_version=before, credentials_written=before)
    revoke(application.objects(), client)
    application.api_services.cache_clear()
    assert known.call("GET", f"/v1/models/{model.pk}").status == 401


def test_many_documents_take_two_statements() -> None:
    """The number of statements does not depend on that of the clients."""
    model = make_model(0)
    clients = [enrolled(model) for _ in range(3)]
    counts = []
    for number in (1, 3):
        chosen = [each.client_id for each in clients[:number]]
        for pk in chosen:
            set_paused(Client.objects.get(pk=pk), paused=number == 1)
        counts.append(statements_of(lambda: write_credentials(application.objects())))
    assert counts == [2, 2]
    assert not Client.objects.filter(PENDING).exists()


def test_a_document_that_many_write_is_left_to_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer gives up, and the client's row stays marked."""
    model = make_model(0)
    client = Client.objects.get(pk=enrolled(model).client_id)
    set_paused(client, paused=True)
    monkeypatch.setattr(replacement, "TRIES", 0)
    with pytest.raises(TemporarilyUnavailable, match="many at once"):
        write_credentials(application.objects())
    assert Client.objects.filter(PENDING).exists()


def test_a_revocation_is_not_forgotten_if_storage_fails() -> None:
    """The row is revoked at once, intake refuses uploads, and the sweep writes the document."""
    client = Client.objects.get(pk=enrolled(make_model(0)).client_id)

    class Away:
        def stat(self, *_: Any, **__: Any) -> None:
            raise TemporarilyUnavailable("S3 is away")

    with pytest.raises(TemporarilyUnavailable):
        revoke(Away(), client)  # type: ignore[arg-type]
    assert Client.objects.filter(PENDING, Q(secret_hash="", paused=True)).exists()
    call_command("sweep", stdout=StringIO())
    assert not json.loads(get(credentials_key(client.pk)))["secret_hash"]


def test_a_damaged_document_lets_nobody_in() -> None:
    """What is no document of credentials is an error of the aggregator's, and no way in."""
    model = make_model(0)
    known = enrolled(model)
    application.api_services.cache_clear()
    put(credentials_key(known.client_id), b'{"models": [1]}')
    assert known.call("GET", f"/v1/models/{model.pk}").status == 500
