"""A round from claim to settled updates, on the in-memory twin of the connector."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from aggregation.engine import Resources
from aggregation.errors import AggregationError, RuleError, TemporarilyUnavailable
from aggregation.round import Claim, RoundAnswer, Status, run_round
from tests.connectors.workflow.backends import TwinWorld, as_npz
from tests.factories import SMALL, filled

#: Bytes of a part of a result, so small that a small model has several.
PART_BYTES = 64

#: A model of nine parts.
MODEL = {"w": np.zeros((10, 12), np.float32), "b": np.zeros(24, np.float32)}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregation.engine.ranges.PART_BYTES", PART_BYTES)


@pytest.fixture
def world() -> TwinWorld:
    return TwinWorld()


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Watched:
    """A connector, and the sinks it gives, whose calls are counted and may be disturbed.

    Parameters
    ----------
    inner
    disturb : callable
        Told the name of each call before it is made, and how many there have been.
    """

    def __init__(
        self, inner: Any, disturb: Callable[[str, int], None] = lambda *call: None
    ) -> None:
        self._inner = inner
        self._disturb = disturb
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self._disturb(name, len(self.calls))
            result = attribute(*args, **kwargs)
            if name != "new_result":
                return result
            sink = Watched(result, self._disturb)
            sink.calls = self.calls
            return sink

        return call


def values(seed: int, expected_layout: Any = None) -> dict[str, Any]:
    """A client's tensors, no two values of which are equal."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=tensor.shape).astype(tensor.dtype)
        for name, tensor in (expected_layout or MODEL).items()
    }


def bad(seed: int, *places: tuple[str, Any, float]) -> dict[str, Any]:
    """The same with something in it that is not finite."""
    tensors = values(seed)
    for name, place, value in places:
        tensors[name][place] = value
    return tensors


def ready_model(world: TwinWorld, clients: int = 3, **fields: Any) -> tuple[Any, list[Any]]:
    """A model, and an update of each of its clients."""
    model = world.model(clients, initial=MODEL, **fields)
    updates = [world.update(model, n, values(n), num_examples=n) for n in range(1, clients + 1)]
    return model, updates


def end_state(world: TwinWorld, model: Any, updates: list[Any]) -> Any:
    """What comes of a round, for everybody to see."""
    return (
        [world.bytes_of(aggregate) for aggregate in model.aggregates],
        world.states(*updates),
        [update.rejection_reason for update in updates],
    )


def unfinished(world: TwinWorld) -> list[str]:
    return list(world.connector.storage.unfinished)


# The story


def test_a_round_is_told_in_order(world: TwinWorld) -> None:
    """Claim, read, combine, publish: each once, and parts are kept on the way."""
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


def test_the_aggregate_is_what_the_rule_makes_of_the_updates(world: TwinWorld) -> None:
    """The mean, weighted by examples, in the model's format and dtype, to the last bit."""
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
    """What the connector answers instead of a claim is the answer, and nothing else is asked of it."""
    model = world.model(1, **fields)
    connector = Watched(world.connector)
    told: list[Claim] = []
    assert run_round(connector, model.id, on_claim=told.append).status is status
    assert (connector.calls, told) == (["claim_round"], [])


def test_differences_are_added_to_the_model(world: TwinWorld) -> None:
    """Where clients send differences, the result is the model they started from, moved by their mean."""
    model = world.model(2, initial=filled(10.0), update_kind="differences")
    for client, value in ((1, 1.0), (2, 2.0)):
        world.update(model, client, filled(value))
    run_round(world.connector, model.id)
    np.testing.assert_array_equal(world.read(model.latest)["w"], filled(11.5)["w"])


def test_the_metadata_of_a_model_stays(world: TwinWorld) -> None:
    """What a library keeps in a safetensors header is in every aggregate, too."""
    model = world.model(1, initial=SMALL)
    world.connector.storage.bodies[model.initial] = safetensors.numpy.save(
        SMALL, metadata={"format": "pt"}
    )
    world.update(model, 1, filled(1.0))
    run_round(world.connector, model.id)
    header = world.bytes_of(model.latest)
    assert b'"__metadata__":{"format":"pt"}' in header


