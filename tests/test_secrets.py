"""No secret is logged, answered or printed, whatever goes wrong and however much is logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from federated_client.private import new_identity
from mask_keeper.checks import Cohort
from tests.factories import filled, make_model, ready_update, upload

PROJECT = Path(__file__).parents[1]

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "TheSecretAccessKey",
    "AWS_SESSION_TOKEN": "TheSessionToken",
    "SECRET_KEY": "TheKeyThatDjangoSignsWith" * 2,
}
PASSWORD = "ThePasswordOfTheDatabase"

#: Handles events with everything that any library has to say in the log.
HANDLE = """
import json, logging, sys
logging.basicConfig(level=logging.DEBUG)
from connectors.storage import retries as patience
from tests.faults.warm_worker import invoke
patience.FIRST_PAUSE_SECONDS = 0
for event in json.load(sys.stdin):
    print(json.dumps(invoke(event)))
"""


def shown(arguments: list[str], events: Any = (), **environment: str) -> str:
    """All that a process says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env={**os.environ, **SECRETS, "POWERTOOLS_LOG_LEVEL": "DEBUG", **environment},
        input=json.dumps(list(events)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


def assert_no_secret(text: str) -> None:
    leaks = [line for line in text.splitlines() if any(s in line for s in secrets())]
    assert not leaks, leaks[0][:1000]


def secrets() -> list[str]:
    return [*SECRETS.values(), PASSWORD]


def with_password(url: str) -> str:
    parts = urlsplit(url)
    place = f"{parts.username}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=place))


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@pytest.mark.usefixtures("database", "cloud")
def test_rounds_show_no_secret() -> None:
    """Rounds that are published, rejected and fail, S3 out of reach, and events nobody knows."""
    good, bad, failing = (make_model(1) for _ in range(3))
    events: list[Any] = [
        {"Records": [upload(good, 1, filled(1.0))]},
        {"Records": [upload(bad, 1, b"?")]},
    ]
    ready_update(failing, 1, filled(1.0))
    failing.model_updates.update(data="nowhere")
    events += [{"detail-type": "Scheduled Event", "detail": {"model_id": failing.pk}}]
    events += [{"detail-type": "Scheduled Event"}, {"who": "knows"}]
    url = with_password(os.environ["DATABASE_URL"])
    text = shown(["-c", HANDLE], events, DATABASE_URL=url)
    assert '"status": "published"' in text
    assert "rejected at intake" in text
    assert_no_secret(text)
    unseen = [{"Records": [upload(good, 1, filled(2.0), name="unseen.safetensors")]}]
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    text = shown(["-c", HANDLE], unseen, DATABASE_URL=url, **nowhere)
    assert "TemporarilyUnavailable" in text
    assert_no_secret(text)


@pytest.mark.parametrize("iam", ["true", "false"])
def test_a_database_out_of_reach_shows_no_secret(iam: str) -> None:
    """Neither a password nor the token that stands for one is in what the function or a command says."""
    environment = {
        "DATABASE_URL": f"postgres://aggregator:{PASSWORD}@127.0.0.1:9/federation",
        "DATABASE_IAM_AUTH": iam,
    }
    text = shown(["-c", HANDLE], [{"detail-type": "Scheduled Event"}], **environment)
    assert "the database cannot be reached" in text
    assert "X-Amz-Signature" not in text
    assert_no_secret(text)
    text = shown(["manage.py", "models"], **environment)
    assert "Connection refused" in text
    assert_no_secret(text)


def test_descriptions_of_objects_show_no_secret(tmp_path: Path) -> None:
    """Neither a client's private key nor a seed is part of a repr, which tracebacks and logs may show."""
    identity = new_identity(tmp_path / "client.keys")
    assert identity.signing_key not in repr(identity)
    assert repr(b"secret seed") not in repr(Cohort(headers=[], seeds=[b"secret seed"]))
