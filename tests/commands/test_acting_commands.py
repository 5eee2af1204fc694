"""`run_round`, `publish`, `rollback`, `verify`, `doctor`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from connectors import DjangoAggConnector
from connectors.management.commands.run_round import _stop_on_interrupt
from connectors.storage.keys import pointer_key
from connectors.usecases.health import Verdict, diagnose
from connectors.workflow.aggregator import DEFAULT_SETTINGS
from models_app.models import AggregationRound, FederatedModel, ModelAggregate
from tests.conftest import using_database
from tests.factories import filled, get, make_model, put, ready_update, statuses

pytestmark = pytest.mark.usefixtures("database", "cloud")
Said = Callable[..., str]
Line = list[ModelAggregate]


def test_a_round_is_run_here_and_now(said: Said) -> None:
    """`run_round` publishes what is ready and tells clients where the aggregate is."""
    model = make_model(1)
    update = ready_update(model, 1, filled(1.0))
    answer = json.loads(said("run_round", model.pk, "--json"))
    assert (answer["status"], answer["updates_used"]) == ("published", 1)
    assert statuses([update]) == ["COMPLETE"]
    assert json.loads(get(pointer_key(model.pk)))["aggregate_id"] == answer["aggregate_id"]
    assert "waiting: no update is ready" in said("run_round", model.pk)


def test_a_round_that_cannot_be_run_says_why(said: Said) -> None:
    """An unknown model is named; a round that fails says what became of its updates."""
    with pytest.raises(CommandError, match="no federated model with id 999"):
        said("run_round", 999)
    model = make_model(1, initial=filled(0.0))
    assert model.current_artifact
    put(str(model.current_artifact.values.name), b"garbage")
    update = ready_update(model, 1, filled(1.0))
    with pytest.raises(CommandError, match="its updates are ready again"):
        said("run_round", model.pk)
    assert statuses([update]) == ["FAILED"]


def test_a_sweep_goes_on_after_a_round_that_fails(said: Said) -> None:
    """One model's failure is told, holds up no other, and makes the command fail in the end."""
    broken, well = (make_model(1, initial=filled(0.0)) for _ in range(2))
    assert broken.current_artifact
    put(str(broken.current_artifact.values.name), b"garbage")
    for model in (broken, well):
        ready_update(model, 1, filled(1.0))
    with pytest.raises(CommandError, match="1 rounds failed or were interrupted"):
        said("sweep")
    assert (broken.aggregates.count(), well.aggregates.count()) == (0, 1)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_sweep_says_when_nothing_is_due(said: Said, line: Line, options: list[str]) -> None:
    """What is due is told, and so is that nothing is any more."""
    model = line[0].federated_model
    ready_update(model, 1, filled(4.0), base_aggregate=line[2])
    assert "nothing is due" not in said("sweep", *options)
    said("sweep")
    assert said("sweep", *options) == "nothing is due\n"


def test_an_interrupt_stops_a_round_between_chunks() -> None:
    """Ctrl-C is noted while a round runs, and ends the process again afterwards."""
    with _stop_on_interrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_aggregate_becomes_a_version(said: Said, line: Line) -> None:
    """`publish` makes an artifact of the aggregate's own object, and it the model's current one."""
    said("publish", line[1].pk, "--version", "1.2.0")
    artifact = FederatedModel.objects.get(pk=line[1].federated_model_id).current_artifact
    assert artifact
    assert (artifact.version, artifact.values.name) == ("1.2.0", line[1].result.name)


def test_versions_never_change(said: Said, line: Line) -> None:
    """A version that exists is refused, and the current artifact stays."""
    said("publish", line[0].pk, "--version", "1.0")
    with pytest.raises(CommandError, match=r"has a version '1.0' already"):
        said("publish", line[1].pk, "--version", "1.0")
    artifact = FederatedModel.objects.get(pk=line[0].federated_model_id).current_artifact
    assert artifact
    assert artifact.values.name == line[0].result.name


def test_a_worse_aggregate_is_not_published(said: Said, line: Line) -> None:
    """Where the model limits how far a score may drop, `publish` keeps to it."""
    FederatedModel.objects.filter(pk=line[0].federated_model_id).update(max_score_drop=0.1)
    for aggregate, score in zip(line, (0.9, 0.5, 0.6), strict=True):
        aggregate.validation_score = score
        aggregate.save()
    with pytest.raises(CommandError, match=r"worse by 0\.4.*change max_score_drop in the admin"):
        said("publish", line[1].pk, "--version", "1.0")
    drawn = said("lineage", line[0].federated_model_id).splitlines()
    assert ["held back" in each for each in drawn[1:]] == [False, True, False]
    said("publish", line[2].pk, "--version", "1.0")