# Bad updates


def test_bad_updates_are_left_out_and_the_work_begins_anew_once(world: TwinWorld) -> None:
    """However many are bad, and wherever, one more pass is all that it costs; each is told where."""
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


def test_what_cannot_be_opened_costs_nothing(world: TwinWorld) -> None:
    """Files that are broken, gone or laid out otherwise are left out before the work begins."""
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
def test_the_requirement_is_met_by_usable_updates(world: TwinWorld, spoil: Any) -> None:
    """Three uploads of which one is bad are no quorum of three: nothing is published, the others wait,
    and the client of the bad one has its reason."""
    model, updates = ready_model(world, 2, requirement="require_x_updates", requirement_args=[3])
    model.clients.append(world.model(3).clients[2])
    updates.append(world.update(model, 3, spoil))
    answer = run_round(world.connector, model.id)
    assert (answer.status, answer.updates_rejected) == (Status.REJECTED, 1)
    assert "2 of 3 clients ready" in answer.reason
    assert world.states(*updates) == [("PENDING", None)] * 2 + [("INVALID", None)]
    assert (model.aggregates, unfinished(world)) == ([], [])
    assert run_round(world.connector, model.id).status is Status.WAITING


def test_a_rule_left_with_too_few_updates_makes_nothing(world: TwinWorld) -> None:
    """What a rule needs is asked again, too, once bad updates have been left out."""
    model, updates = ready_model(world, 4, aggregator="krum", aggregator_args={"f": 1})
    needed = world.connector.claim_round(model.id).rule.min_updates
    world.pass_time()
    for update in updates[needed - 1 :]:
        world.connector.storage.bodies[update.data.name] = b"broken"
    answer = run_round(world.connector, model.id)
    assert answer.status is Status.REJECTED
    assert f"krum needs at least {needed} updates" in answer.reason


# Without a model to compare with


def test_without_a_model_most_clients_decide(world: TwinWorld) -> None:
    """One who sends something else, be it the first, is told in what it differs from the others."""
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
    """JSON of the same numbered layers is averaged with safetensors, whichever client it is from."""
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


def test_text_alone_is_text(world: TwinWorld) -> None:
    """Clients that all send JSON have a JSON model, in the precision of JSON."""
    model = world.model(2)
    world.update(model, 1, [[[0.1, 0.2]], [0.3], 7])
    world.update(model, 2, [[[0.3, 0.4]], [0.5], 8])
    run_round(world.connector, model.id)
    assert world.read(model.latest) == [[[0.2, (0.2 + 0.4) / 2]], [0.4], 7.5]


def test_a_model_of_npz_is_npz(world: TwinWorld) -> None:
    """The format of the updates is the format of the model."""
    model = world.model(1)
    world.update(model, 1, as_npz(filled(1.0)), "npz")
    run_round(world.connector, model.id)
    np.testing.assert_array_equal(world.read(model.latest)["b"], filled(1.0)["b"])


# Interrupted


def small_steps(chunks: int) -> dict[str, Any]:
    """Arguments of a round that has time for so many chunks."""
    asked = itertools.count(1)
    return {"out_of_time": lambda: next(asked) >= chunks, "resources": Resources(readers=1)}


@pytest.mark.parametrize("chunks", [1, 2, 5, 7])
@pytest.mark.parametrize(("rule", "arguments"), [("weighted_mean", {}), ("krum", {"f": 1})])
def test_a_round_that_is_suspended_ends_with_the_same_bytes(
    world: TwinWorld, chunks: int, rule: str, arguments: Any
) -> None:
    """Cut after any number of chunks, again and again, the aggregate is that of one go."""
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
def test_bad_updates_do_not_keep_a_long_round_from_its_end(
    world: TwinWorld, rule: str, arguments: Any
) -> None:
    """Where no attempt has time for more than a chunk, what is found bad is kept from one to the next, and
    the aggregate is that of the others."""
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


