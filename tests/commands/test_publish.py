"""`publish` and `rollback`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from django.core.management import CommandError

from connectors import application
from connectors.storage.keys import pointer_key
from connectors.usecases.publish import publish
from models_app.models import (
    FederatedModel,
    ModelAggregate,
)
from tests.factories import (
    filled,
    get,
    make_model,
    ready_update,
    statuses,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def test_an_aggregate_becomes_a_version(run_command: RunCommand, lineage: Lineage) -> None:
    """`publish` makes an artifact of the aggregate's own object, which becomes the current one."""
    run_command("publish", lineage[1].pk, "--version", "1.2.0")
    artifact = FederatedModel.objects.get(pk=lineage[1].federated_model_id).current_artifact
    assert artifact
    assert (artifact.version, artifact.values.name) == ("1.2.0", lineage[1].result.name)


def test_versions_never_change(run_command: RunCommand, lineage: Lineage) -> None:
    """A version that exists is refused, and the current artifact stays."""
    run_command("publish", lineage[0].pk, "--version", "1.0")
    with pytest.raises(CommandError, match=r"has a version '1.0' already"):
        run_command("publish", lineage[1].pk, "--version", "1.0")
    artifact = FederatedModel.objects.get(pk=lineage[0].federated_model_id).current_artifact
    assert artifact
    assert artifact.values.name == lineage[0].result.name


def test_a_worse_aggregate_is_not_published(run_command: RunCommand, lineage: Lineage) -> None:
    """`publish` refuses a score that dropped by more than the model allows."""
    FederatedModel.objects.filter(pk=lineage[0].federated_model_id).update(max_score_drop=0.1)
    for aggregate, score in zip(lineage, (0.9, 0.5, 0.6), strict=True):
        aggregate.validation_score = score
        aggregate.save()
    with pytest.raises(CommandError, match=r"worse by 0\.4.*set_model \d+ --max-score-drop"):
        run_command("publish", lineage[1].pk, "--version", "1.0")
    drawn = run_command("lineage", lineage[0].federated_model_id).splitlines()
    assert ["held back" in each for each in drawn[1:]] == [False, True, False]
    run_command("publish", lineage[2].pk, "--version", "1.0")


def test_rolling_back_continues_the_lineage(run_command: RunCommand, lineage: Lineage) -> None:
    """`rollback` makes an earlier aggregate's bytes the next; the lineage is not changed."""
    model = lineage[0].federated_model
    stale = ready_update(model, 1, filled(9.0), base_aggregate=lineage[2])
    run_command("rollback", lineage[0].pk)
    new = model.aggregates.get(number=4)
    assert new.parent == lineage[2]
    assert new.result.name != lineage[0].result.name
    assert get(str(new.result.name)) == get(str(lineage[0].result.name))
    assert json.loads(get(pointer_key(model.pk)))["number"] == 4
    assert statuses([stale]) == ["INVALID"]


def test_training_continues_after_a_rollback(
    run_command: RunCommand, lineage: Lineage, published: Callable[..., ModelAggregate]
) -> None:
    """The round after a rollback succeeds the aggregate that it made, and can be verified."""
    run_command("rollback", lineage[0].pk)
    after = published(lineage[0].federated_model, 5.0)
    assert (after.number, after.parent and after.parent.number) == (5, 4)
    assert "is verified" in run_command("verify", after.pk)


@pytest.mark.parametrize("external", [False, True])
def test_no_rollback_while_a_round_runs(
    run_command: RunCommand, lineage: Lineage, external: bool
) -> None:
    """A running round will make the next aggregate: rolling back is refused and leaves no object."""
    model = lineage[0].federated_model
    update = ready_update(model, 1, filled(4.0), base_aggregate=lineage[2])
    if external:
        application.workflow_connector().register_model_updates_for_aggregation([update])
    else:
        application.round_connector().claim_round(model.pk)
    before = keys()
    with pytest.raises(CommandError, match="is running: pause the model, and roll back once"):
        run_command("rollback", lineage[0].pk)
    assert keys() == before
    assert model.aggregates.count() == 3


def keys() -> set[str]:
    return {each.key for each in application.objects().orphans("aggregates/")}


def test_the_latest_is_not_rolled_back_to(run_command: RunCommand, lineage: Lineage) -> None:
    """Rolling back to the latest aggregate changes nothing, so it is refused."""
    with pytest.raises(CommandError, match="is the latest"):
        run_command("rollback", lineage[2].pk)


def test_a_version_needs_a_name(run_command: RunCommand, lineage: Lineage) -> None:
    """An empty version is refused, and so is a missing one."""
    with pytest.raises(CommandError, match="is not a version"):
        run_command("publish", lineage[0].pk, "--version=")
    with pytest.raises(CommandError, match="--version"):
        run_command("publish", lineage[0].pk)


@pytest.mark.parametrize(
    "version",
    [
        *("1", "1.2.0", "v2.0", "1.0rc1", "1.0.post2", "1.0a1.dev3", "2026.11.24"),
        *("1.0.0-rc.1", "1.0.0-alpha", "1.0+build.5", "1.0.0-rc.1+exp-7"),
    ],
)
def test_versions_follow_usual_conventions(version: str) -> None:
    """Versions as in PEP 440 and in semantic versioning are accepted."""
    model = make_model(1)
    aggregate = ModelAggregate.objects.create(federated_model=model, number=1, result="a.npz")
    assert publish(aggregate, version).version == version