def test_rolling_back_goes_on_with_the_line(said: Said, line: Line) -> None:
    """`rollback` makes an earlier aggregate's bytes the next; nothing in the lineage is changed."""
    model = line[0].federated_model
    stale = ready_update(model, 1, filled(9.0), base_aggregate=line[2])
    said("rollback", line[0].pk)
    new = model.aggregates.get(number=4)
    assert new.parent == line[2]
    assert new.result.name != line[0].result.name
    assert get(str(new.result.name)) == get(str(line[0].result.name))
    assert json.loads(get(pointer_key(model.pk)))["number"] == 4
    assert statuses([stale]) == ["INVALID"]


def test_training_goes_on_after_a_rollback(
    said: Said, line: Line, published: Callable[..., ModelAggregate]
) -> None:
    """The round after a rollback succeeds the aggregate that it made, and can be verified."""
    said("rollback", line[0].pk)
    after = published(line[0].federated_model, 5.0)
    assert (after.number, after.parent and after.parent.number) == (5, 4)
    assert "is verified" in said("verify", after.pk)


@pytest.mark.parametrize("external", [False, True])
def test_no_rollback_while_a_round_runs(said: Said, line: Line, external: bool) -> None:
    """A running round will make the next aggregate: rolling back is refused and leaves no object."""
    model = line[0].federated_model
    update = ready_update(model, 1, filled(4.0), base_aggregate=line[2])
    connector = DjangoAggConnector(DEFAULT_SETTINGS)
    if external:
        connector.register_model_updates_for_aggregation([update])
    else:
        connector.claim_round(model.pk)
    before = keys(connector)
    with pytest.raises(CommandError, match="is running: roll back once it has ended"):
        said("rollback", line[0].pk)
    assert keys(connector) == before
    assert model.aggregates.count() == 3


def keys(connector: DjangoAggConnector) -> set[str]:
    return {each.key for each in connector.model_data.objects.orphans("aggregates/")}


@pytest.mark.parametrize("command", ["publish", "rollback", "verify"])
def test_unknown_aggregates_are_named(said: Said, command: str) -> None:
    """Each command on an aggregate says where aggregates are listed."""
    options = ["--version", "1"] if command == "publish" else []
    with pytest.raises(CommandError, match=r"no aggregate with id 999: manage\.py lineage"):
        said(command, 999, *options)


def test_the_latest_is_not_rolled_back_to(said: Said, line: Line) -> None:
    """Rolling back to the latest aggregate changes nothing, so it is refused."""
    with pytest.raises(CommandError, match="is the latest already"):
        said("rollback", line[2].pk)


def test_a_version_needs_a_name(said: Said, line: Line) -> None:
    """An empty version is refused, and so is none."""
    with pytest.raises(CommandError, match="needs a name"):
        said("publish", line[0].pk, "--version=")
    with pytest.raises(CommandError, match="--version"):
        said("publish", line[0].pk)


def test_aggregates_are_verified(said: Said, line: Line) -> None:
    """Every aggregate follows from its updates, and that of a rollback from the one it repeats."""
    for aggregate in line:
        assert "1 updates by weighted_mean" in said("verify", aggregate.pk)
    said("rollback", line[0].pk)
    new = line[0].federated_model.aggregates.get(number=4)
    assert f"those of aggregate {line[0].pk}" in said("verify", new.pk)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1] + b"\x01", lambda b: b + b"\0", lambda b: b[:-1]]
)
def test_an_aggregate_that_was_changed_is_found_out(said: Said, line: Line, change: Any) -> None:
    """A byte that is changed, added or missing in storage is noticed."""
    key = str(line[1].result.name)
    put(key, change(get(key)))
    with pytest.raises(CommandError, match=r"stored|in storage"):
        said("verify", line[1].pk)


def test_an_update_that_was_replaced_is_named(said: Said, line: Line) -> None:
    """If the bytes do not follow, the updates that are no longer what they were are told."""
    update = line[1].updates_applied.get()
    update.etag = "as it was"
    update.save()
    put(str(update.data.name), get(str(line[0].result.name)))
    with pytest.raises(CommandError, match=rf"objects of updates \[{update.pk}\]"):
        said("verify", line[1].pk)


