"""`issue_upload`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import requests
import safetensors.numpy
from django.core.management import CommandError

from models_app.models import (
    FederatedModel,
    ModelAggregate,
)
from tests.factories import (
    client_id,
    filled,
    get,
    make_model,
    put,
    s3_record,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def posts(run_command: RunCommand, model: FederatedModel, *options: Any) -> list[dict[str, Any]]:
    signed: list[dict[str, Any]] = json.loads(
        run_command("issue_upload", model.pk, "--client", client_id(1), *options)
    )
    return signed


def test_a_signed_post_uploads_one_update(run_command: RunCommand) -> None:
    """A client without credentials uploads by a post, below its own prefix and with its count."""
    model = make_model(1)
    signed = posts(run_command, model, "--count", 2, "--minutes", 5)
    keys = [post["fields"]["key"] for post in signed]
    assert len(set(keys)) == 2
    assert all(key.startswith(f"updates/{model.pk}/{client_id(1)}/") for key in keys)
    fields = signed[0]["fields"] | {"x-amz-meta-num-examples": "7"}
    body = safetensors.numpy.save(filled(1.0))
    file = ("mine.safetensors", body)
    answer = requests.post(signed[0]["url"], data=fields, files={"file": file}, timeout=10)
    assert answer.ok
    assert get(keys[0].replace("${filename}", "mine.safetensors")) == body


@pytest.mark.parametrize("metadata", [{}, {"x-amz-meta-num-examples": "7"}])
def test_an_upload_by_a_form_passes_intake(
    run_command: RunCommand, metadata: dict[str, str]
) -> None:
    """The form as it was signed, with or without a count of the client, makes a ready update."""
    from tests.test_lambda_handler import invoke

    model = make_model(1)
    (post,) = posts(run_command, model)
    body = safetensors.numpy.save(filled(1.0))
    form = post["fields"] | metadata
    file = ("mine.safetensors", body)
    requests.post(post["url"], data=form, files={"file": file}, timeout=10).raise_for_status()
    key = post["fields"]["key"].replace("${filename}", "mine.safetensors")
    invoke({"Records": [s3_record(key, put(key, body, _metadata(key)), len(body))]})
    update = model.model_updates.get()
    assert (update.rejection_reason, update.base_aggregate) == ("", None)
    assert update.num_examples == int(metadata.get("x-amz-meta-num-examples", 1))


def _metadata(key: str) -> dict[str, str]:
    from tests.untyped import default_storage

    client, bucket = default_storage.connection.meta.client, default_storage.bucket_name
    stored: dict[str, str] = client.head_object(Bucket=bucket, Key=key)["Metadata"]
    return stored


def test_a_form_is_based_on_what_is_the_latest(
    run_command: RunCommand, lineage: list[ModelAggregate]
) -> None:
    """An unchanged form names the latest aggregate as its base."""
    (post,) = posts(run_command, lineage[0].federated_model)
    assert post["fields"]["x-amz-meta-base-aggregate"] == str(lineage[-1].pk)
    assert post["fields"]["x-amz-meta-num-examples"] == "1"


def test_a_signed_post_is_bound(run_command: RunCommand) -> None:
    """The policy that is signed fixes the beginning of the key and the size."""
    (post,) = posts(run_command, make_model(1), "--max-bytes", 1000)
    policy = json.loads(base64.b64decode(post["fields"]["policy"]))
    assert ["content-length-range", 1, 1000] in policy["conditions"]
    key = post["fields"]["key"]
    assert key.endswith("-${filename}")
    assert ["starts-with", "$key", key.removesuffix("${filename}")] in policy["conditions"]


def test_a_post_allows_little_more_than_the_model(run_command: RunCommand) -> None:
    """A post expires, and its size is limited by that of the model."""
    large = make_model(1, initial={"w": np.zeros(10 << 20, np.float32)})
    assert large.current_artifact is not None
    size = len(get(large.current_artifact.values.name))
    limits = []
    for model in (large, make_model(1, initial=filled(0.0)), make_model(1)):
        (post,) = posts(run_command, model, "--minutes", 5)
        policy = json.loads(base64.b64decode(post["fields"]["policy"]))
        (limit,) = [
            each[2]
            for each in policy["conditions"]
            if isinstance(each, list) and each[0] == "content-length-range"
        ]
        limits.append(limit)
        expires = datetime.fromisoformat(policy["expiration"]) - datetime.now(UTC)
        assert timedelta(minutes=4) < expires <= timedelta(minutes=5)
    assert limits == [2 * size, 16 << 20, 5 << 30]


def test_a_post_for_scores_may_be_added(run_command: RunCommand) -> None:
    """`--scores` adds a form for the client's own scores, limited in size."""
    model = make_model(1)
    _, post = posts(run_command, model, "--scores")
    assert post["fields"]["key"] == f"scores/{model.pk}/{client_id(1)}/${{filename}}"
    policy = json.loads(base64.b64decode(post["fields"]["policy"]))
    assert ["content-length-range", 1, 64 << 10] in policy["conditions"]
    assert ["starts-with", "$key", f"scores/{model.pk}/{client_id(1)}/"] in policy["conditions"]
    assert (
        posts(run_command, model, "--count", 0, "--scores")[0]["fields"]["key"]
        == post["fields"]["key"]
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--count", "0"], "--count must be between 1 and 1000, or 0"),
        (["--minutes", "99999"], "--minutes must be between 1 and 10080"),
        (["--max-bytes", "0"], "--max-bytes must be between 1 and"),
        (["--client", str(client_id(2))], "there is no client"),
    ],
)
def test_posts_that_cannot_be_signed_are_refused(
    run_command: RunCommand, options: list[str], why: str
) -> None:
    """Values that S3 would not sign, and a client that is not a member, are refused."""
    with pytest.raises(CommandError, match=why):
        posts(run_command, make_model(1), *options)


def test_posts_are_for_buckets(run_command: RunCommand, settings_of_a_directory: None) -> None:
    """If storage is a directory, there are no forms."""
    with pytest.raises(CommandError, match="set BUCKET"):
        posts(run_command, make_model(1))


@pytest.fixture
def settings_of_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "BUCKET", "")
