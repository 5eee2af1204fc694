"""Steps of workflows that contradict the state of a model: settling, dying, overlapping, waking up late."""

from __future__ import annotations

from typing import Any

import pytest

from aggregation.errors import Conflict, LeaseLost
from aggregation.round import Claim, RoundAnswer, Status, run_round
from tests.connectors.workflow.backends import DjangoWorld
from tests.connectors.workflow.test_steps import hook, ids, workflow


def posted_round(world: DjangoWorld) -> tuple[Any, list[Any], Any]:
    """A model, two updates registered for a round, and the aggregate it has posted."""
    model = world.model(2)
    updates = [world.update(model, n, [n]) for n in (1, 2)]
    world.workflow.register_model_updates_for_aggregation(updates)
    return model, updates, world.workflow.post_new_model_aggregate(model, None, [1.5])


def test_saying_twice_that_updates_were_used_changes_nothing(world: DjangoWorld) -> None:
    """Settling is idempotent, in whichever order the closing calls come again."""
    _, updates, aggregate = posted_round(world)
    for _ in range(2):
        world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
        world.workflow.register_model_updates_use_in_aggregation_complete(updates, True)
        assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_an_update_is_used_in_one_aggregate(world: DjangoWorld) -> None:
    """An update that is part of an aggregate cannot become part of another, nor can those with it."""
    model, updates, aggregate = posted_round(world)
    world.workflow.register_model_update_used_in_aggregate(updates[:1], aggregate)
    second = world.workflow.post_new_model_aggregate(model, aggregate, [2])
    with pytest.raises(Conflict, match="another aggregate"):
        world.workflow.register_model_update_used_in_aggregate(updates, second)
    assert world.states(*updates) == [("COMPLETE", 1), ("FAILED", None)]


def test_updates_that_were_left_out_are_ready_again(world: DjangoWorld) -> None:
    """A workflow that leaves an update out does not lose it."""
    model, (used, left_out), aggregate = posted_round(world)
    world.workflow.register_model_update_used_in_aggregate([used], aggregate)
    ready = world.workflow.pull_model_updates_ready_for_aggregation(model, aggregate)
    assert ids(ready) == [left_out.id]
    assert world.states(left_out) == [("FAILED", None)]


@pytest.mark.parametrize("say", ["complete", "failed"])
def test_what_failed_is_ready_again(world: DjangoWorld, say: str) -> None:
    """Said to have failed, in either way, updates are FAILED, and the next workflow takes them."""
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


def test_what_was_never_registered_can_be_said_to_have_failed(world: DjangoWorld) -> None:
    """A pending update that is said to have failed is as ready as before."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    world.workflow.register_model_updates_use_in_aggregation_failed([update])
    assert ids(world.workflow.pull_model_updates_ready_for_aggregation(model, None)) == [update.id]


def test_a_rejected_update_stays_rejected(world: DjangoWorld) -> None:
    """What is INVALID does not become ready again because a workflow failed."""
    model = world.model(1)
    update = world.update(model, 1, [1], status=4)
    world.workflow.register_model_updates_use_in_aggregation_failed([update])
    assert world.states(update) == [("INVALID", None)]


def test_updates_in_no_aggregate_are_not_complete(world: DjangoWorld) -> None:
    """Complete without an aggregate would lose the update: refused, and nothing is changed."""
    model = world.model(1)
    update = world.update(model, 1, [1])
    world.workflow.register_model_updates_for_aggregation([update])
    with pytest.raises(Conflict, match="aggregate"):
        hook(world.workflow, model.id, True)
    assert world.states(update) == [("RUNNING", None)]


def test_updates_in_an_aggregate_have_not_failed(world: DjangoWorld) -> None:
    """Failed though in an aggregate would count the update twice: refused, and nothing is changed."""
    _, updates, aggregate = posted_round(world)
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    with pytest.raises(Conflict, match="aggregate"):
        world.workflow.register_model_updates_use_in_aggregation_failed(updates)
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


# What went wrong with the original


def test_killed_before_posting_its_updates_are_ready_again(world: DjangoWorld) -> None:
    """A workflow that died made no aggregate, so that none of its updates is complete: the next one
    takes them all, once its lease is over."""
    model = world.model(2)
    updates = [world.update(model, 1, [1]), world.update(model, 2, [3])]
    world.workflow.register_model_updates_for_aggregation(updates)
    world.pass_time()
    claim = world.process().claim_round(model.id)
    assert isinstance(claim, Claim)
    assert [each.id for each in claim.updates] == ids(updates)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def taken_from_its_workflow(world: DjangoWorld, initial: Any = None) -> tuple[Any, list[Any]]:
    """A model of three clients, and two updates whose workflow was late: they are ready again."""
    model = world.model(3, requirement="require_x_updates", requirement_args=[3], initial=initial)
    updates = [world.update(model, n, [[float(n)]]) for n in (1, 2)]
    world.workflow.register_model_updates_for_aggregation(updates)
    world.pass_time()
    answer = world.process().claim_round(model.id)
    assert isinstance(answer, RoundAnswer)
    assert answer.status is Status.WAITING
    assert world.states(*updates) == [("FAILED", None)] * 2
    return model, updates


def test_what_was_taken_from_a_workflow_is_not_posted_late(world: DjangoWorld) -> None:
    """After its lease a workflow's updates went back, to wait for a third: its aggregate comes too late,
    and each of the three is counted once, in the function's."""
    model, updates = taken_from_its_workflow(world)
    with pytest.raises(LeaseLost, match="has ended"):
        world.workflow.post_new_model_aggregate(model, None, [[1.5]])
    assert world.workflow.pull_latest_model_aggregate(model) is None
    updates.append(world.update(model, 3, [[6.0]]))
    assert run_round(world.process(), model.id).status is Status.PUBLISHED
    assert world.states(*updates) == [("COMPLETE", 1)] * 3
    assert world.read(world.workflow.pull_latest_model_aggregate(model)) == [[3.0]]