def test_what_cannot_be_verified_is_told(said: Said, line: Line) -> None:
    """Updates that are gone, and aggregates that workflows computed, are not verifiable."""
    update = line[1].updates_applied.get()
    update.data = "updates/gone.safetensors"
    update.save()
    with pytest.raises(CommandError, match=f"not there any more: update {update.pk}"):
        said("verify", line[1].pk)
    AggregationRound.objects.filter(aggregate=line[2]).update(external=True)
    with pytest.raises(CommandError, match="step by step"):
        said("verify", line[2].pk)


def verdicts(said: Said) -> dict[str, str]:
    try:
        found = json.loads(said("doctor", "--json"))
    except CommandError as error:
        return {"error": str(error)}
    return {each["check"]: each["verdict"] for each in found}


def test_nothing_is_wrong_with_what_is_well(said: Said) -> None:
    """On a whole deployment every check is ok, and the check of storage leaves nothing behind."""
    assert set(verdicts(said).values()) == {"ok"}
    assert keys(DjangoAggConnector(DEFAULT_SETTINGS)) == set()


def test_dead_letters_and_paused_models_are_warnings(said: Said, cloud: Any) -> None:
    """What waits for somebody is told with the command that sees to it."""
    model = make_model(1)
    said("pause", model.pk)
    cloud.client("sqs").send_message(QueueUrl=cloud.dead_letter_url, MessageBody="{}")
    found = verdicts(said)
    assert (found["dead letters"], found["models"]) == ("warning", "warning")
    assert f"manage.py resume {model.pk}" in said("doctor")


def test_a_bucket_that_announces_nothing_is_wrong(said: Said, cloud: Any) -> None:
    """Without a notification no upload is ever seen: the doctor fails."""
    s3 = cloud.client("s3")
    before = s3.get_bucket_notification_configuration(Bucket=cloud.bucket)
    before.pop("ResponseMetadata")
    try:
        s3.put_bucket_notification_configuration(Bucket=cloud.bucket, NotificationConfiguration={})
        with pytest.raises(CommandError, match="2 of 9 checks found something wrong"):
            said("doctor")
    finally:
        s3.put_bucket_notification_configuration(
            Bucket=cloud.bucket, NotificationConfiguration=before
        )


def test_a_queue_that_is_not_there_is_wrong(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot be made is a finding, and stops no other."""
    from django.conf import settings

    monkeypatch.setattr(settings, "QUEUE_URL", f"{settings.QUEUE_URL}-gone")
    with pytest.raises(CommandError, match="1 of 8 checks"):
        said("doctor")
    monkeypatch.setattr(settings, "QUEUE_URL", "")
    assert verdicts(said)["queue"] == "warning"


def mends(said: Said) -> set[str]:
    """What would mend what is wrong, by the doctor."""
    with pytest.raises(CommandError, match="checks found something wrong"):
        said("doctor")
    return {each.mend for each in diagnose() if each.verdict is Verdict.WRONG}


def test_aws_that_does_not_answer_is_told_at_once(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor tries each thing once, and where nothing answers asks for the network."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    (mend,) = mends(said)
    assert "AWS_ENDPOINT_URL" in mend


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_credentials_that_are_not_whole_are_told(
    said: Said, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Half of a pair of keys is named as such, with what is missing."""
    monkeypatch.delenv(missing)
    (mend,) = mends(said)
    assert mend.startswith("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    told = {each.what for each in diagnose() if each.verdict is Verdict.WRONG}
    assert all("credentials are incomplete: AWS_" in each for each in told)
    assert all(each.endswith(f"{missing} is not") for each in told)


def test_a_directory_that_is_not_there_is_wrong_and_not_made(
    said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The doctor looks at storage, and does not create what is missing."""
    from django.conf import settings

    monkeypatch.setattr(settings, "STORAGE_ROOT", str(tmp_path / "typo"))
    with pytest.raises(CommandError, match="1 of 9 checks"):
        said("doctor")
    assert not (tmp_path / "typo").exists()


def test_a_database_without_tables_leads_to_the_doctor(said: Said, tmp_path: Path) -> None:
    """A command that meets no tables says who tells more; the doctor names what mends it."""
    with using_database(f"sqlite:///{tmp_path / 'empty.sqlite3'}"):
        with pytest.raises(CommandError, match="doctor` tells what is wrong"):
            said("models")
        with pytest.raises(CommandError, match="checks found something wrong"):
            said("doctor")
