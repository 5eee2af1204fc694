"""`client_policy`: the printed policy is judged by an IAM that enforces it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from django.core.management import CommandError

from connectors.storage.keys import pointer_key, progress_key, status_key
from federated_client import AccessDenied, Bucket
from local.cloud import Cloud
from tests.factories import client_id, make_model, put

pytestmark = [
    pytest.mark.usefixtures("database"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]
RunCommand = Callable[..., str]

BUCKET = "federation"


@pytest.fixture
def enforced(cloud: Cloud) -> Iterator[Callable[[str], Any]]:
    """Return a function that makes a user with a policy, and lets the cloud enforce policies."""
    iam = boto3.client("iam", endpoint_url=cloud.endpoint)

    def enforce(policy: str) -> Any:
        iam.create_user(UserName="north")
        iam.put_user_policy(UserName="north", PolicyName="client", PolicyDocument=policy)
        key = iam.create_access_key(UserName="north")["AccessKey"]
        requests.post(f"{cloud.endpoint}/moto-api/reset-auth", data=b"0", timeout=10)
        return boto3.client(
            "s3",
            endpoint_url=cloud.endpoint,
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
        )

    yield enforce
    requests.post(f"{cloud.endpoint}/moto-api/reset-auth", data=b"inf", timeout=10)


def refused(call: Callable[..., Any], **parameters: Any) -> bool:
    try:
        call(Bucket=BUCKET, **parameters)
    except ClientError as error:
        return bool(error.response["Error"]["Code"] == "AccessDenied")
    return False


def test_a_client_may_do_what_it_needs_and_nothing_else(
    run_command: RunCommand, enforced: Callable[[str], Any]
) -> None:
    """It stores below its own prefixes, and reads the weights of its model and its own status."""
    model, other = make_model(2), make_model(1)
    own, another = client_id(1), client_id(2)
    read = [
        pointer_key(model.pk),
        progress_key(model.pk),
        f"aggregates/{model.pk}/round-000001-a.safetensors",
        f"artifacts/{model.pk}/initial-a.safetensors",
        status_key(model.pk, own),
    ]
    hidden = [
        pointer_key(other.pk),
        f"artifacts/{other.pk}/initial-a.safetensors",
        status_key(model.pk, another),
        f"clients/{own}.json",
        f"plans/{model.pk}/1-a/plan.json",
        f"updates/{model.pk}/{own}/a.npz",
        f"updates/{model.pk}/{another}/a.npz",
    ]
    for key in (*read, *hidden):
        put(key, b"{}")
    s3 = enforced(run_command("client_policy", model.pk, own))
    storage = Bucket(BUCKET, s3)
    for folder in ("updates", "scores"):
        storage.put(f"{folder}/{model.pk}/{own}/7.json", io.BytesIO(b"{}"), {}, None)
        for prefix in (f"{model.pk}/{another}", f"{other.pk}/{own}"):
            with pytest.raises(AccessDenied):
                storage.put(f"{folder}/{prefix}/7.json", io.BytesIO(b"{}"), {}, None)
    assert not any(refused(s3.get_object, Key=key) for key in read)
    assert all(refused(s3.get_object, Key=key) for key in hidden)
    assert all(refused(s3.put_object, Key=key, Body=b"") for key in (*read, *hidden[:5]))
    assert all(refused(s3.delete_object, Key=key) for key in (*read, *hidden))
    assert refused(s3.list_objects_v2)


def test_the_pages_show_the_printed_policy(run_command: RunCommand, cloud: Cloud) -> None:
    """The threat model shows what the command prints, with names in place of the values."""
    model = make_model(1)
    printed = json.loads(run_command("client_policy", model.pk, client_id(1)))
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (shown,) = re.findall(r'```json\n(\{"Version": .*?s3:GetObject.*?)```', page, re.DOTALL)
    for name, value in {"bucket": BUCKET, "model": model.pk, "client": client_id(1)}.items():
        shown = shown.replace(f"<{name}>", str(value))
    assert json.loads(shown) == printed


def test_a_stranger_has_no_policy(run_command: RunCommand, cloud: Cloud) -> None:
    """A client that is not a member gets none."""
    model = make_model(1)
    make_model(2)
    with pytest.raises(CommandError, match="is not a member of model"):
        run_command("client_policy", model.pk, client_id(2))
