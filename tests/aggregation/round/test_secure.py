"""Rounds of masked updates: exact for any drop-outs, resumed anywhere, and refused without harm."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation.errors import MasksRefused
from aggregation.round import Status
from tests.aggregation.round.observed import small_steps
from tests.aggregation.round.secure_rounds import (
    ELEMENTS,
    aggregate_of,
    assert_same,
    difference_of,
    expected_aggregate,
    finish,
    finish_after_death,
    run,
)
from tests.aggregation.round.secure_twin import SecureTwin
from tests.twin import COMPLETE, FAILED, INVALID, PENDING


@settings(max_examples=30)
@given(
    st.sets(st.integers(1, 12), min_size=2),
    st.lists(st.integers(1, 50), min_size=12, max_size=12),
    st.booleans(),
)
def test_the_aggregate_is_that_of_the_plain_sum_for_any_drop_outs(
    present: set[int], counts: list[int], weighted: bool
) -> None:
    """The aggregate has the bits of the mean of the quantised updates, which numpy adds without masks."""
    twin, max_weight = SecureTwin(), 50 if weighted else 1
    model = twin.secure_model(12, max_weight)
    weights = {n: counts[n - 1] if weighted else 1 for n in sorted(present)}
    for number, weight in weights.items():
        twin.send(model, number, difference_of(number), weight=weight)
    assert finish(twin, model).updates_used == len(present)
    differences = [difference_of(number) for number in weights]
    expected = expected_aggregate(differences, list(weights.values()), max_weight)
    assert_same(aggregate_of(twin, model), expected)


def test_a_thousand_clients_of_which_some_drop_out() -> None:
    """The sum of 937 of 1,000 clients is exact."""
    twin = SecureTwin()
    model = twin.secure_model(1000)
    present = [number for number in range(1, 1001) if number % 16]
    for number in present:
        twin.send(model, number, difference_of(number))
    assert finish(twin, model).updates_used == len(present) == 938
    differences = [difference_of(number) for number in present]
    assert_same(aggregate_of(twin, model), expected_aggregate(differences, [1] * len(present)))


def test_the_keeper_is_asked_after_the_masked_sum_is_complete() -> None:
    """The round is suspended, and an attempt without an answer asks again and reads no update."""
    twin = SecureTwin()
    model = twin.secure_model(3)
    for number in (1, 2, 3):
        twin.send(model, number, difference_of(number))
    answer = run(twin, model.id)
    assert (answer.status, answer.continues) == (Status.BUSY, False)
    (running,) = model.rounds
    assert running.checkpoint is not None
    assert running.checkpoint["masks"]["sum"] in twin.storage.bodies
    for update in model.updates:
        del twin.storage.bodies[update.data.name]
    assert run(twin, model.id).status is Status.BUSY
    assert len(twin.asked) == 2
    assert len(set(twin.asked)) == 1
    twin.answer_requests()
    assert run(twin, model.id).status is Status.PUBLISHED


def test_an_unreachable_keeper_suspends_the_round() -> None:
    """However long it takes, nothing is lost, and the round ends when the keeper is back."""
    twin = SecureTwin()
    model = twin.secure_model(3)
    for number in (1, 2, 3):
        twin.send(model, number, difference_of(number))
    twin.reachable = False
    for _ in range(10):
        answer = run(twin, model.id)
        assert answer.status is Status.BUSY
        assert "not reachable" in answer.reason
    twin.reachable = True
    assert finish(twin, model).status is Status.PUBLISHED


def test_an_update_that_the_keeper_refuses_is_rejected_with_its_reason() -> None:
    """The others are summed again without it."""
    twin = SecureTwin()
    model = twin.secure_model(4)
    updates = [twin.send(model, number, difference_of(number)) for number in (1, 2, 3, 4)]
    del twin.registered[updates[1].client]
    answer = finish(twin, model)
    assert (answer.updates_used, answer.updates_rejected) == (3, 1)
    assert [update.status for update in updates] == [COMPLETE, INVALID, COMPLETE, COMPLETE]
    assert "refused by the mask keeper" in updates[1].rejection_reason
    assert "not registered" in updates[1].rejection_reason
    differences = [difference_of(number) for number in (1, 3, 4)]
    assert_same(aggregate_of(twin, model), expected_aggregate(differences, [1, 1, 1]))


def test_a_changed_update_is_rejected_before_the_keeper_is_asked() -> None:
    """A bit of the masked tensors, of their digests or of the header: the round goes on without it."""
    twin = SecureTwin()
    model = twin.secure_model(5)
    size = len(twin.storage.bodies[twin.send(model, 5, difference_of(5)).data.name])
    model.updates.clear()
    bad = [
        twin.send(model, 1, difference_of(1), change=size - 32 - 4),
        twin.send(model, 2, difference_of(2), change=size - 1),
        twin.send(model, 3, difference_of(3), change=100),
    ]
    for number in (4, 5):
        twin.send(model, number, difference_of(number))
    answer = finish(twin, model)
    assert (answer.updates_used, answer.updates_rejected) == (2, 3)
    assert [update.status for update in bad] == [INVALID] * 3
    differences = [difference_of(number) for number in (4, 5)]
    assert_same(aggregate_of(twin, model), expected_aggregate(differences, [1, 1]))


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"scale": 77}, "scale 77"), ({"model": 99}, "model 99"), ({"keeper": "ab" * 32}, "keeper")],
)
def test_an_update_under_other_terms_is_rejected(fields: dict[str, Any], why: str) -> None:
    """What was masked for another scale, model or keeper cannot be added."""
    twin = SecureTwin()
    model = twin.secure_model(3)
    for number in (1, 2):
        twin.send(model, number, difference_of(number))
    other = twin.send(model, 3, difference_of(3), **fields)
    assert finish(twin, model).updates_used == 2
    assert why in other.rejection_reason


def test_too_few_updates_are_never_unmasked() -> None:
    """If a rejection leaves fewer than min_cohort, the round is closed and the others are ready again."""
    twin = SecureTwin()
    model = twin.secure_model(2)
    good = twin.send(model, 1, difference_of(1))
    twin.send(model, 2, difference_of(2), model=99)
    answer = finish(twin, model)
    assert answer.status is Status.REJECTED
    assert "min_cohort is 2" in answer.reason
    assert good.status == PENDING
    assert twin.asked == []


def test_a_keeper_that_refuses_the_cohort_fails_the_round() -> None:
    """Its own minimum is larger: the error names it, and no update is lost."""
    twin = SecureTwin()
    twin.min_cohort = 4
    model = twin.secure_model(3)
    updates = [twin.send(model, number, difference_of(number)) for number in (1, 2, 3)]
    run(twin, model.id)
    twin.answer_requests()
    with pytest.raises(MasksRefused, match="minimum is 4"):
        run(twin, model.id)
    assert [update.status for update in updates] == [FAILED] * 3


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("optimizer", ["none", "fedadam"])
@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_a_suspended_round_ends_with_the_same_bytes(optimizer: str, chunks: int) -> None:
    """Suspended after any number of chunks, in both passes, a round gives the same aggregate."""
    twin = SecureTwin()
    results = []
    for is_suspended in (False, True):
        model = twin.secure_model(5, server_optimizer=optimizer)
        for number in range(1, 6):
            twin.send(model, number, difference_of(number))
        for _ in range(100):
            steps = small_steps(chunks + 1) if is_suspended else {}
            answer = run(twin, model.id, **steps)
            if answer.status is Status.PUBLISHED:
                break
            twin.answer_requests()
        assert model.latest is not None
        results.append(twin.storage.bodies[model.latest.result.name])
    assert results[0] == results[1]


@pytest.mark.usefixtures("small_parts")
def test_a_round_killed_before_any_call_ends_with_the_same_bytes() -> None:
    """Whenever an attempt dies, the next ones give the same aggregate."""
    expected = expected_aggregate([difference_of(number) for number in (1, 2, 3)], [1, 1, 1])

    def run_killed(moment: int) -> bool:
        twin = SecureTwin()
        model = twin.secure_model(3)
        for number in (1, 2, 3):
            twin.send(model, number, difference_of(number))
        is_killed = finish_after_death(twin, model, moment)
        assert_same(aggregate_of(twin, model), expected)
        assert len(model.aggregates) == 1
        return is_killed

    assert next(moment for moment in count(1) if not run_killed(moment)) > 40


def test_a_lost_masked_sum_is_computed_again() -> None:
    """If the sum is gone when the keeper has answered, the same sum and the same request are made again."""
    twin = SecureTwin()
    model = twin.secure_model(3)
    for number in (1, 2, 3):
        twin.send(model, number, difference_of(number))
    run(twin, model.id)
    twin.answer_requests()
    assert model.rounds[0].checkpoint is not None
    del twin.storage.bodies[model.rounds[0].checkpoint["masks"]["sum"]]
    assert run(twin, model.id).status is Status.PUBLISHED


def test_a_second_round_starts_from_the_first() -> None:
    """Rounds follow each other; an update that was counted is not counted again."""
    twin = SecureTwin()
    model = twin.secure_model(3)
    for number in (1, 2, 3):
        twin.send(model, number, difference_of(number))
    finish(twin, model)
    first = aggregate_of(twin, model)
    for number in (1, 2):
        twin.send(model, number, np.full(ELEMENTS, 0.25, np.float32))
    assert finish(twin, model).updates_used == 2
    second = aggregate_of(twin, model)
    assert np.array_equal(second["w"], first["w"] + np.float32(0.25))
    assert np.array_equal(second["steps"], first["steps"])
