"""Workflow steps that contradict the state of a model: repeated, overlapping and late calls."""

from __future__ import annotations

from typing import Any

import pytest

from aggregation.errors import Conflict, LeaseLost
from aggregation.round import Claim, RoundAnswer, Status, run_round
from tests.connectors.workflow.backends import DjangoWorld
from tests.connectors.workflow.test_steps import hook, ids, workflow


def posted_round(world: DjangoWorld) -> tuple[Any, list[Any], Any]:
    """Create a model, two updates registered for a round, and its posted aggregate."""
    model = world.model(2)
    updates = [world.update(model, n, [n]) for n in (1, 2)]
    world.workflow.register_model_updates_for_aggregation(updates)
    return model, updates, world.workflow.post_new_model_aggregate(model, None, [1.5])


def test_registering_used_updates_again_changes_nothing(world: DjangoWorld) -> None:
    """Settling is idempotent, in every order of the closing calls."""
    _, updates, aggregate = posted_round(world)
    for _ in range(2):
        world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
        world.workflow.register_model_updates_use_in_aggregation_complete(updates, True)
        assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_an_update_is_used_in_at_most_one_aggregate(world: DjangoWorld) -> None:
    """Updates cannot be used in an aggregate if one of them is in another."""
    model, updates, aggregate = posted_round(world)
    world.workflow.register_model_update_used_in_aggregate(updates[:1], aggregate)
    second = world.workflow.post_new_model_aggregate(model, aggregate, [2])
    with pytest.raises(Conflict, match="another aggregate"):
        world.workflow.register_model_update_used_in_aggregate(updates, second)
    assert world.states(*updates) == [("COMPLETE", 1), ("FAILED", None)]


def test_updates_that_were_left_out_are_ready_again(world: DjangoWorld) -> None:
    """An update that a workflow left out is ready for the next round."""
    model, (used, left_out), aggregate = posted_round(world)
    world.workflow.register_model_update_used_in_aggregate([used], aggregate)
    ready = world.workflow.pull_model_updates_ready_for_aggregation(model, aggregate)
    assert ids(ready) == [left_out.id]
    assert world.states(left_out) == [("FAILED", None)]


@pytest.mark.parametrize("say", ["complete", "failed"])
def test_failed_updates_are_ready_again(world: DjangoWorld, say: str) -> None:
    """Updates reported as failed are FAILED, and the next workflow takes them."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    connector = world.workflow
    connector.register_model_updates_for_aggregation([update])
    if say == "complete":
        connector.register_model_updates_use_in_aggregation_complete([update], False)
    else:
        connector.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("FAILED", None)]
    assert ids(connector.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]
    assert workflow(connector, model.id)
    assert world.states(update) == [("COMPLETE", 1)]


def test_a_pending_update_can_be_reported_as_failed(world: DjangoWorld) -> None:
    """A pending update that is reported as failed stays ready."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    world.workflow.register_model_updates_use_in_aggregation_failed([update])
    assert ids(world.workflow.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]


def test_a_rejected_update_stays_rejected(world: DjangoWorld) -> None:
    """An INVALID update does not become ready when a workflow fails."""
    model = world.model(1)
    update = world.update(model, 1, [1], status=4)
    world.workflow.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("INVALID", None)]


