"""`estimate_privacy`, `destroy_seeds`, and the options of private models."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from django.conf import settings
from django.core.management import CommandError
from django.test import override_settings

from aggregation.privacy.settings import NEIGHBOURS
from connectors import application
from connectors.storage.keys import pointer_key, seed_key
from connectors.storage.seeds import SeedUnavailable, SeedVault
from connectors.usecases.health.checks import diagnose
from models_app.models import FederatedModel, ModelAggregate
from tests.factories import SMALL, filled, get
from tests.private_models import KMS_KEY, PRIVACY, account, key_file, private_model, uploads
from tests.test_lambda_handler import invoke

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]

_models = itertools.count(20_000)

GIVEN = [f"{name}={value}" for name, value in PRIVACY.items()]


@pytest.fixture(autouse=True)
def key(tmp_path: Path) -> Iterator[str]:
    """The key of the seeds."""
    with key_file(tmp_path) as path:
        yield path


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    """The file of initial weights."""
    path = tmp_path / "initial.safetensors"
    path.write_bytes(safetensors.numpy.save(filled(0.0)))
    return path


def published(**fields: Any) -> ModelAggregate:
    """Run a round of a new private model."""
    model = private_model(2, requirement="all_clients", **fields)
    invoke(uploads(model, 1, 2))
    return model.aggregates.get()


# The options of models


def test_a_private_model_is_created_and_changed(run_command: RunCommand, initial: Path) -> None:
    """The settings are given by name; a change leaves the others as they are."""
    rule = ("--initial", initial, "--rule", "unweighted_mean")
    run_command("create_model", "digits", *rule, "--differential-privacy", *GIVEN)
    model = FederatedModel.objects.get()
    assert model.differential_privacy == PRIVACY
    run_command("set_model", "digits", "--differential-privacy", "noise_multiplier=2.5")
    model.refresh_from_db()
    assert model.differential_privacy == {**PRIVACY, "noise_multiplier": 2.5}
    run_command("set_model", "digits", "--differential-privacy", "none")
    model.refresh_from_db()
    assert model.differential_privacy is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--rule", "weighted_mean"], "--differential-privacy: .*unweighted_mean"),
        (["--tensor-policy", "b=average"], "without noise"),
    ],
)
def test_a_model_that_cannot_be_private_is_refused(
    run_command: RunCommand, initial: Path, options: list[str], reason: str
) -> None:
    """The message names the option, and nothing is created."""
    rule = options if "--rule" in options else ["--rule", "unweighted_mean", *options]
    with pytest.raises(CommandError, match=reason):
        run_command(
            *("create_model", "digits", "--initial", initial, *rule),
            *("--differential-privacy", *GIVEN),
        )
    assert not FederatedModel.objects.exists()


@pytest.mark.parametrize("name", ["bn.running_mean", "bn.running_var"])
def test_running_statistics_must_be_kept(
    run_command: RunCommand, tmp_path: Path, name: str
) -> None:
    """Statistics of BatchNorm are averaged by default, and would be released without noise."""
    path = tmp_path / "initial.safetensors"
    path.write_bytes(safetensors.numpy.save({**filled(0.0), name: SMALL["b"]}))
    options = ("--initial", path, "--rule", "unweighted_mean", "--differential-privacy", *GIVEN)
    with pytest.raises(CommandError, match=f"{name}.* would be released without noise"):
        run_command("create_model", "digits", *options)
    run_command("create_model", "digits", *options, "--tensor-policy", "bn.*=keep")


def test_a_private_model_needs_initial_weights(run_command: RunCommand) -> None:
    """Without weights to start from there is no difference to clip."""
    with pytest.raises(CommandError, match="needs initial weights"):
        run_command(
            *("create_model", "digits", "--rule", "unweighted_mean"),
            *("--differential-privacy", *GIVEN),
        )


# What is shown


def test_a_round_shows_its_epsilon(run_command: RunCommand) -> None:
    """`show_round` prints the settings, the charge and the epsilon with its relation, and no seed."""
    aggregate = published()
    shown = run_command("show_round", aggregate.round.pk, "--json")
    privacy = json.loads(shown)["differential_privacy"]
    assert privacy["epsilon"] == pytest.approx(4.377179, abs=2e-6)
    assert privacy["neighbours"] == "for adding or removing one client"
    assert privacy["mu_squared"] == pytest.approx(1.0)
    assert aggregate.round.sealed_seed
    assert aggregate.round.sealed_seed not in shown


def test_every_list_states_the_relation(run_command: RunCommand) -> None:
    """`models`, `lineage` and `latest.json` state epsilon and the neighbouring relation with it."""
    model = published().federated_model
    plain = FederatedModel.objects.create(name="plain")
    for listing in (run_command("models"), run_command("lineage", model.pk)):
        assert "4.3772" in listing
        assert NEIGHBOURS in listing
    cards = {card["id"]: card for card in json.loads(run_command("models", "--json"))}
    assert cards[model.pk]["epsilon"] == pytest.approx(4.377179, abs=2e-6)
    assert (cards[plain.pk]["epsilon"], cards[plain.pk]["privacy"]) == (None, "")
    latest = json.loads(get(pointer_key(model.pk)))["differential_privacy"]
    assert (latest["neighbours"], latest["epsilon"]) == (NEIGHBOURS, cards[model.pk]["epsilon"])


# Planning


def test_the_epsilon_of_rounds_is_estimated(run_command: RunCommand) -> None:
    """A noise multiplier leads to an epsilon, and that epsilon to the same noise multiplier."""
    options = ("--rounds", 100, "--cohort", 200, "--delta", "1e-5", "--json")
    found = json.loads(run_command("estimate_privacy", *options, "--noise-multiplier", 5))
    assert found["neighbours"] == "for adding or removing one client"
    assert found["standard_deviation"] == 5 / 200
    again = json.loads(run_command("estimate_privacy", *options, "--epsilon", found["epsilon"]))
    assert again["noise_multiplier"] == pytest.approx(5, abs=1e-4)


def test_noise_that_protects_nobody_is_an_error(run_command: RunCommand) -> None:
    """An epsilon above 50 is not printed as a guarantee, and an impossible one is refused."""
    options = ("--rounds", 10**6, "--cohort", 200)
    with pytest.raises(CommandError, match="protects nobody"):
        run_command("estimate_privacy", *options, "--noise-multiplier", 0.5)
    with pytest.raises(CommandError, match="no noise is enough"):
        run_command("estimate_privacy", *options, "--epsilon", 0.0001)


# The doctor


def test_the_doctor_reads_the_data_keys() -> None:
    """`doctor` finds a PRIVACY_KEY with which seeds cannot be decrypted; nothing without private models."""
    assert not findings_of_privacy()
    published()
    private_model(1)
    assert findings_of_privacy() == ["the data keys of 1 of 2 private models can be read"]
    with override_settings(PRIVACY_KEY=""):
        (message,) = findings_of_privacy()
    assert "PRIVACY_KEY is not set" in message


def findings_of_privacy() -> list[str]:
    return [each.message for each in diagnose() if each.check == "privacy"]


# Destroying seeds


def test_a_private_aggregate_is_verified_until_its_seed_is_destroyed(
    run_command: RunCommand,
) -> None:
    """`verify` repeats the noise, and says plainly when the seeds are destroyed."""
    aggregate = published()
    model = aggregate.federated_model
    assert "by unweighted_mean and noise" in run_command("verify", aggregate.pk)
    assert "1 round" in run_command("destroy_seeds", model.pk)
    with pytest.raises(CommandError, match=r"seeds of model .* were destroyed"):
        run_command("verify", aggregate.pk)
    assert account(model) == pytest.approx(1.0)
    assert "there was no data key" in run_command("destroy_seeds", model.pk)


def test_a_copy_of_the_database_is_useless_after_the_destruction(run_command: RunCommand) -> None:
    """An encrypted seed from a backup cannot be decrypted, and a new round has a new data key."""
    aggregate = published()
    made_by = aggregate.round
    run_command("destroy_seeds", aggregate.federated_model_id)
    made_by.save()  # As a restored backup would hold it.
    with pytest.raises(CommandError, match="is gone"):
        run_command("verify", aggregate.pk)
    invoke(uploads(aggregate.federated_model, 1, 2))
    with pytest.raises(CommandError, match="earlier data key"):
        run_command("verify", aggregate.pk)
    assert run_command("verify", aggregate.federated_model.aggregates.get(number=2).pk)


def test_a_running_round_keeps_its_seed(run_command: RunCommand) -> None:
    """Seeds are not destroyed while a round needs one."""
    model = private_model(1, requirement="all_clients")
    model.rounds.create(
        number=1,
        lease_expires_at="2030-01-01T00:00:00Z",
        started_on="2026-01-01T00:00:00Z",
        sealed_seed="sealed",
    )
    with pytest.raises(CommandError, match="needs its seed"):
        run_command("destroy_seeds", model.pk)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_destroyed_key_has_no_version_left() -> None:
    """In a bucket with versions, nothing of the data key can be restored."""
    model_id, objects = next(_models), application.objects()
    with override_settings(PRIVACY_KEY=KMS_KEY):
        vault = SeedVault(objects, settings.PRIVACY_KEY)
        sealed = vault.draw(model_id)
        assert vault.destroy(model_id)
        assert not vault.destroy(model_id)
        with pytest.raises(SeedUnavailable, match="were destroyed"):
            vault.open(model_id, sealed)
    client: Any = objects.client  # type: ignore[attr-defined]
    left = client.list_object_versions(Bucket=settings.BUCKET, Prefix=seed_key(model_id))
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_delete_marker_hides_is_destroyed() -> None:
    """Data keys from before a plain deletion, and from after it, are erased with the marker."""
    model_id, objects = next(_models), application.objects()
    client: Any = objects.client  # type: ignore[attr-defined]
    for body in (b"first", b"second"):
        client.put_object(Bucket=settings.BUCKET, Key=seed_key(model_id), Body=body)
        client.delete_object(Bucket=settings.BUCKET, Key=seed_key(model_id))
    assert SeedVault(objects, KMS_KEY).destroy(model_id)
    left = client.list_object_versions(Bucket=settings.BUCKET, Prefix=seed_key(model_id))
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")
