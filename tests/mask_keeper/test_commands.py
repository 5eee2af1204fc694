"""The commands of the mask keeper's operator, and its function on messages."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from mask_keeper import __main__ as commands
from mask_keeper import handler
from tests.aggregation.masks.samples import client_of
from tests.mask_keeper.conftest import Bench, message_of, signing_key_of


def test_clients_are_registered_listed_and_revoked(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key can be replaced; an unknown client cannot be revoked."""
    table = ["--table", bench.table._name]
    key = signing_key_of(50).public_key().public_bytes_raw().hex()
    assert commands.main([*table, "register", client_of(50), key]) == 0
    assert commands.main([*table, "clients"]) == 0
    assert f"{client_of(50)} {key}" in capsys.readouterr().out
    assert commands.main([*table, "revoke", client_of(50)]) == 0
    assert commands.main([*table, "revoke", client_of(50)]) == 1
    assert "not registered" in capsys.readouterr().err


def test_the_public_key_is_shown(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """It follows from the secret of the stack."""
    import boto3

    client = boto3.client("secretsmanager")
    name = uuid.uuid4().hex
    client.create_secret(Name=name, SecretString="a" * 64)
    commands.main(["--table", bench.table._name, "public-key", "--secret", name])
    expected = handler.key_of("a" * 64).public_key().public_bytes_raw().hex()
    assert capsys.readouterr().out.strip() == expected


@pytest.mark.parametrize("key", ["AB" * 32, "ab", "zz" * 32])
def test_what_is_no_key_is_refused(bench: Bench, key: str) -> None:
    """A key that is typed wrongly is not registered."""
    with pytest.raises(SystemExit):
        commands.main(["--table", bench.table._name, "register", client_of(1), key])


class Context:
    """A context with this much time."""

    def __init__(self, milliseconds: int = 300_000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


@pytest.fixture
def function(bench: Bench, cloud: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The function's environment."""
    import boto3

    secret = boto3.client("secretsmanager").create_secret(
        Name=uuid.uuid4().hex, SecretString="b" * 64
    )
    for name, value in {
        "TABLE": bench.table._name,
        "KEY_SECRET": secret["ARN"],
        "REPLY_QUEUE_URL": cloud.queue_url,
        "MIN_COHORT": "3",
        "BUCKET": bench.bucket,
    }.items():
        monkeypatch.setenv(name, value)
    handler.client.cache_clear()
    handler.private_key.cache_clear()
    return bench


def record(body: str, number: int = 1) -> dict[str, str]:
    """Return a record of SQS."""
    return {"messageId": f"message-{number}", "body": body}


def test_a_message_that_can_never_be_answered_is_dropped(function: Bench) -> None:
    """It would be refused each time; another message in the batch is not affected."""
    key = function.request(*(message_of(n) for n in range(3)))
    missing = f"masks/3/{'0' * 64}/request.json"
    bodies = ["", "{}", json.dumps({"request": missing}), json.dumps({"request": key})]
    event = {"Records": [record(body, n) for n, body in enumerate(bodies)]}
    assert handler.handler(event, Context()) == {"batchItemFailures": []}
    # The samples are sealed for another key: the refusal is an answer, and the aggregator is woken.
    assert b"another mask keeper" in function.read(key.replace("request.json", "answer.json"))


def test_an_outage_delivers_the_message_again(
    function: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that does not answer is not the message's fault."""
    monkeypatch.setenv("TABLE", "missing")
    key = function.request(*(message_of(n) for n in range(3)))
    event = {"Records": [record(json.dumps({"request": key}))]}
    assert handler.handler(event, Context()) == {
        "batchItemFailures": [{"itemIdentifier": "message-1"}]
    }