def test_updates_in_no_aggregate_cannot_be_completed(world: DjangoWorld) -> None:
    """Completing updates without an aggregate is refused and changes nothing."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    world.workflow.register_model_updates_for_aggregation([update])
    with pytest.raises(Conflict, match="aggregate"):
        hook(world.workflow, model.id, True)
    assert world.states(update) == [("RUNNING", None)]


def test_updates_in_an_aggregate_cannot_fail(world: DjangoWorld) -> None:
    """Failing updates of an aggregate is refused, since they would count twice."""
    _, updates, aggregate = posted_round(world)
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    with pytest.raises(Conflict, match="aggregate"):
        world.workflow.register_model_updates_use_in_aggregation_failed(updates)
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


# Faults of the original system


def test_updates_of_a_workflow_killed_before_posting_are_ready_again(world: DjangoWorld) -> None:
    """The next workflow takes all updates of a killed one after the lease has expired."""
    model = world.model(2)
    updates = [world.update(model, 1, [1]), world.update(model, 2, [3])]
    world.workflow.register_model_updates_for_aggregation(updates)
    world.pass_time()
    claim = world.process().claim_round(model.id)
    assert isinstance(claim, Claim)
    assert [each.id for each in claim.updates] == ids(updates)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def taken_from_its_workflow(world: DjangoWorld, initial: Any = None) -> tuple[Any, list[Any]]:
    """Create a model of three clients, and two updates that a late workflow has lost."""
    model = world.model(3, requirement="require_x_updates", requirement_args=[3], initial=initial)
    updates = [world.update(model, n, [[float(n)]]) for n in (1, 2)]
    world.workflow.register_model_updates_for_aggregation(updates)
    world.pass_time()
    answer = world.process().claim_round(model.id)
    assert isinstance(answer, RoundAnswer)
    assert answer.status is Status.WAITING
    assert world.states(*updates) == [("FAILED", None)] * 2
    return model, updates


def test_lost_updates_cannot_be_posted_late(world: DjangoWorld) -> None:
    """A late aggregate is refused, and each update counts once, in the round of the function."""
    model, updates = taken_from_its_workflow(world)
    with pytest.raises(LeaseLost, match="has ended"):
        world.workflow.post_new_model_aggregate(model, None, [[1.5]])
    assert world.workflow.pull_latest_model_aggregate(model) is None
    updates.append(world.update(model, 3, [[6.0]]))
    assert run_round(world.process(), model.id).status is Status.PUBLISHED
    assert world.states(*updates) == [("COMPLETE", 1)] * 3
    assert world.read(world.workflow.pull_latest_model_aggregate(model)) == [[3.0]]


def test_lost_updates_cannot_be_posted_after_a_failed_round(world: DjangoWorld) -> None:
    """A failed round of the function does not return its updates to the late workflow."""
    model, updates = taken_from_its_workflow(world)
    world.update(model, 3, [[6.0]])
    other = world.process()
    claim = other.claim_round(model.id)
    assert isinstance(claim, Claim)
    other.fail_round(claim, RuntimeError("no luck"))
    with pytest.raises(Conflict):
        world.workflow.post_new_model_aggregate(model, None, [[1.5]])
    assert world.states(*updates) == [("FAILED", None)] * 2


def test_lost_updates_can_be_registered_and_posted_again(world: DjangoWorld) -> None:
    """A workflow that registers lost updates again can post, and so can one that never registers."""
    model, updates = taken_from_its_workflow(world)
    world.workflow.register_model_updates_for_aggregation(updates)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [[1.5]])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1)] * 2
    assert world.workflow.post_new_model_aggregate(model, aggregate, [[2.0]]).number == 2


def test_updates_of_a_paused_model_cannot_be_registered(world: DjangoWorld) -> None:
    """No round of a paused model starts, and its updates stay pending."""
    model = world.model(1, allow_aggregation=False)
    update = world.update(model, 1, [1])
    with pytest.raises(Conflict, match="paused"):
        world.workflow.register_model_updates_for_aggregation([update])
    assert world.states(update) == [("PENDING", None)]


def test_updates_of_a_workflow_killed_after_posting_count_once(world: DjangoWorld) -> None:
    """Updates of a posted aggregate do not count again, even if they were not settled."""
    model = world.model(1)
    update = world.update(model, 1, [[9.0]])
    world.workflow.register_model_updates_for_aggregation([update])
    aggregate = world.workflow.post_new_model_aggregate(model, None, [[9.0]])
    world.pass_time()
    connector = world.another_workflow()
    assert run_round(world.process(), model.id).status is Status.WAITING
    assert world.states(update) == [("COMPLETE", 1)]
    assert world.read(connector.pull_latest_model_aggregate(model)) == [[9.0]]
    connector.register_model_update_used_in_aggregate([update], aggregate)


def test_a_workflow_takes_over_from_one_that_died(world: DjangoWorld) -> None:
    """Registering settles the round of a dead workflow."""
    model = world.model(1)
    update = world.update(model, 1, [[9.0]])
    world.workflow.register_model_updates_for_aggregation([update])
    world.pass_time()
    other = world.another_workflow()
    other.register_model_updates_for_aggregation([update])
    aggregate = other.post_new_model_aggregate(model, None, [[9.0]])
    other.register_model_update_used_in_aggregate([update], aggregate)
    assert world.states(update) == [("COMPLETE", 1)]


def test_a_round_creates_one_aggregate(world: DjangoWorld) -> None:
    """A workflow that restarts after posting cannot count the same updates again."""
    model, updates, aggregate = posted_round(world)
    with pytest.raises(Conflict):
        world.another_workflow().post_new_model_aggregate(model, aggregate, [1.5])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_one_of_two_overlapping_workflows_creates_the_aggregate(world: DjangoWorld) -> None:
    """The second workflow gets a conflict, and every client counts exactly once."""
    model = world.model(2)
    updates = [world.update(model, n, [n]) for n in (1, 2)]
    other = world.another_workflow()
    seen = other.pull_model_updates_ready_for_aggregation(model, None)
    world.workflow.register_model_updates_for_aggregation(updates)
    with pytest.raises(Conflict):
        other.register_model_updates_for_aggregation(seen)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    with pytest.raises(Conflict):
        other.register_model_updates_for_aggregation(seen)
    with pytest.raises(Conflict):
        other.post_new_model_aggregate(model, None, [1.5])
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_a_failure_hook_does_not_revoke_an_aggregate(world: DjangoWorld) -> None:
    """Updates of a workflow that fails after posting do not become ready again."""
    model, updates, _ = posted_round(world)
    with pytest.raises(Conflict, match="aggregate"):
        hook(world.workflow, model.id, False)
    world.pass_time()
    assert run_round(world.process(), model.id).status is Status.WAITING
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def own_round(world: DjangoWorld) -> tuple[Any, list[Any]]:
    """Create a model whose updates a round of the function has claimed."""
    model = world.model(2)
    updates = [world.update(model, n, [float(n)]) for n in (1, 2)]
    assert isinstance(world.process().claim_round(model.id), Claim)
    return model, updates


@pytest.mark.parametrize("is_successful", [True, False])
def test_a_hook_does_not_settle_the_updates_of_another_round(
    world: DjangoWorld, is_successful: bool
) -> None:
    """The hook of a workflow does not change the updates of a running round of the function."""
    model, updates = own_round(world)
    with pytest.raises(Conflict):
        hook(world.workflow, model.id, is_successful)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def test_a_workflow_cannot_use_the_updates_of_another_round(world: DjangoWorld) -> None:
    """Updates of a running round of the function cannot be registered in another aggregate."""
    model = world.model(2)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    updates = [world.update(model, n, [float(n)]) for n in (1, 2)]
    world.process().claim_round(model.id)
    with pytest.raises(Conflict):
        world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def test_a_workflow_cannot_register_or_post_while_another_round_runs(
    world: DjangoWorld,
) -> None:
    """While a round runs, no workflow can register updates or post an aggregate."""
    model, updates = own_round(world)
    with pytest.raises(Conflict):
        world.workflow.register_model_updates_for_aggregation(updates)
    with pytest.raises(Conflict):
        world.workflow.post_new_model_aggregate(model, None, [1.0])
    assert world.workflow.pull_latest_model_aggregate(model) is None


def test_a_workflow_that_wakes_up_late_changes_nothing(world: DjangoWorld) -> None:
    """The result of a late workflow is refused after a round of the function took its updates."""
    model = world.model(1)
    update = world.update(model, 1, [9.0])
    world.workflow.register_model_updates_for_aggregation([update])
    world.pass_time()
    other = world.process()
    answer = run_round(other, model.id)
    assert answer.status is Status.PUBLISHED
    with pytest.raises(Conflict):
        world.workflow.post_new_model_aggregate(model, None, [9.0])
    with pytest.raises(Conflict, match="aggregate"):
        world.workflow.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("COMPLETE", 1)]
