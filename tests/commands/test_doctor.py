"""`doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError

from connectors import DjangoAggConnector, application
from connectors.usecases.health import Status, diagnose
from models_app.models import (
    ModelAggregate,
)
from tests.conftest import using_database
from tests.factories import (
    make_model,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def keys(connector: DjangoAggConnector) -> set[str]:
    return {each.key for each in connector.model_data.objects.orphans("aggregates/")}


def statuses_by_check(run_command: RunCommand) -> dict[str, str]:
    try:
        found = json.loads(run_command("doctor", "--json"))
    except CommandError as error:
        return {"error": str(error)}
    return {each["check"]: each["status"] for each in found}


def test_a_complete_deployment_passes_every_check(run_command: RunCommand) -> None:
    """On a complete deployment every check is ok, and the check of storage leaves nothing behind."""
    assert set(statuses_by_check(run_command).values()) == {"ok"}
    assert keys(application.workflow_connector()) == set()


def test_dead_letters_and_paused_models_are_warnings(run_command: RunCommand, cloud: Any) -> None:
    """Dead letters and paused models are reported with the command that handles them."""
    model = make_model(1)
    run_command("pause", model.pk)
    cloud.client("sqs").send_message(QueueUrl=cloud.dead_letter_url, MessageBody="{}")
    found = statuses_by_check(run_command)
    assert (found["dead letters"], found["models"]) == ("warning", "warning")
    assert f"manage.py resume {model.pk}" in run_command("doctor")


def test_a_bucket_without_notifications_fails(run_command: RunCommand, cloud: Any) -> None:
    """Without a notification no upload is ever seen: the doctor fails."""
    s3 = cloud.client("s3")
    before = s3.get_bucket_notification_configuration(Bucket=cloud.bucket)
    before.pop("ResponseMetadata")
    try:
        s3.put_bucket_notification_configuration(Bucket=cloud.bucket, NotificationConfiguration={})
        with pytest.raises(CommandError, match="2 of 9 checks failed"):
            run_command("doctor")
    finally:
        s3.put_bucket_notification_configuration(
            Bucket=cloud.bucket, NotificationConfiguration=before
        )


def test_a_missing_queue_fails(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that raises an error is a finding, and the other checks run."""
    from django.conf import settings

    monkeypatch.setattr(settings, "QUEUE_URL", f"{settings.QUEUE_URL}-gone")
    with pytest.raises(CommandError, match="1 of 8 checks"):
        run_command("doctor")
    monkeypatch.setattr(settings, "QUEUE_URL", "")
    assert statuses_by_check(run_command)["queue"] == "warning"


def proposed_fixes(run_command: RunCommand) -> set[str]:
    """Return the fixes that the doctor proposes."""
    with pytest.raises(CommandError, match="checks failed"):
        run_command("doctor")
    return {each.fix for each in diagnose() if each.status is Status.FAILED}


def test_aws_that_does_not_answer_is_reported_soon(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor tries once, and proposes to check the network if nothing answers."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    (fix,) = proposed_fixes(run_command)
    assert "AWS_ENDPOINT_URL" in fix


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_incomplete_credentials_are_reported(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """If one of the two keys is missing, the finding names it."""
    monkeypatch.delenv(missing)
    (fix,) = proposed_fixes(run_command)
    assert fix.startswith("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    messages = {each.message for each in diagnose() if each.status is Status.FAILED}
    assert all("credentials are incomplete: AWS_" in each for each in messages)
    assert all(each.endswith(f"{missing} is not") for each in messages)


def test_a_missing_directory_fails_and_is_not_created(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The doctor looks at storage, and does not create what is missing."""
    from django.conf import settings

    monkeypatch.setattr(settings, "STORAGE_ROOT", str(tmp_path / "typo"))
    with pytest.raises(CommandError, match="1 of 9 checks"):
        run_command("doctor")
    assert not (tmp_path / "typo").exists()


def test_a_database_without_tables_points_to_the_doctor(
    run_command: RunCommand, tmp_path: Path
) -> None:
    """A command that finds no tables points to the doctor, which names the fix."""
    with using_database(f"sqlite:///{tmp_path / 'empty.sqlite3'}"):
        with pytest.raises(CommandError, match="doctor` finds the cause"):
            run_command("models")
        with pytest.raises(CommandError, match="checks failed"):
            run_command("doctor")


def test_missing_tables_of_the_admin_are_not_a_fault(tmp_path: Path) -> None:
    """A database that was migrated without the console, as by `make run`, passes with it."""
    environment = {name: value for name, value in os.environ.items() if name != "BUCKET"}
    environment |= {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'run.sqlite3'}",
        "STORAGE_ROOT": str(tmp_path),
        "QUEUE_URL": "",
    }
    outputs = []
    for admin, command in (("false", "migrate"), ("true", "doctor")):
        ended = subprocess.run(
            [sys.executable, "manage.py", command],
            cwd=Path(__file__).parents[2],
            env={**environment, "ADMIN": admin},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(ended.stdout)
    assert "all are applied but the console's" in outputs[1]
    assert "failed" not in outputs[1]
