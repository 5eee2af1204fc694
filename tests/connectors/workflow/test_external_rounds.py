"""External rounds: ownership, refusals, recovery, continuation and fencing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.conf import settings

from aggregation.errors import Conflict, LeaseLost, UpdateRejected
from aggregation.round import Status, run_round
from models_app.models import AggregationRound, FederatedModel
from tests.connectors.workflow.backends import DjangoWorld
from tests.connectors.workflow.test_steps import hook, ids
from tests.factories import SMALL, filled


def registered(world: DjangoWorld, clients: int = 2) -> tuple[Any, list[Any]]:
    """Create a model, and updates of all its clients that a workflow has registered."""
    model = world.model(clients)
    updates = [world.update(model, n, [float(n)]) for n in range(1, clients + 1)]
    world.workflow.register_model_updates_for_aggregation(updates)
    return model, updates


def running_round(model: FederatedModel) -> AggregationRound:
    return model.rounds.get(state=AggregationRound.State.RUNNING)


# Fencing


def test_a_late_workflow_does_not_post_into_the_round_of_another(world: DjangoWorld) -> None:
    """A workflow that lost its lease cannot post, since its updates would count twice."""
    model, (first, second) = registered(world)
    world.pass_time()
    other = world.another_workflow()
    newer = world.update(model, 1, [9.0])
    other.register_model_updates_for_aggregation(
        other.pull_model_updates_ready_for_aggregation(model, None)
    )
    with pytest.raises(LeaseLost):
        world.workflow.post_new_model_aggregate(model, None, [1.5])
    assert world.latest(model) is None
    aggregate = other.post_new_model_aggregate(model, None, [5.5])
    other.register_model_update_used_in_aggregate([newer, second], aggregate)
    assert world.states(first, second, newer) == [
        ("INVALID", None),
        ("COMPLETE", 1),
        ("COMPLETE", 1),
    ]


def test_a_late_workflow_does_not_settle_the_round_of_another(world: DjangoWorld) -> None:
    """A workflow that lost its lease cannot settle updates that are registered for another round."""
    model, updates = registered(world)
    world.pass_time()
    other = world.another_workflow()
    other.register_model_updates_for_aggregation(
        other.pull_model_updates_ready_for_aggregation(model, None)
    )
    assert world.workflow.pull_model_updates_registered_for_aggregation(model) == []
    with pytest.raises(Conflict):
        world.workflow.register_model_updates_use_in_aggregation_failed(updates)
    aggregate = other.post_new_model_aggregate(model, None, [1.5])
    with pytest.raises(Conflict):
        world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    with pytest.raises(Conflict):
        world.workflow.register_model_updates_use_in_aggregation_complete(updates, True)
    assert world.states(*updates) == [("RUNNING", None)] * 2


def test_a_workflow_that_was_refused_settles_nothing(world: DjangoWorld) -> None:
    """The failure hook of a refused workflow does not change the round of the other one."""
    model, updates = registered(world)
    overlapping = world.another_workflow()
    with pytest.raises(Conflict):
        overlapping.register_model_updates_for_aggregation(updates)
    hook(overlapping, model.pk, False)
    with pytest.raises(Conflict):
        overlapping.register_model_updates_use_in_aggregation_failed(updates)
    assert world.states(*updates) == [("RUNNING", None)] * 2
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)


def test_a_change_of_a_round_fences_off_earlier_readers(world: DjangoWorld) -> None:
    """A result that contains an update released by another process is not posted."""
    model, (first, _) = registered(world)
    later = world.another_workflow()
    later.pull_model_updates_registered_for_aggregation(model)
    later.register_model_updates_use_in_aggregation_failed([first])
    with pytest.raises(LeaseLost, match="changed by another"):
        world.workflow.post_new_model_aggregate(model, None, [1.5])
    (left,) = world.workflow.pull_model_updates_registered_for_aggregation(model)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [2.0])
    world.workflow.register_model_update_used_in_aggregate([left], aggregate)
    assert world.states(first, left) == [("FAILED", None), ("COMPLETE", 1)]


def test_after_a_failed_round_an_unknown_workflow_does_not_post(world: DjangoWorld) -> None:
    """A workflow without a round cannot post after a failed round, whose updates are ready again."""
    model, updates = registered(world)
    world.pass_time()
    other = world.another_workflow()
    other.register_model_updates_for_aggregation(
        other.pull_model_updates_ready_for_aggregation(model, None)
    )
    with pytest.raises(Conflict, match="count twice"):
        world.another_workflow().post_new_model_aggregate(model, None, [1.5])
    assert world.states(*updates) == [("RUNNING", None)] * 2


# Continuing and recovering


def test_a_later_connector_continues_a_round(world: DjangoWorld) -> None:
    """A later process continues the round of a dead one while the lease is valid."""
    model, updates = registered(world)
    later = world.another_workflow()
    found = later.pull_model_updates_registered_for_aggregation(model)
    assert ids(found) == ids(updates)
    aggregate = later.post_new_model_aggregate(model, None, [1.5])
    last = world.another_workflow()
    last.register_model_update_used_in_aggregate(found, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1)] * 2


@pytest.mark.parametrize("is_successful", [True, False])
def test_the_closing_hook_settles_the_models_open_round(
    world: DjangoWorld, is_successful: bool
) -> None:
    """The closing hook, which knows only the id of the model, settles its open round."""
    model, updates = registered(world)
    if is_successful:
        world.workflow.post_new_model_aggregate(model, None, [1.5])
    hook(world.another_workflow(), model.pk, is_successful)
    expected = ("COMPLETE", 1) if is_successful else ("FAILED", None)
    assert world.states(*updates) == [expected] * 2
    assert not model.rounds.filter(state=AggregationRound.State.RUNNING).exists()


def test_the_closing_hook_settles_no_round_whose_lease_has_expired(world: DjangoWorld) -> None:
    """A round with an expired lease is recovered and counts as failed, whatever the hook reports."""
    model, updates = registered(world)
    world.pass_time()
    hook(world.another_workflow(), model.pk, True)
    assert world.states(*updates) == [("FAILED", None)] * 2
    assert "lease expired" in model.rounds.get().error


@pytest.mark.parametrize(
    "pull",
    [
        lambda connector, model: connector.pull_model_updates_pending_aggregation(model),
        lambda connector, model: connector.pull_model_updates_ready_for_aggregation(model, None),
    ],
    ids=["pending", "ready"],
)
def test_pulling_recovers_the_updates_of_a_dead_workflow(
    world: DjangoWorld, pull: Callable[..., Any]
) -> None:
    """Pulling updates recovers those of a dead workflow, also if no round of the function runs."""
    model, updates = registered(world)
    other = world.another_workflow()
    assert list(pull(other, model)) == []
    world.pass_time()
    assert sorted(ids(pull(other, model))) == sorted(ids(updates))


# What a round may register


def test_a_round_takes_the_newest_update_of_each_member(world: DjangoWorld) -> None:
    """The older of two updates of a client is superseded, and one of a nonmember is not registered."""
    model = world.model(1)
    older, newer = world.update(model, 1, [1.0]), world.update(model, 1, [2.0])
    nonmember = world.update(model, 3, [3.0])
    for updates in ([older], [older, newer], [newer, newer], [nonmember], [newer, nonmember]):
        with pytest.raises(Conflict):
            world.another_workflow().register_model_updates_for_aggregation(updates)
    assert world.states(older, newer, nonmember) == [("PENDING", None)] * 3
    world.workflow.register_model_updates_for_aggregation([newer])
    assert world.states(older, newer) == [("INVALID", None), ("RUNNING", None)]
    assert world.now(older).rejection_reason == f"superseded by update {newer.pk}"


def test_a_published_external_round_makes_older_bases_stale(world: DjangoWorld) -> None:
    """A published external round rejects stale updates, like a round of the function."""
    model = world.model(2, furthest_base_agg=1)
    used, waiting = (world.update(model, n, [1.0]) for n in (1, 2))
    world.workflow.register_model_updates_for_aggregation([used])
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.0])
    world.workflow.register_model_update_used_in_aggregate([used], aggregate)
    assert world.states(used, waiting) == [("COMPLETE", 1), ("INVALID", None)]


# Contradictions


def test_an_update_cannot_be_in_the_aggregate_of_another_model(world: DjangoWorld) -> None:
    """An update cannot be registered as used in an aggregate of another model."""
    _, (update, _) = registered(world)
    other = world.model(1)
    foreign = world.another_workflow().post_new_model_aggregate(other, None, [1.0])
    with pytest.raises(Conflict):
        world.workflow.register_model_update_used_in_aggregate([update], foreign)
    assert world.states(update) == [("RUNNING", None)]


@pytest.mark.parametrize("say", ["used", "complete"])
@pytest.mark.parametrize("status", [0, 3, 4])
def test_an_update_that_is_not_registered_is_not_settled(
    world: DjangoWorld, say: str, status: int
) -> None:
    """A pending, failed or rejected update does not become complete."""
    model, (used, _) = registered(world)
    reason = "nan" if status == 4 else ""
    other = world.update(model, 3, [3.0], status=status, rejection_reason=reason)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    before = world.states(used, other)
    workflow, updates = world.workflow, [used, other]
    acts: dict[str, Callable[[], Any]] = {
        "used": lambda: workflow.register_model_update_used_in_aggregate(updates, aggregate),
        "complete": lambda: workflow.register_model_updates_use_in_aggregation_complete(
            updates, True
        ),
    }
    with pytest.raises(Conflict):
        acts[say]()
    assert world.states(used, other) == before


def test_nothing_is_posted_on_a_paused_model(world: DjangoWorld) -> None:
    """A workflow cannot post on a paused model, with or without an open round."""
    model, updates = registered(world)
    FederatedModel.objects.filter(pk=model.pk).update(allow_aggregation=False)
    with pytest.raises(Conflict, match="paused"):
        world.workflow.post_new_model_aggregate(model, None, [1.5])
    idle = world.model(1, allow_aggregation=False)
    with pytest.raises(Conflict, match="paused"):
        world.another_workflow().post_new_model_aggregate(idle, None, [1.5])
    FederatedModel.objects.filter(pk=model.pk).update(allow_aggregation=True)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)


def test_a_refused_result_leaves_no_object(world: DjangoWorld) -> None:
    """A result is checked before it is stored."""
    from connectors import application

    model, _ = registered(world)
    world.pass_time()
    world.another_workflow().pull_model_updates_ready_for_aggregation(model, None)
    before = {each.key for each in application.objects().orphans("aggregates/")}
    with pytest.raises(LeaseLost):
        world.workflow.post_new_model_aggregate(model, None, [1.5])
    assert {each.key for each in application.objects().orphans("aggregates/")} == before


def test_a_posted_round_cannot_be_completed_in_part(world: DjangoWorld) -> None:
    """Only part of the updates cannot be completed, since the use of the others is unknown."""
    model, updates = registered(world)
    world.workflow.post_new_model_aggregate(model, None, [1.5])
    with pytest.raises(Conflict, match="other updates"):
        world.workflow.register_model_updates_use_in_aggregation_complete(updates[:1], True)
    assert world.states(*updates) == [("RUNNING", None)] * 2


# Pausing and results


@pytest.mark.parametrize("end", ["says so", "dies"])
def test_failed_external_rounds_pause_the_model(world: DjangoWorld, end: str) -> None:
    """The third failed external round in a row pauses the model."""
    model = world.model(1)
    update = world.update(model, 1, [1.0])
    for _ in range(settings.MAX_FAILED_ROUNDS):
        workflow = world.another_workflow()
        ready = workflow.pull_model_updates_ready_for_aggregation(model, None)
        workflow.register_model_updates_for_aggregation(ready)
        if end == "says so":
            workflow.register_model_updates_use_in_aggregation_failed(ready)
        else:
            world.pass_time()
            world.another_workflow().pull_model_updates_pending_aggregation(model)
    model.refresh_from_db()
    assert (model.failed_rounds, model.allow_aggregation) == (3, False)
    assert "3 rounds failed in a row" in model.pause_reason
    assert run_round(world.process(), model.pk).status is Status.PAUSED
    assert world.states(update) == [("FAILED", None)]


def test_a_posted_external_round_resets_the_count_of_failures(world: DjangoWorld) -> None:
    """A posted external round resets the count of failed rounds."""
    model, updates = registered(world)
    FederatedModel.objects.filter(pk=model.pk).update(failed_rounds=2)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    model.refresh_from_db()
    assert model.failed_rounds == 0


@pytest.mark.parametrize(
    "result",
    [
        [[1e39] * 6, [0.0] * 3],
        [[float("inf")] * 6, [0.0] * 3],
        [[10**400] * 6, [0.0] * 3],
        [[1.0] * 6, [None] * 3],
        [[1.0], [[1.0], [2.0, 3.0]]],
        {"w": np.full((2, 3), np.inf, np.float32), "b": SMALL["b"]},
    ],
    ids=["float32", "infinity", "integer", "null", "ragged", "mapping"],
)
def test_a_result_that_overflows_is_rejected(world: DjangoWorld, result: Any) -> None:
    """A result that overflows raises UpdateRejected, and the round stays open."""
    model = world.model(1, initial=SMALL)
    update = world.update(model, 1, filled(1.0))
    world.workflow.register_model_updates_for_aggregation([update])
    with pytest.raises(UpdateRejected):
        world.workflow.post_new_model_aggregate(model, None, result)
    assert running_round(model).external
    assert world.latest(model) is None
