"""Rounds that are suspended, killed, superseded or fail, on the in-memory twin of the connector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aggregation.errors import AggregationError, RuleError, TemporarilyUnavailable
from aggregation.round import Claim, RoundAnswer, Status, run_round
from tests.aggregation.round.observed import (
    MODEL,
    Watched,
    bad,
    end_state,
    publish_after_death,
    ready_model,
    small_steps,
    unfinished,
    values,
)
from tests.connectors.workflow.backends import TwinWorld

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.mark.parametrize("chunks", [1, 2, 5, 7])
@pytest.mark.parametrize(("rule", "arguments"), [("weighted_mean", {}), ("krum", {"f": 1})])
def test_a_suspended_round_ends_with_the_same_bytes(
    world: TwinWorld, chunks: int, rule: str, arguments: Any
) -> None:
    """A round that is suspended after any number of chunks, repeatedly, gives the same aggregate."""
    whole, _ = ready_model(world, 5, aggregator=rule, aggregator_args=arguments)
    run_round(world.connector, whole.id)
    model, updates = ready_model(world, 5, aggregator=rule, aggregator_args=arguments)
    answers = [run_round(world.connector, model.id, **small_steps(chunks + 1))]
    while answers[-1].status is not Status.PUBLISHED:
        assert answers[-1] == RoundAnswer(
            model_id=model.id, status=Status.BUSY, round=1, continues=True
        )
        assert len(answers) < 20
        answers.append(run_round(world.connector, model.id, **small_steps(chunks + 1)))
    assert len(answers) > 1
    assert world.bytes_of(model.latest) == world.bytes_of(whole.latest)
    assert world.states(*updates) == [("COMPLETE", 1)] * 5
    assert unfinished(world) == []


@pytest.mark.parametrize(("rule", "arguments"), [("weighted_mean", {}), ("krum", {"f": 1})])
def test_a_suspended_round_remembers_bad_updates(
    world: TwinWorld, rule: str, arguments: Any
) -> None:
    """If no attempt has time for more than a chunk, bad updates are still found, and the round
    ends."""
    expected, _ = ready_model(world, 5, aggregator=rule, aggregator_args=arguments)
    run_round(world.connector, expected.id)
    model, good = ready_model(world, 5, aggregator=rule, aggregator_args=arguments)
    for client in (6, 7):
        world.join(model, client)
    spoilt = [
        world.update(model, 6, bad(6, ("w", (0, 3), np.nan))),
        world.update(model, 7, bad(7, ("b", 20, np.inf))),
    ]
    answers = [run_round(world.connector, model.id, **small_steps(2))]
    while answers[-1].status is not Status.PUBLISHED:
        assert len(answers) < 40
        assert answers[-1].continues
        answers.append(run_round(world.connector, model.id, **small_steps(2)))
    assert len(answers) > 3
    assert world.bytes_of(model.latest) == world.bytes_of(expected.latest)
    assert world.states(*good, *spoilt) == [("COMPLETE", 1)] * 5 + [("INVALID", None)] * 2
    assert [update.rejection_reason for update in spoilt] == [
        "nan in tensor 'w' at [0, 3]",
        "inf in tensor 'b' at [20]",
    ]


def test_a_round_killed_before_any_call_ends_as_if_undisturbed(world: TwinWorld) -> None:
    """Whenever an attempt dies, the next one ends with the same aggregate and settles each update
    once."""

    def three() -> tuple[Any, list[Any]]:
        model = world.model(3, initial=MODEL, requirement="require_x_updates", requirement_args=[2])
        tensors = (values(1), bad(2, ("b", 20, np.nan)), values(3))
        return model, [world.update(model, n, each) for n, each in enumerate(tensors, 1)]

    model, updates = three()
    connector = Watched(world.connector)
    run_round(connector, model.id)
    undisturbed = end_state(world, model, updates)
    assert undisturbed[1] == [("COMPLETE", 1), ("INVALID", None), ("COMPLETE", 1)]
    for moment in range(1, len(connector.calls) + 1):
        model, updates = three()
        publish_after_death(world, model, moment)
        assert end_state(world, model, updates) == undisturbed, f"killed before call {moment}"


def test_lost_progress_is_done_again(world: TwinWorld) -> None:
    """If the unfinished result was deleted, the work starts again and ends with the same bytes."""
    whole, _ = ready_model(world)
    run_round(world.connector, whole.id)
    model, _ = ready_model(world)
    run_round(world.connector, model.id, **small_steps(5))
    assert len(unfinished(world)) == 1
    world.connector.storage.unfinished.clear()
    connector = Watched(world.connector)
    assert run_round(connector, model.id).status is Status.PUBLISHED
    assert connector.calls.count("new_result") == 2
    assert world.bytes_of(model.latest) == world.bytes_of(whole.latest)


def test_an_update_deleted_while_a_round_is_suspended_is_in_no_part(
    world: TwinWorld,
) -> None:
    """Parts that were computed with an update that is gone are discarded."""
    model, updates = ready_model(world)
    run_round(world.connector, model.id, **small_steps(5))
    del world.connector.storage.bodies[updates[0].data.name]
    answer = run_round(world.connector, model.id)
    assert (answer.updates_used, answer.updates_rejected) == (2, 1)
    without, _ = ready_model(world)
    del world.connector.storage.bodies[without.updates[0].data.name]
    run_round(world.connector, without.id)
    assert world.bytes_of(model.latest) == world.bytes_of(without.latest)


def test_a_resumed_round_keeps_the_rejections(world: TwinWorld) -> None:
    """A resumed round does not read rejected updates again, and keeps their reasons."""
    model = world.model(3, initial=MODEL)
    tensors = (values(1), bad(2, ("w", (0, 0), np.nan)), values(3))
    updates = [world.update(model, n, each) for n, each in enumerate(tensors, 1)]
    run_round(world.connector, model.id, **small_steps(14))
    checkpoint = model.running.checkpoint
    assert checkpoint["rejected"] == {str(updates[1].id): "nan in tensor 'w' at [0, 0]"}
    connector = Watched(world.connector)
    assert run_round(connector, model.id).updates_rejected == 1
    assert connector.calls.count("open_update") == 2
    assert updates[1].rejection_reason == "nan in tensor 'w' at [0, 0]"


def test_a_superseded_attempt_changes_nothing(world: TwinWorld) -> None:
    """An attempt whose round was taken over and published answers that it lost the lease."""
    model, updates = ready_model(world)

    def sleep() -> bool:
        if not model.aggregates:
            world.pass_time()
            other: Any = world.process()
            assert run_round(other, model.id).status is Status.PUBLISHED
        return False

    answer = run_round(world.connector, model.id, out_of_time=sleep)
    assert (answer.status, answer.round, answer.continues) == (Status.BUSY, 1, False)
    assert "no longer holds" in answer.reason
    assert len(model.aggregates) == 1
    assert world.states(*updates) == [("COMPLETE", 1)] * 3


def test_a_superseded_attempt_does_not_suspend_the_round(world: TwinWorld) -> None:
    """An attempt that lost its lease does not ask to be resumed when its time is up."""
    model, _ = ready_model(world)

    def sleep() -> bool:
        world.pass_time()
        world.process().claim_round(model.id)
        return True

    answer = run_round(world.connector, model.id, out_of_time=sleep)
    assert (answer.status, answer.continues) == (Status.BUSY, False)


def test_an_error_makes_the_updates_ready_again(world: TwinWorld) -> None:
    """The round is closed as failed, its stored parts are deleted, and the error is raised."""
    model, updates = ready_model(world)

    def fail(name: str, count: int) -> None:
        if name == "write_part" and count > 12:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_round(Watched(world.connector, fail), model.id)
    assert model.rounds[0].state == "failed"
    assert world.states(*updates) == [("FAILED", None)] * 3
    assert unfinished(world) == []
    assert run_round(world.connector, model.id).status is Status.PUBLISHED


@pytest.mark.parametrize(
    "name", ["open_parent", "open_update", "new_result", "write_part", "complete", "publish_round"]
)
def test_a_transient_fault_keeps_the_round(world: TwinWorld, name: str) -> None:
    """If a service is unavailable, the round is resumed with the same updates."""
    model, updates = ready_model(world)
    away = {name}

    def be_away(called: str, count: int) -> None:
        if called in away:
            raise TemporarilyUnavailable("away")

    with pytest.raises(TemporarilyUnavailable):
        run_round(Watched(world.connector, be_away), model.id)
    assert world.states(*updates) == [("RUNNING", None)] * 3
    away.clear()
    claims: list[Claim] = []
    run_round(world.connector, model.id, on_claim=claims.append)
    assert claims[0].attempt == 2
    assert world.states(*updates) == [("COMPLETE", 1)] * 3
    assert len(model.rounds) == 1


def test_a_transient_fault_keeps_the_stored_parts(world: TwinWorld) -> None:
    """A transient fault costs the part that it interrupted, and no earlier one."""
    model, _ = ready_model(world)

    def be_away(name: str, count: int) -> None:
        if name == "write_part" and count > 20:
            raise TemporarilyUnavailable("away")

    connector = Watched(world.connector, be_away)
    with pytest.raises(TemporarilyUnavailable):
        run_round(connector, model.id)
    written = connector.calls.count("save_checkpoint")
    assert written
    again = Watched(world.connector)
    run_round(again, model.id)
    assert again.calls.count("write_part") == 9 - written


def test_a_missing_parent_fails_the_round_but_no_update(world: TwinWorld) -> None:
    """If the parent is missing, the round fails and no update is rejected."""
    model, updates = ready_model(world)
    model.update_kind = "differences"
    model.initial = None
    with pytest.raises(RuleError, match="give the model an initial artifact"):
        run_round(world.connector, model.id)
    assert world.states(*updates) == [("FAILED", None)] * 3
    assert isinstance(RuleError("x"), AggregationError)


def test_a_failing_superseded_attempt_leaves_the_round(world: TwinWorld) -> None:
    """An attempt that fails after it lost its lease does not close the round."""
    model, updates = ready_model(world)
    holder: list[Any] = []

    def fail_late(name: str, count: int) -> None:
        if name == "publish_round" and not holder:
            world.pass_time()
            holder.append(world.process().claim_round(model.id))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_round(Watched(world.connector, fail_late), model.id)
    assert world.states(*updates) == [("RUNNING", None)] * 3
    assert model.running.attempt == holder[0].attempt == 2


def test_a_failing_superseded_attempt_leaves_the_stored_parts(world: TwinWorld) -> None:
    """An attempt that fails after it lost its lease does not delete parts that its successor uses."""
    model, _ = ready_model(world)

    def fail_late(name: str, count: int) -> None:
        if name == "write_part" and count > 20:
            raise ZeroDivisionError
        if name == "fail_round":
            world.pass_time()
            assert isinstance(world.process().claim_round(model.id), Claim)

    late, successor = Watched(world.connector, fail_late), Watched(world.connector)
    with pytest.raises(ZeroDivisionError):
        run_round(late, model.id)
    written = late.calls.count("save_checkpoint")
    assert written
    assert len(unfinished(world)) == 1
    world.pass_time()
    assert run_round(successor, model.id).status is Status.PUBLISHED
    assert successor.calls.count("write_part") == 9 - written