def test_what_was_taken_is_not_posted_after_a_round_that_failed(world: DjangoWorld) -> None:
    """A round of the function that took the updates and failed has not given them to the workflow."""
    model, updates = taken_from_its_workflow(world)
    world.update(model, 3, [[6.0]])
    other = world.process()
    claim = other.claim_round(model.id)
    assert isinstance(claim, Claim)
    other.fail_round(claim, RuntimeError("no luck"))
    with pytest.raises(Conflict):
        world.workflow.post_new_model_aggregate(model, None, [[1.5]])
    assert world.states(*updates) == [("FAILED", None)] * 2


def test_what_was_taken_may_be_registered_and_posted_again(world: DjangoWorld) -> None:
    """A workflow that registers its updates anew holds them again, and its aggregate is taken; the next
    may be posted by one that never registers."""
    model, updates = taken_from_its_workflow(world)
    world.workflow.register_model_updates_for_aggregation(updates)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [[1.5]])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1)] * 2
    assert world.workflow.post_new_model_aggregate(model, aggregate, [[2.0]]).number == 2


def test_a_paused_model_is_not_registered_for(world: DjangoWorld) -> None:
    """No round of a paused model starts, by hand or otherwise; its updates stay as they are."""
    model = world.model(1, allow_aggregation=False)
    update = world.update(model, 1, [1])
    with pytest.raises(Conflict, match="paused"):
        world.workflow.register_model_updates_for_aggregation([update])
    assert world.states(update) == [("PENDING", None)]


def test_killed_after_posting_its_updates_are_counted_once(world: DjangoWorld) -> None:
    """An aggregate that was posted has its updates, though nobody said so: 9.0 stays 9.0."""
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
    """Registering settles what a dead workflow left, too."""
    model = world.model(1)
    update = world.update(model, 1, [[9.0]])
    world.workflow.register_model_updates_for_aggregation([update])
    world.pass_time()
    other = world.another_workflow()
    other.register_model_updates_for_aggregation([update])
    aggregate = other.post_new_model_aggregate(model, None, [[9.0]])
    other.register_model_update_used_in_aggregate([update], aggregate)
    assert world.states(update) == [("COMPLETE", 1)]


def test_a_round_makes_one_aggregate(world: DjangoWorld) -> None:
    """A workflow that begins anew after it has posted cannot count the same updates again."""
    model, updates, aggregate = posted_round(world)
    with pytest.raises(Conflict):
        world.another_workflow().post_new_model_aggregate(model, aggregate, [1.5])
    world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def test_of_two_overlapping_workflows_one_makes_the_aggregate(world: DjangoWorld) -> None:
    """The second is told that another is running; no client is counted twice or dropped."""
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


def test_a_failing_hook_does_not_take_back_an_aggregate(world: DjangoWorld) -> None:
    """A workflow that fails after it has posted has used its updates: they are not ready again."""
    model, updates, _ = posted_round(world)
    with pytest.raises(Conflict, match="aggregate"):
        hook(world.workflow, model.id, False)
    world.pass_time()
    assert run_round(world.process(), model.id).status is Status.WAITING
    assert world.states(*updates) == [("COMPLETE", 1), ("COMPLETE", 1)]


def own_round(world: DjangoWorld) -> tuple[Any, list[Any]]:
    """A model, and its updates, which a round of the function has claimed."""
    model = world.model(2)
    updates = [world.update(model, n, [float(n)]) for n in (1, 2)]
    assert isinstance(world.process().claim_round(model.id), Claim)
    return model, updates


@pytest.mark.parametrize("is_successful", [True, False])
def test_a_hook_does_not_settle_the_updates_of_another_round(
    world: DjangoWorld, is_successful: bool
) -> None:
    """While a round of the function runs, a workflow's hook changes none of its updates."""
    model, updates = own_round(world)
    with pytest.raises(Conflict):
        hook(world.workflow, model.id, is_successful)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def test_a_workflow_does_not_use_the_updates_of_another_round(world: DjangoWorld) -> None:
    """Updates that a round of the function holds cannot be said to be in some other aggregate."""
    model = world.model(2)
    aggregate = world.workflow.post_new_model_aggregate(model, None, [1.5])
    updates = [world.update(model, n, [float(n)]) for n in (1, 2)]
    world.process().claim_round(model.id)
    with pytest.raises(Conflict):
        world.workflow.register_model_update_used_in_aggregate(updates, aggregate)
    assert world.states(*updates) == [("RUNNING", None), ("RUNNING", None)]


def test_a_workflow_neither_registers_nor_posts_while_another_round_runs(
    world: DjangoWorld,
) -> None:
    """The round that runs makes the next aggregate, and no workflow gets in its way."""
    model, updates = own_round(world)
    with pytest.raises(Conflict):
        world.workflow.register_model_updates_for_aggregation(updates)
    with pytest.raises(Conflict):
        world.workflow.post_new_model_aggregate(model, None, [1.0])
    assert world.workflow.pull_latest_model_aggregate(model) is None


def test_a_workflow_that_wakes_up_late_changes_nothing(world: DjangoWorld) -> None:
    """After its lease its updates went to the function's round; what it has computed is refused."""
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
