"""`create_model`, `add_clients`, `remove_client`, `issue_upload`."""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import safetensors.numpy
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from connectors.storage.keys import pointer_key
from models_app.models import Client, FederatedModel, ModelAggregate
from tests.factories import SMALL, client_id, filled, get, make_model, put, s3_record

pytestmark = pytest.mark.usefixtures("database", "cloud")
Said = Callable[..., str]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "initial.safetensors"
    path.write_bytes(safetensors.numpy.save(SMALL))
    return path


def test_a_model_is_created_whole(said: Said, weights: Path) -> None:
    """`create_model` stores the initial weights, makes the clients and tells where to begin."""
    out = json.loads(
        said(
            *("create_model", "digits", "--initial", weights, "--rule", "trimmed_mean"),
            *("--rule-arg", "beta=0.2", "--requirement", "quorum", "--requirement-arg", "x=3"),
            *("--requirement-arg", "after_minutes=30", "--clients", 2, "--client", client_id(1)),
            *("--furthest-base", 2, "--max-num-examples", 500, "--json"),
        )
    )
    model = FederatedModel.objects.get(pk=out["model"])
    assert (model.aggregator, model.aggregator_args) == ("trimmed_mean", {"beta": 0.2})
    assert model.requirement_args == {"x": 3, "after_minutes": 30}
    assert (model.furthest_base_agg, model.max_num_examples) == (2, 500)
    assert {str(pk) for pk in model.clients.values_list("pk", flat=True)} == set(out["clients"])
    assert str(client_id(1)) in out["clients"]
    assert model.current_artifact
    assert get(str(model.current_artifact.values.name)) == weights.read_bytes()
    assert json.loads(get(pointer_key(model.pk)))["number"] == 0


def test_a_model_is_created_with_what_its_scores_are(said: Said, tmp_path: Path) -> None:
    """`create_model` takes the metric, its direction, the margin, both schemas and the developer."""
    get_user_model().objects.create(username="ada")
    schema = {"type": "object", "required": ["loss"]}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    said(
        *("create_model", "digits", "--score-metric", "loss", "--lower-is-better"),
        *("--max-score-drop", 0.05, "--score-schema", path, "--update-schema", path),
        *("--developer", "ada"),
    )
    model = FederatedModel.objects.get()
    assert (model.score_metric, model.lower_is_better, model.max_score_drop) == ("loss", True, 0.05)
    assert model.client_agg_results_schema == model.update_schema == schema
    assert model.developer
    assert model.developer.username == "ada"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--rule", "nonsense"], "unknown aggregation rule 'nonsense'; known are"),
        (["--rule-arg", "beta"], "NAME=VALUE"),
        (["--rule-arg", "beta=1"], "weighted_mean takes no arguments"),
        (["--requirement", "nonsense"], "unknown requirement"),
        (["--requirement", "quorum"], "quorum takes the arguments x, after_minutes"),
        (["--furthest-base", "0"], "--furthest-base: "),
        (["--max-num-examples", "0"], "--max-num-examples: "),
        (["--update-kind", "gradients"], "invalid choice"),
        (["--update-kind", "differences"], "give the model --initial weights"),
        (["--initial", "/nonexistent.npz"], "No such file"),
        (["--initial", __file__], "holds no weights"),
        (["--clients", "-1"], "--clients must be between"),
        (["--client", "me"], "no UUID"),
    ],
)
def test_a_model_that_cannot_be_is_refused(said: Said, arguments: list[str], why: str) -> None:
    """Wrong input is told in the user's terms, and nothing is created."""
    with pytest.raises(CommandError, match=why):
        said("create_model", "digits", *arguments)
    assert not FederatedModel.objects.exists()
    assert not Client.objects.exists()


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ("--requirement require_x_updates --requirement-arg x=5 --clients 2", "needs 5 updates, 2"),
        ("--rule krum --rule-arg f=3 --clients 1", "krum needs 9 updates, 1 client is there"),
        ("--rule krum --rule-arg f=0 --clients 3", ""),
        (
            "--requirement quorum --requirement-arg x=3 --requirement-arg after_minutes=1 --clients 2",
            "",
        ),
        ("--rule krum --rule-arg f=3", ""),
    ],
)
def test_a_model_whose_rounds_cannot_start_is_told(options: str, warning: str) -> None:
    """`create_model` warns where the clients it has are too few for the rule or the requirement."""
    notes = io.StringIO()
    call_command("create_model", "digits", *options.split(), stdout=io.StringIO(), stderr=notes)
    assert warning in notes.getvalue()
    assert bool(warning) is bool(notes.getvalue())


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.json"])
def test_initial_weights_are_finite(said: Said, tmp_path: Path, name: str) -> None:
    """What no round could go on from is refused with its place, and nothing is created."""
    layers = {"v": np.zeros(3, np.float32), "w": np.array([[1, 2], [np.inf, 4]], np.float32)}
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez_compressed(path, **layers)
    elif name.endswith(".json"):
        path.write_text(json.dumps([each.tolist() for each in layers.values()]))
    else:
        path.write_bytes(safetensors.numpy.save(layers))
    with pytest.raises(CommandError, match="Infinity" if "json" in name else r"inf in tensor 'w'"):
        said("create_model", "digits", "--initial", path)
    assert not FederatedModel.objects.exists()


