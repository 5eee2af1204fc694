"""A round from claim to settled updates, on the in-memory twin of the connector."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from aggregation.round import Claim, RoundAnswer, Status, run_round
from tests.aggregation.round.observed import (
    MODEL,
    Watched,
    bad,
    ready_model,
    unfinished,
    values,
)
from tests.connectors.workflow.backends import TwinWorld, as_npz
from tests.factories import SMALL, filled

pytestmark = pytest.mark.usefixtures("small_parts")


def test_the_steps_of_a_round_come_in_order(world: TwinWorld) -> None:
    """A round claims, reads, combines, saves checkpoints, and publishes once."""
    model, updates = ready_model(world)
    connector = Watched(world.connector)
    claims: list[Claim] = []
    answer = run_round(connector, model.id, on_claim=claims.append)
    steps = [name for name, _ in itertools.groupby(connector.calls)]
    assert steps[:4] == ["claim_round", "open_parent", "open_update", "new_result"]
    assert steps[-2:] == ["complete", "publish_round"]
    assert set(steps[4:-2]) == {"write_part", "state", "save_checkpoint"}
    assert connector.calls.count("open_update") == 3
    assert connector.calls.count("write_part") == 9
    assert connector.calls.count("save_checkpoint") == 8
    assert [update.id for update in claims[0].updates] == [update.id for update in updates]
    assert answer == RoundAnswer(
        model_id=model.id,
        status=Status.PUBLISHED,
        round=1,
        aggregate_id=model.latest.id,
        updates_used=3,
        bytes_read=3 * 144 * 4,
    )


def test_the_aggregate_is_the_result_of_the_rule(world: TwinWorld) -> None:
    """The aggregate is the mean weighted by examples, in the format and the dtype of the model."""
    model, updates = ready_model(world)
    run_round(world.connector, model.id)
    result = world.read(model.latest)
    for name in MODEL:
        rows = [values(n)[name].astype(np.float64) * n for n in (1, 2, 3)]
        expected = ((rows[0] + rows[1] + rows[2]) / 6).astype(np.float32)
        np.testing.assert_array_equal(result[name], expected)
    assert world.states(*updates) == [("COMPLETE", 1)] * 3


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, Status.WAITING),
        ({"allow_aggregation": False}, Status.PAUSED),
    ],
)
def test_a_round_that_does_not_start_reads_nothing(
    world: TwinWorld, fields: Any, status: Status
) -> None:
    """If the connector answers instead of returning a claim, nothing else is called."""
    model = world.model(1, **fields)
    connector = Watched(world.connector)
    claims: list[Claim] = []
    assert run_round(connector, model.id, on_claim=claims.append).status is status
    assert (connector.calls, claims) == (["claim_round"], [])


def test_differences_are_added_to_the_model(world: TwinWorld) -> None:
    """If clients send differences, the result is the parent plus their mean."""
    model = world.model(2, initial=filled(10.0), update_kind="differences")
    for client, value in ((1, 1.0), (2, 2.0)):
        world.update(model, client, filled(value))
    run_round(world.connector, model.id)
    np.testing.assert_array_equal(world.read(model.latest)["w"], filled(11.5)["w"])


def test_the_aggregate_keeps_the_metadata_of_the_model(world: TwinWorld) -> None:
    """The free text in the header of a safetensors model is in every aggregate."""
    model = world.model(1, initial=SMALL)
    world.connector.storage.bodies[model.initial] = safetensors.numpy.save(
        SMALL, metadata={"format": "pt"}
    )
    world.update(model, 1, filled(1.0))
    run_round(world.connector, model.id)
    header = world.bytes_of(model.latest)
    assert b'"__metadata__":{"format":"pt"}' in header


def test_bad_updates_cost_one_more_pass(world: TwinWorld) -> None:
    """However many updates are bad, the work starts again once, and each bad update gets its
    reason."""
    model = world.model(5, initial=MODEL)
    tensors = [
        values(1),
        bad(2, ("b", 23, np.nan)),
        bad(3, ("w", (0, 0), np.inf), ("b", 3, np.nan)),
        values(4),
        bad(5, ("w", (5, 7), -np.inf)),
    ]
    updates = [world.update(model, n, each) for n, each in enumerate(tensors, 1)]
    connector = Watched(world.connector)
    answer = run_round(connector, model.id)
    assert (answer.status, answer.updates_used, answer.updates_rejected) == (Status.PUBLISHED, 2, 3)
    assert connector.calls.count("new_result") == 2
    assert connector.calls.count("abort") == 1
    assert [update.rejection_reason for update in updates] == [
        "",
        "nan in tensor 'b' at [23]",
        "nan in tensor 'b' at [3]",
        "",
        "-inf in tensor 'w' at [5, 7]",
    ]
    assert unfinished(world) == []
    alone = world.model(2, initial=MODEL)
    for n, seed in ((1, 1), (2, 4)):
        world.update(alone, n, values(seed))
    run_round(world.connector, alone.id)
    assert world.bytes_of(model.latest) == world.bytes_of(alone.latest)


def test_updates_that_cannot_be_opened_cost_no_pass(world: TwinWorld) -> None:
    """Broken, missing and differing files are rejected before the work starts."""
    model = world.model(4, initial=MODEL)
    broken = world.update(model, 1, b"broken")
    gone = world.update(model, 2, values(2))
    del world.connector.storage.bodies[gone.data.name]
    other = world.update(model, 3, {"w": MODEL["w"]})
    world.update(model, 4, values(4))
    connector = Watched(world.connector)
    answer = run_round(connector, model.id)
    assert (answer.updates_used, answer.updates_rejected) == (1, 3)
    assert connector.calls.count("new_result") == 1
    assert "header" in broken.rejection_reason
    assert gone.rejection_reason == "the object is not there"
    assert other.rejection_reason == "tensor 'b' (F32 [24]) is missing"


@pytest.mark.parametrize("spoil", [b"broken", {**MODEL, "b": np.full(24, np.nan, np.float32)}])
def test_the_requirement_counts_usable_updates(world: TwinWorld, spoil: Any) -> None:
    """If one of three required updates is bad, nothing is published, and the others stay ready."""
    model, updates = ready_model(world, 2, requirement="require_x_updates", requirement_args=[3])
    model.clients.append(world.model(3).clients[2])
    updates.append(world.update(model, 3, spoil))
    answer = run_round(world.connector, model.id)
    assert (answer.status, answer.updates_rejected) == (Status.REJECTED, 1)
    assert "2 of 3 clients ready" in answer.reason
    assert world.states(*updates) == [("PENDING", None)] * 2 + [("INVALID", None)]
    assert (model.aggregates, unfinished(world)) == ([], [])
    assert run_round(world.connector, model.id).status is Status.WAITING


def test_a_rule_with_too_few_usable_updates_publishes_nothing(world: TwinWorld) -> None:
    """The minimum of the rule is checked again once bad updates are left out."""
    model, updates = ready_model(world, 4, aggregator="krum", aggregator_args={"f": 1})
    needed = world.connector.claim_round(model.id).rule.min_updates
    world.pass_time()
    for update in updates[needed - 1 :]:
        world.connector.storage.bodies[update.data.name] = b"broken"
    answer = run_round(world.connector, model.id)
    assert answer.status is Status.REJECTED
    assert f"krum needs at least {needed} updates" in answer.reason


def test_without_a_model_the_majority_decides_the_layout(world: TwinWorld) -> None:
    """An update that differs from most others is rejected, even if it is the first."""
    model = world.model(3)
    odd = world.update(model, 1, {"w": np.zeros(3, np.float32)})
    for client in (2, 3):
        world.update(model, client, filled(2.0))
    answer = run_round(world.connector, model.id)
    assert (answer.updates_used, answer.updates_rejected) == (2, 1)
    assert odd.rejection_reason == "tensor 'b' (F32 [3]) is missing"
    np.testing.assert_array_equal(world.read(model.latest)["w"], filled(2.0)["w"])


@pytest.mark.parametrize("text_from", [1, 2, 3])
def test_text_among_tensors_takes_their_dtype(world: TwinWorld, text_from: int) -> None:
    """A JSON update takes names and dtypes from the other updates, whichever client sends it."""
    model = world.model(3)
    for client in (1, 2, 3):
        b, w = filled(float(client))["b"], filled(float(client))["w"]
        tensors = {"arr_0": b, "arr_1": w}
        as_layers = [b.tolist(), w.tolist()]
        world.update(model, client, as_layers if client == text_from else tensors)
    assert run_round(world.connector, model.id).updates_used == 3
    assert model.latest.result.name.endswith(".safetensors")
    result = world.read(model.latest)
    assert {name: array.dtype for name, array in result.items()} == {
        "arr_0": np.float32,
        "arr_1": np.float32,
    }
    np.testing.assert_array_equal(result["arr_1"], filled(2.0)["w"])


def test_updates_of_json_make_an_aggregate_of_json(world: TwinWorld) -> None:
    """If all clients send JSON, the aggregate is JSON, in float64."""
    model = world.model(2)
    world.update(model, 1, [[[0.1, 0.2]], [0.3], 7])
    world.update(model, 2, [[[0.3, 0.4]], [0.5], 8])
    run_round(world.connector, model.id)
    assert world.read(model.latest) == [[[0.2, (0.2 + 0.4) / 2]], [0.4], 7.5]


def test_updates_of_npz_make_an_aggregate_of_npz(world: TwinWorld) -> None:
    """The format of the updates is the format of the aggregate."""
    model = world.model(1)
    world.update(model, 1, as_npz(filled(1.0)), "npz")
    run_round(world.connector, model.id)
    np.testing.assert_array_equal(world.read(model.latest)["b"], filled(1.0)["b"])