def test_killed_before_any_call_it_ends_as_if_undisturbed(world: TwinWorld) -> None:
    """Whatever an attempt was about to do when it died, the next one ends with the same aggregate, and
    every update is settled once."""

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

        def kill(name: str, count: int, moment: int = moment) -> None:
            if count >= moment:
                raise Killed

        with pytest.raises(Killed):
            run_round(Watched(world.connector, kill), model.id)
        world.pass_time()
        assert run_round(world.connector, model.id).status is Status.PUBLISHED
        assert end_state(world, model, updates) == undisturbed, f"killed before call {moment}"


def test_lost_progress_is_done_again(world: TwinWorld) -> None:
    """Where the unfinished result has gone, the work begins anew, and ends with the same bytes."""
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


def test_an_update_that_goes_while_a_round_is_suspended_is_in_no_part_of_it(
    world: TwinWorld,
) -> None:
    """What was stored with an update that can no longer be read is thrown away: an aggregate is made of
    the same updates from its first element to its last."""
    model, updates = ready_model(world)
    run_round(world.connector, model.id, **small_steps(5))
    del world.connector.storage.bodies[updates[0].data.name]
    answer = run_round(world.connector, model.id)
    assert (answer.updates_used, answer.updates_rejected) == (2, 1)
    without, _ = ready_model(world)
    del world.connector.storage.bodies[without.updates[0].data.name]
    run_round(world.connector, without.id)
    assert world.bytes_of(model.latest) == world.bytes_of(without.latest)


def test_what_was_rejected_stays_rejected(world: TwinWorld) -> None:
    """An attempt that goes on takes over which updates were bad, with the reasons, and does not read
    them again."""
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


def test_one_that_comes_late_changes_nothing_and_says_so(world: TwinWorld) -> None:
    """While an attempt slept its round was taken over and published: it is told that it has lost."""
    model, updates = ready_model(world)

    def sleep() -> bool:
        if not model.aggregates:
            world.pass_time()
            assert run_round(world.process(), model.id).status is Status.PUBLISHED
        return False

    answer = run_round(world.connector, model.id, out_of_time=sleep)
    assert (answer.status, answer.round, answer.continues) == (Status.BUSY, 1, False)
    assert "no longer holds" in answer.reason
    assert len(model.aggregates) == 1
    assert world.states(*updates) == [("COMPLETE", 1)] * 3


def test_one_that_is_late_and_out_of_time_does_not_ask_to_be_continued(world: TwinWorld) -> None:
    """Who has lost the round has nothing to suspend."""
    model, _ = ready_model(world)

    def sleep() -> bool:
        world.pass_time()
        world.process().claim_round(model.id)
        return True

    answer = run_round(world.connector, model.id, out_of_time=sleep)
    assert (answer.status, answer.continues) == (Status.BUSY, False)


# Failures


def test_an_error_gives_the_updates_back(world: TwinWorld) -> None:
    """The round is closed as failed, what was stored of it is gone, and the error is raised."""
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
def test_what_passes_keeps_the_round(world: TwinWorld, name: str) -> None:
    """Storage or a database that is away ends the attempt, not the round: it is gone on with at once,
    with the same updates."""
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


def test_what_was_stored_when_storage_went_away_is_gone_on_with(world: TwinWorld) -> None:
    """A fault that passes costs the part it struck, and none before it."""
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


def test_a_model_that_cannot_be_read_fails_the_round_and_no_update(world: TwinWorld) -> None:
    """The aggregate to be succeeded is the federation's own: nobody's update is rejected for it."""
    model, updates = ready_model(world)
    model.update_kind = "differences"
    model.initial = None
    with pytest.raises(RuleError, match="give the model an initial artifact"):
        run_round(world.connector, model.id)
    assert world.states(*updates) == [("FAILED", None)] * 3
    assert isinstance(RuleError("x"), AggregationError)


def test_an_error_after_the_round_was_lost_leaves_it_to_its_holder(world: TwinWorld) -> None:
    """An attempt that fails late fails alone: the round is another's by then."""
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


def test_an_error_after_the_round_was_lost_leaves_what_is_stored(world: TwinWorld) -> None:
    """An attempt that fails late does not remove the unfinished result that its successor goes on with:
    none of its parts is stored twice."""
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