def test_clients_come_and_go(said: Said) -> None:
    """`add_clients` makes members, new or known; `remove_client` ends a membership, not the client."""
    model = make_model(1)
    known = Client.objects.create()
    added = json.loads(
        said("add_clients", model.pk, "--clients", 1, "--client", known.pk, "--json")
    )
    assert len(added) == 2
    assert model.clients.count() == 3
    assert "2 are left" in said("remove_client", model.pk, known.pk)
    assert set(Client.objects.filter(pk=known.pk)) == {known}
    assert not model.clients.filter(pk=known.pk).exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["add_clients", "999", "--clients", "1"], "no federated model with id 999"),
        (["add_clients", "MODEL"], "say which"),
        (["remove_client", "MODEL", "me"], "no UUID"),
        (["remove_client", "MODEL", str(uuid.UUID(int=7))], "is no member of model"),
        (["remove_client", "999", str(client_id(1))], "no federated model with id 999"),
    ],
)
def test_members_that_cannot_be_are_refused(said: Said, arguments: list[str], why: str) -> None:
    """A model that is not there, or a client that is no member, is named."""
    model = make_model(1)
    with pytest.raises(CommandError, match=why):
        said(*(str(model.pk) if each == "MODEL" else each for each in arguments))


def posts(said: Said, model: FederatedModel, *options: Any) -> list[dict[str, Any]]:
    signed: list[dict[str, Any]] = json.loads(
        said("issue_upload", model.pk, "--client", client_id(1), *options)
    )
    return signed


def test_a_signed_post_uploads_one_update(said: Said) -> None:
    """A client without credentials uploads by a post, below its own prefix and with its count."""
    model = make_model(1)
    signed = posts(said, model, "--count", 2, "--minutes", 5)
    keys = [post["fields"]["key"] for post in signed]
    assert len(set(keys)) == 2
    assert all(key.startswith(f"updates/{model.pk}/{client_id(1)}/") for key in keys)
    fields = signed[0]["fields"] | {"x-amz-meta-num-examples": "7"}
    body = safetensors.numpy.save(filled(1.0))
    file = ("mine.safetensors", body)
    answer = requests.post(signed[0]["url"], data=fields, files={"file": file}, timeout=10)
    assert answer.ok
    assert get(keys[0].replace("${filename}", "mine.safetensors")) == body


@pytest.mark.parametrize("told", [{}, {"x-amz-meta-num-examples": "7"}])
def test_what_a_signed_post_uploads_passes_the_door(said: Said, told: dict[str, str]) -> None:
    """The form as it was signed, with or without a count of the client's own, makes a ready update."""
    from tests.test_lambda_handler import invoke

    model = make_model(1)
    (post,) = posts(said, model)
    body = safetensors.numpy.save(filled(1.0))
    form = post["fields"] | told
    file = ("mine.safetensors", body)
    requests.post(post["url"], data=form, files={"file": file}, timeout=10).raise_for_status()
    key = post["fields"]["key"].replace("${filename}", "mine.safetensors")
    invoke({"Records": [s3_record(key, put(key, body, _metadata(key)), len(body))]})
    update = model.model_updates.get()
    assert (update.rejection_reason, update.base_aggregate) == ("", None)
    assert update.num_examples == int(told.get("x-amz-meta-num-examples", 1))


def _metadata(key: str) -> dict[str, str]:
    from django.core.files.storage import default_storage

    client, bucket = default_storage.connection.meta.client, default_storage.bucket_name
    stored: dict[str, str] = client.head_object(Bucket=bucket, Key=key)["Metadata"]
    return stored


def test_a_form_is_based_on_what_is_the_latest(said: Said, line: list[ModelAggregate]) -> None:
    """Whoever has nothing but the post sends an update that no model with a base distance refuses."""
    (post,) = posts(said, line[0].federated_model)
    assert post["fields"]["x-amz-meta-base-aggregate"] == str(line[-1].pk)
    assert post["fields"]["x-amz-meta-num-examples"] == "1"


def test_a_signed_post_is_bound(said: Said) -> None:
    """The policy that is signed fixes the beginning of the key and the size."""
    (post,) = posts(said, make_model(1), "--max-bytes", 1000)
    policy = json.loads(base64.b64decode(post["fields"]["policy"]))
    assert ["content-length-range", 1, 1000] in policy["conditions"]
    key = post["fields"]["key"]
    assert key.endswith("-${filename}")
    assert ["starts-with", "$key", key.removesuffix("${filename}")] in policy["conditions"]


def test_a_post_for_scores_may_be_added(said: Said) -> None:
    """With `--scores` there is one post more, for the client's own scores and nothing large."""
    model = make_model(1)
    _, post = posts(said, model, "--scores")
    assert post["fields"]["key"] == f"scores/{model.pk}/{client_id(1)}/${{filename}}"
    policy = json.loads(base64.b64decode(post["fields"]["policy"]))
    assert ["content-length-range", 1, 64 << 10] in policy["conditions"]
    assert ["starts-with", "$key", f"scores/{model.pk}/{client_id(1)}/"] in policy["conditions"]
    assert posts(said, model, "--count", 0, "--scores")[0]["fields"]["key"] == post["fields"]["key"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--count", "0"], "--count must be between 1 and 1000, or 0"),
        (["--minutes", "99999"], "--minutes must be between 1 and 10080"),
        (["--max-bytes", "0"], "--max-bytes must be between 1 and"),
        (["--client", str(client_id(2))], "no member of model"),
    ],
)
def test_posts_that_cannot_be_signed_are_refused(said: Said, options: list[str], why: str) -> None:
    """What S3 would not sign, and a client that is no member, is refused."""
    with pytest.raises(CommandError, match=why):
        posts(said, make_model(1), *options)


def test_posts_are_for_buckets(said: Said, settings_of_a_directory: None) -> None:
    """Where storage is a directory there is nothing to post to."""
    with pytest.raises(CommandError, match="set BUCKET"):
        posts(said, make_model(1))


@pytest.fixture
def settings_of_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    monkeypatch.setattr(settings, "BUCKET", "")
