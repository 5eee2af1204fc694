"""Garbage collection removes what dead rounds left behind, and nothing else."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from aggregation.engine import DEFAULT_RESOURCES, Combined, Resources
from aggregation.round import RoundResult, run_round
from aggregation.rules import Selection
from connectors import application
from connectors.limits import MAX_ATTEMPTS_WITHOUT_PROGRESS
from connectors.storage.filesystem import FileObjects
from connectors.storage.garbage import collect_garbage
from models_app.models import FederatedModel, ModelUpdate
from tests import factories
from tests.factories import filled, make_model, ready_update

pytestmark = pytest.mark.usefixtures("database", "cloud")

LATER = datetime.now(UTC) + timedelta(hours=2)


def objects() -> Any:
    return application.objects()


def unfinished_upload(key: str) -> None:
    sink = objects().sink(key, None)
    sink.write_part(1, b"x" * (5 << 20))


def published(model: FederatedModel) -> str:
    ready_update(model, 1, filled(1.0))
    run_round(application.round_connector(), model.pk)
    return str(model.aggregates.get().result.name)


def test_orphans_and_unfinished_uploads_are_removed_and_aggregates_stay() -> None:
    """Objects that no aggregate names and uploads that no round continues are removed."""
    model = make_model(1)
    kept = published(model)
    factories.put("aggregates/1/orphan.safetensors", b"x")
    unfinished_upload("aggregates/1/unfinished.safetensors")
    found = collect_garbage(objects(), LATER)
    assert [(orphan.key, orphan.kind) for orphan in found] == [
        ("aggregates/1/orphan.safetensors", "orphaned object"),
        ("aggregates/1/unfinished.safetensors", "unfinished upload"),
    ]
    assert collect_garbage(objects(), LATER) == []
    assert factories.get(kept)
    assert factories.get(model.model_updates.get().data.name)


def test_a_young_orphan_is_kept() -> None:
    """It may belong to an attempt that is alive."""
    factories.put("aggregates/1/orphan.safetensors", b"x")
    assert collect_garbage(objects(), datetime.now(UTC)) == []


def test_an_upload_that_a_round_will_continue_is_kept() -> None:
    """The unfinished upload in the checkpoint of a running round is not garbage."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    connector = application.round_connector()
    claim: Any = connector.claim_round(model.pk)
    sink = connector.new_result(claim, "safetensors", None)
    sink.write_part(1, b"x" * (5 << 20))
    progress = {"parts": 1, "next_element": 1, "encoder": {}, "sink": sink.state()}
    engine: Any = {
        "measuring": None,
        "norms": None,
        "selection": [],
        "progress": progress,
        "state": None,
    }
    connector.save_checkpoint(claim, {"rejected": {}, "engine": engine})
    assert collect_garbage(objects(), LATER) == []


def test_an_aggregate_that_is_published_meanwhile_is_kept() -> None:
    """A round may be published between the statements that look for what is in use."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    connector = application.round_connector()
    claim: Any = connector.claim_round(model.pk)
    key = "aggregates/1/just-now.safetensors"
    factories.put(key, b"x")
    sink = {"key": key, "upload_id": "1"}
    progress: Any = {"parts": 1, "next_element": 1, "encoder": {}, "sink": sink}
    engine: Any = {
        "measuring": None,
        "norms": None,
        "selection": [],
        "progress": progress,
        "state": None,
    }
    connector.save_checkpoint(claim, {"rejected": {}, "engine": engine})
    asked: list[str] = []

    def publish_after_the_first(execute: Any, sql: str, *rest: Any) -> Any:
        found = execute(sql, *rest)
        asked.append(sql)
        if len(asked) == 1:
            combined = Combined(selection=Selection.equal(range(1)), norms=None, bytes_read=1)
            used = tuple(update.id for update in claim.updates)
            connector.publish_round(
                claim, RoundResult(used=used, rejected={}, location=key, combined=combined)
            )
        return found

    with connection.execute_wrapper(publish_after_the_first):
        assert collect_garbage(objects(), LATER) == []
    assert model.aggregates.get().result.name == key


def test_files_are_collected_like_objects(tmp_path: Path) -> None:
    """In a directory, files that no aggregate names and unfinished files are removed."""
    root = tmp_path / "storage"
    files = FileObjects(root)
    sink = files.sink("aggregates/1/begun.npz", None)
    sink.write_part(1, b"x")
    (root / "aggregates/1/orphan.npz").write_bytes(b"x")
    assert {(each.key, each.kind) for each in collect_garbage(files, LATER)} == {
        ("aggregates/1/begun.npz", "unfinished upload"),
        ("aggregates/1/orphan.npz", "orphaned object"),
    }
    assert list(root.rglob("*.*")) == []


def test_plans_of_rounds_that_have_ended_are_removed() -> None:
    """The plan and the upload of a round that is running stay, however old; all others are removed."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    connector = application.round_connector()
    claim: Any = connector.claim_round(model.pk)
    plan, gone = connector.new_folder(claim), connector.new_folder(claim)
    for folder in (plan, gone):
        for name in ("plan.json", "first-00000.f64"):
            connector.folder(folder).write(name, b"{}")
    sinks = [connector.new_result(claim, "safetensors", None).begin() for _ in range(2)]
    checkpoint: Any = {"rejected": {}, "engine": None, "plan": plan, "sink": sinks[0]}
    connector.hand_over(claim, checkpoint, progress=False)
    # For moto, every upload was begun in 2010.
    (upload,) = collect_garbage(objects(), datetime.now(UTC))
    assert upload.upload_id == sinks[1]["upload_id"]
    assert {each.key for each in collect_garbage(objects(), LATER)} == {
        f"{gone}plan.json",
        f"{gone}first-00000.f64",
    }
    connector.fail_round(claim, ValueError("a defect"))
    assert {each.key for each in collect_garbage(objects(), LATER)} == {
        f"{plan}plan.json",
        f"{plan}first-00000.f64",
        sinks[0]["key"],
    }
    assert list(objects().orphans("")) == list(objects().listing("updates/"))


