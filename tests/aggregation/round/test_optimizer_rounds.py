"""Rounds with a server optimizer, on the in-memory twin of the connector: both objects, or neither."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.engine import Resources
from aggregation.round import Status, run_round
from tests.aggregation.optimizers.oracles import trajectory
from tests.aggregation.round.observed import (
    MODEL,
    Watched,
    bad,
    publish_after_death,
    unfinished,
    values,
)
from tests.connectors.workflow.backends import TwinWorld

pytestmark = pytest.mark.usefixtures("small_parts")


def send(world: TwinWorld, model: Any, number: int) -> None:
    """Add an update of each client, based on the latest aggregate; that of client 2 is bad."""
    for client in (1, 3):
        world.update(model, client, values(10 * number + client), base_aggregate=model.latest)
    spoilt = bad(10 * number + 2, ("b", 20, np.nan))
    world.update(model, 2, spoilt, base_aggregate=model.latest)


def model_with(world: TwinWorld, optimizer: str, rounds: int = 1) -> Any:
    """Return a model that has done some rounds, and has updates for one more."""
    model = world.model(3, initial=MODEL, server_optimizer=optimizer)
    for number in range(rounds):
        send(world, model, number)
        assert run_round(world.connector, model.id).status is Status.PUBLISHED
    send(world, model, rounds)
    return model


def objects_of(world: TwinWorld, model: Any) -> list[bytes]:
    """Return the bytes of all aggregates and of the states of the optimizer."""
    bodies = world.connector.storage.bodies
    names = ((each.result.name, each.optimizer_state) for each in model.aggregates)
    return [bodies[name] for name in itertools.chain(*names) if name]


@pytest.mark.parametrize("optimizer", ["sgd", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_rounds_follow_the_paper(world: TwinWorld, optimizer: str) -> None:
    """Three rounds give the aggregates of the paper's algorithm, in the model's float32."""
    model = model_with(world, optimizer, rounds=2)
    run_round(world.connector, model.id)
    for name, start in MODEL.items():
        results = [
            np.mean(
                [values(10 * number + client)[name] for client in (1, 3)], axis=0, dtype=np.float64
            )
            for number in range(3)
        ]
        expected = trajectory(optimizer, start.astype(np.float64), results, {})
        for aggregate, theirs in zip(model.aggregates, expected, strict=True):
            made = safetensors.numpy.load(world.bytes_of(aggregate))[name]
            np.testing.assert_allclose(made, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam"])
def test_a_round_killed_before_any_call_gives_the_same_objects(
    world: TwinWorld, optimizer: str
) -> None:
    """Whenever an attempt dies, the next one ends with the same aggregate and the same state."""
    model = model_with(world, optimizer)
    connector = Watched(world.connector)
    run_round(connector, model.id)
    undisturbed = objects_of(world, model)
    assert len(undisturbed) == 4
    for moment in range(1, len(connector.calls) + 1):
        model = model_with(world, optimizer)
        publish_after_death(world, model, moment)
        assert objects_of(world, model) == undisturbed, f"killed before call {moment}"


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_a_suspended_round_gives_the_same_objects(world: TwinWorld, chunks: int) -> None:
    """A round that is suspended again and again gives the same aggregate and the same state."""
    whole, model = model_with(world, "fedyogi"), model_with(world, "fedyogi")
    run_round(world.connector, whole.id)
    for attempts in itertools.count(1):
        left = iter([False] * chunks)
        answer = run_round(
            world.connector,
            model.id,
            out_of_time=partial(next, left, True),
            resources=Resources(readers=1),
        )
        if answer.status is Status.PUBLISHED:
            break
        assert answer.continues
        assert attempts < 40
    assert attempts > 1
    assert objects_of(world, model) == objects_of(world, whole)
    assert unfinished(world) == []


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_upload_of_either_object_begins_both_again(world: TwinWorld, lost: int) -> None:
    """If the unfinished aggregate or state was deleted, both are written again."""
    whole, model = model_with(world, "fedadam"), model_with(world, "fedadam")
    run_round(world.connector, whole.id)
    asked = itertools.count()
    run_round(world.connector, model.id, out_of_time=lambda: next(asked) >= 5)
    assert len(unfinished(world)) == 2
    del world.connector.storage.unfinished[unfinished(world)[lost]]
    assert run_round(world.connector, model.id).status is Status.PUBLISHED
    assert objects_of(world, model) == objects_of(world, whole)


def test_a_failed_round_leaves_neither_object(world: TwinWorld) -> None:
    """If the round is closed as failed, the unfinished aggregate and state are deleted."""
    model = model_with(world, "fedadam")

    def fail(name: str, count: int) -> None:
        if name == "publish_round":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_round(Watched(world.connector, fail), model.id)
    assert unfinished(world) == []
    assert len(model.aggregates) == 1


def test_another_optimizer_starts_with_its_initial_state(world: TwinWorld) -> None:
    """If the optimizer was changed since the last aggregate, the state of the other one is not used."""
    model = model_with(world, "fedadam")
    model.server_optimizer = "fedyogi"
    claim = world.connector.claim_round(model.id)
    assert (claim.optimizer.name, claim.optimizer_state) == ("fedyogi", None)


def test_other_arguments_continue_with_the_state(world: TwinWorld) -> None:
    """A change of the learning rate does not discard the state."""
    model = model_with(world, "fedadam")
    model.server_optimizer_args = {"eta": 0.5}
    claim = world.connector.claim_round(model.id)
    assert claim.optimizer_state == model.latest.optimizer_state is not None


def test_an_aggregate_without_a_state_is_followed_by_the_initial_state(world: TwinWorld) -> None:
    """After an aggregate of a workflow, or of a round without an optimizer, the optimizer starts."""
    model = model_with(world, "fedadam")
    model.latest.optimizer_state = None
    claim = world.connector.claim_round(model.id)
    assert claim.optimizer_state is None
    assert run_round(world.connector, model.id).status is Status.BUSY


def test_a_model_without_initial_weights_starts_in_its_second_round(world: TwinWorld) -> None:
    """The first aggregate is the rule's result and has no state; the second one is a step from it."""
    model, plain = (world.model(1, server_optimizer=name) for name in ("fedadam", "none"))
    for number in (1, 2):
        for each in (model, plain):
            world.update(each, 1, values(number), base_aggregate=each.latest)
            assert run_round(world.connector, each.id).status is Status.PUBLISHED
    first, second = model.aggregates
    assert world.bytes_of(first) == world.bytes_of(plain.aggregates[0])
    assert first.optimizer_state is None
    assert second.optimizer_state is not None
    assert world.bytes_of(second) != world.bytes_of(plain.aggregates[1])