def test_parts_in_files_are_collected_with_their_folder(tmp_path: Path) -> None:
    """In a directory, the parts that several processes have written are one unfinished upload."""
    files = FileObjects(tmp_path / "storage")
    state = files.sink("aggregates/1/begun.safetensors", None).begin()
    files.sink(state["key"], state).write_part(1, b"x")
    assert [each.upload_id for each in collect_garbage(files, LATER)] == [state["upload_id"]]
    assert list(files.orphans("")) == []


def said(*arguments: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def test_a_dry_sweep_changes_nothing() -> None:
    """`sweep --dry-run` names the rounds that are due and the orphans."""
    model = make_model(1)
    update = ready_update(model, 1, filled(1.0))
    factories.put("aggregates/1/orphan.safetensors", b"x")
    out = said("sweep", "--dry-run", "--older-than", "0")
    assert f"model {model.pk}: a round is due" in out
    assert "would remove orphaned object aggregates/1/orphan.safetensors" in out
    assert factories.statuses([update]) == ["PENDING"]
    assert factories.get("aggregates/1/orphan.safetensors") == b"x"


def test_a_sweep_runs_what_is_due() -> None:
    """`sweep` runs the rounds that are due and removes orphans."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    assert f"model {model.pk}: published" in said("sweep")
    assert model.aggregates.count() == 1


def test_redrive_returns_dead_letters_and_requests_rounds(cloud: Any) -> None:
    """`redrive` moves every dead letter into the queue and asks for rounds of FAILED updates."""
    sqs = cloud.client("sqs")
    for number in range(12):
        sqs.send_message(QueueUrl=cloud.dead_letter_url, MessageBody=f"letter {number}")
    model = make_model(1)
    key = f"updates/{model.pk}/x/failed.npz"
    ModelUpdate.objects.create(
        federated_model=model,
        client_id=factories.client_id(1),
        data=key,
        status=ModelUpdate.Status.FAILED,
    )
    out = said("redrive")
    assert "12 dead-lettered messages moved back to the queue" in out
    bodies = set()
    while letters := sqs.receive_message(QueueUrl=cloud.queue_url, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        bodies |= {letter["Body"] for letter in letters}
    assert bodies == {f"letter {n}" for n in range(12)} | {f'{{"model_id": {model.pk}}}'}


def test_a_model_is_paused_with_a_reason_and_resumed() -> None:
    """`pause` keeps rounds from starting; `resume` allows them and resets the count of failures."""
    model = make_model(1, failed_rounds=2)
    said("pause", model.pk, reason="under review")
    model.refresh_from_db()
    assert (model.allow_aggregation, model.pause_reason) == (False, "under review")
    assert "it was paused: under review" in said("resume", model.pk)
    model.refresh_from_db()
    assert (model.allow_aggregation, model.pause_reason, model.failed_rounds) == (True, "", 0)


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_model_that_does_not_exist_is_named(command: str) -> None:
    """Pausing or resuming an unknown model is an error that names its id."""
    with pytest.raises(CommandError, match="4711"):
        call_command(command, 4711)


@pytest.mark.parametrize("command", ["sweep", "run_round"])
def test_a_command_fails_if_a_round_is_given_up(command: str) -> None:
    """Both commands that run rounds report it as a failure."""
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    application.round_connector().claim_round(model.pk)
    model.rounds.update(
        attempts_without_progress=MAX_ATTEMPTS_WITHOUT_PROGRESS,
        lease_expires_at=LATER - timedelta(days=1),
    )
    arguments = [model.pk] if command == "run_round" else []
    with pytest.raises(CommandError, match="failed"):
        call_command(command, *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    assert not model.aggregates.exists()


@pytest.mark.parametrize("command", ["sweep", "run_round"])
def test_commands_respect_the_memory_budget(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that a command runs may use MEMORY_BUDGET_MB."""
    monkeypatch.setattr("django.conf.settings.MEMORY_BUDGET_MB", 77)
    used = []

    def watched(*args: Any, resources: Resources = DEFAULT_RESOURCES, **options: Any) -> Any:
        used.append(resources.memory_bytes)
        return run_round(*args, resources=resources, **options)

    monkeypatch.setattr("connectors.usecases.run_round.run_round", watched)
    model = make_model(1)
    ready_update(model, 1, filled(1.0))
    arguments = [model.pk] if command == "run_round" else []
    call_command(command, *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    assert set(used) == {77 << 20}
