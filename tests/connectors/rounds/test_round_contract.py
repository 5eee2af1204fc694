"""The contract of `aggregation.round.RoundConnector`, for the Django connector and its in-memory twin.

Steps are called one by one, in the orders in which conflicting attempts call them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aggregation.engine.outcome import Combined
from aggregation.errors import LeaseLost
from aggregation.round import Claim, RoundResult, Status, run_round
from aggregation.rules import Selection
from tests.connectors.workflow.backends import World
from tests.factories import SMALL, filled


def ids(claim: Claim) -> list[int]:
    return [update.id for update in claim.updates]


def result_of(claim: Claim, rejected: dict[int, str] | None = None) -> RoundResult:
    """Return a result that combines the updates of a claim."""
    used = [update for update in ids(claim) if update not in (rejected or {})]
    return RoundResult(
        used=tuple(used),
        rejected=rejected or {},
        location=f"aggregates/{claim.model_id}/{claim.round_id}-{claim.attempt}.json",
        combined=Combined(
            selection=Selection.equal(range(len(used))), norms=[1.0] * len(used), bytes_read=7
        ),
    )


def some_checkpoint(number: int = 1) -> Any:
    return {"rejected": {}, "engine": {"selection": [[], [], 1.0], "norms": None, "number": number}}


# Claiming


def test_a_model_without_ready_updates_waits(world: World) -> None:
    """Without a ready update no round is created."""
    model = world.model(1)
    answer = world.connector.claim_round(model.id)
    assert (answer.status, answer.model_id, answer.round) == (Status.WAITING, model.id, None)


def test_an_unmet_requirement_waits_and_gives_the_reason(world: World) -> None:
    """The answer gives the number of ready clients, and the updates stay pending."""
    model = world.model(3, requirement="all_clients")
    update = world.update(model, 1, [1.0])
    answer = world.connector.claim_round(model.id)
    assert (answer.status, answer.reason) == (
        Status.WAITING,
        "1 of 3 clients ready (all_clients)",
    )
    assert world.states(update) == [("PENDING", None)]


def test_a_paused_model_is_paused(world: World) -> None:
    """A model that does not allow aggregation starts no round, and its updates stay pending."""
    model = world.model(1, allow_aggregation=False)
    update = world.update(model, 1, [1.0])
    assert world.connector.claim_round(model.id).status is Status.PAUSED
    assert world.states(update) == [("PENDING", None)]


def test_a_model_that_does_not_exist_is_an_error(world: World) -> None:
    """A claim for an unknown model raises LookupError."""
    with pytest.raises(LookupError, match="4711"):
        world.connector.claim_round(4711)


def test_a_claim_registers_the_newest_update_of_each_client(world: World) -> None:
    """A claim has the newest update of each client, in client order; older ones become INVALID."""
    model = world.model(2)
    second = world.update(model, 2, [2.0], num_examples=20)
    older = world.update(model, 1, [0.0])
    first = world.update(model, 1, [1.0], num_examples=10)
    claim = world.connector.claim_round(model.id)
    assert ids(claim) == [first.id, second.id]
    assert [update.num_examples for update in claim.updates] == [10, 20]
    assert (claim.number, claim.attempt, claim.parent) == (1, 1, None)
    assert world.states(first, second, older) == [
        ("RUNNING", None),
        ("RUNNING", None),
        ("INVALID", None),
    ]
    assert world.now(older).rejection_reason == f"superseded by update {first.id}"


def test_the_parent_is_the_initial_model_and_then_the_latest_aggregate(world: World) -> None:
    """The claim names the parent: the initial model, and later the latest aggregate."""
    model = world.model(1, initial=SMALL)
    world.update(model, 1, filled(1.0))
    claim = world.connector.claim_round(model.id)
    assert claim.parent.startswith(f"artifacts/{model.id}/initial")
    world.connector.publish_round(claim, result_of(claim))
    world.update(model, 1, filled(1.0))
    assert world.connector.claim_round(model.id).parent == result_of(claim).location


def test_a_request_during_a_running_round_is_busy(world: World) -> None:
    """While a lease is valid no second round starts, and new updates stay pending."""
    model = world.model(2)
    world.update(model, 1, [1.0])
    world.connector.claim_round(model.id)
    late = world.update(model, 2, [2.0])
    answer = world.process().claim_round(model.id)
    assert (answer.status, answer.round) == (Status.BUSY, 1)
    assert world.states(late) == [("PENDING", None)]


def test_an_expired_round_is_taken_over_with_the_same_updates(world: World) -> None:
    """After its lease a round resumes with the claimed updates and the next attempt number."""
    model = world.model(3, requirement="require_fraction", requirement_args=[0.5])
    first, second = (world.update(model, n, [float(n)]) for n in (1, 2))
    claim = world.connector.claim_round(model.id)
    world.update(model, 1, [9.0])
    world.update(model, 3, [9.0])
    world.pass_time()
    taken = world.process().claim_round(model.id)
    assert ids(taken) == [first.id, second.id]
    assert (taken.round_id, taken.number) == (claim.round_id, claim.number)
    assert (claim.attempt, taken.attempt) == (1, 2)
    assert world.process().claim_round(model.id).status is Status.BUSY


def test_members_that_join_later_do_not_change_a_claim(world: World) -> None:
    """A requirement that was met at the claim is also met after a takeover."""
    model = world.model(2, requirement="all_clients")
    for client in (1, 2):
        world.update(model, client, [1.0])
    world.connector.claim_round(model.id)
    world.join(model, 3)
    world.pass_time()
    taken = world.process().claim_round(model.id)
    assert taken.requirement.unmet(taken.readiness) is None
    assert run_round(world.process(), model.id).status is Status.BUSY
    world.pass_time()
    assert run_round(world.process(), model.id).status is Status.PUBLISHED


# Ending


def test_publishing_settles_every_update_of_the_round(world: World) -> None:
    """Publishing creates the aggregate and settles used and rejected updates."""
    model = world.model(2)
    good, bad = (world.update(model, n, [float(n)]) for n in (1, 2))
    claim = world.connector.claim_round(model.id)
    answer = world.connector.publish_round(claim, result_of(claim, {bad.id: "nan"}))
    aggregate = world.latest(model)
    assert (answer.status, answer.round, answer.aggregate_id) == (
        Status.PUBLISHED,
        1,
        aggregate.id,
    )
    assert (answer.updates_used, answer.updates_rejected) == (1, 1)
    assert aggregate.result.name == result_of(claim).location
    assert world.states(good, bad) == [("COMPLETE", 1), ("INVALID", None)]
    assert world.now(bad).rejection_reason == "nan"
    assert world.connector.claim_round(model.id).status is Status.WAITING


@pytest.mark.parametrize(
    ("furthest", "status"), [(1, "INVALID"), (2, "PENDING"), (None, "PENDING")]
)
def test_publishing_makes_older_bases_stale(world: World, furthest: Any, status: str) -> None:
    """Publishing makes updates INVALID whose base aggregate is no longer allowed."""
    model = world.model(2, furthest_base_agg=furthest)
    world.update(model, 1, [1.0])
    claim = world.connector.claim_round(model.id)
    during = world.update(model, 2, [2.0])
    world.connector.publish_round(claim, result_of(claim))
    assert world.states(during) == [(status, None)]
    assert ("older aggregate" in world.now(during).rejection_reason) is (status == "INVALID")


def test_a_rejected_round_frees_its_usable_updates(world: World) -> None:
    """A rejected round makes bad updates INVALID, frees the good ones, and reuses its number."""
    model = world.model(2)
    good, bad = (world.update(model, n, [float(n)]) for n in (1, 2))
    claim = world.connector.claim_round(model.id)
    answer = world.connector.reject_round(claim, {bad.id: "nan"}, "too few")
    assert (answer.status, answer.updates_rejected, answer.reason) == (
        Status.REJECTED,
        1,
        "too few",
    )
    assert world.states(good, bad) == [("PENDING", None), ("INVALID", None)]
    again = world.connector.claim_round(model.id)
    assert (again.number, ids(again)) == (1, [good.id])
    assert again.round_id != claim.round_id


def test_a_failed_round_frees_its_updates(world: World) -> None:
    """The updates of a failed round are FAILED and ready, and the next round has the same number."""
    model = world.model(1)
    update = world.update(model, 1, [1.0])
    claim = world.connector.claim_round(model.id)
    assert world.connector.fail_round(claim, RuntimeError("no luck")) is True
    assert world.states(update) == [("FAILED", None)]
    again = world.connector.claim_round(model.id)
    assert (again.number, again.attempt, ids(again)) == (1, 1, [update.id])


def test_a_suspended_or_released_round_resumes_at_once(world: World) -> None:
    """A suspended or released round has no lease, and the next attempt gets its checkpoint."""
    model = world.model(1)
    world.update(model, 1, [1.0])
    claim = world.connector.claim_round(model.id)
    assert claim.checkpoint is None
    answer = world.connector.suspend_round(claim, some_checkpoint(1))
    assert (answer.status, answer.round, answer.continues) == (Status.BUSY, 1, True)
    second = world.process().claim_round(model.id)
    assert (second.attempt, second.checkpoint) == (2, some_checkpoint(1))
    world.connector.release_round(second, some_checkpoint(2))
    third = world.process().claim_round(model.id)
    assert (third.attempt, third.checkpoint) == (3, some_checkpoint(2))


def test_a_checkpoint_survives_the_attempt_that_made_it(world: World) -> None:
    """After a takeover the new attempt gets the checkpoint of the old one."""
    model = world.model(1)
    world.update(model, 1, [1.0])
    world.connector.save_checkpoint(world.connector.claim_round(model.id), some_checkpoint())
    world.pass_time()
    assert world.process().claim_round(model.id).checkpoint == some_checkpoint()


# Late attempts

LATE: dict[str, Callable[[Any, Claim], Any]] = {
    "publish": lambda connector, claim: connector.publish_round(claim, result_of(claim)),
    "reject": lambda connector, claim: connector.reject_round(claim, {}, "too few"),
    "save": lambda connector, claim: connector.save_checkpoint(claim, some_checkpoint()),
    "suspend": lambda connector, claim: connector.suspend_round(claim, None),
}
QUIETLY_LATE: dict[str, Callable[[Any, Claim], Any]] = {
    "release": lambda connector, claim: connector.release_round(claim, some_checkpoint()),
    "fail": lambda connector, claim: connector.fail_round(claim, RuntimeError("too late")),
}


def taken_over(world: World) -> tuple[Any, Any, Claim, Claim]:
    """A model with one update, and the claims of two attempts at its round, the first of them late."""
    model = world.model(1)
    update = world.update(model, 1, [1.0])
    late = world.connector.claim_round(model.id)
    world.pass_time()
    return model, update, late, world.process().claim_round(model.id)


@pytest.mark.parametrize("act", LATE)
def test_an_attempt_that_was_taken_over_is_refused(world: World, act: str) -> None:
    """An attempt whose lease was taken over changes nothing, and the new one publishes."""
    _, update, late, holder = taken_over(world)
    with pytest.raises(LeaseLost):
        LATE[act](world.connector, late)
    assert world.states(update) == [("RUNNING", None)]
    world.connector.publish_round(holder, result_of(holder))
    assert world.states(update) == [("COMPLETE", 1)]


@pytest.mark.parametrize("act", LATE)
def test_a_late_attempt_after_the_end_is_refused(world: World, act: str) -> None:
    """After another attempt has published, a late attempt creates no second aggregate."""
    model, update, late, holder = taken_over(world)
    world.connector.publish_round(holder, result_of(holder))
    with pytest.raises(LeaseLost):
        LATE[act](world.connector, late)
    assert world.states(update) == [("COMPLETE", 1)]
    assert world.latest(model).number == 1


@pytest.mark.parametrize("act", QUIETLY_LATE)
def test_a_late_failure_or_release_is_ignored(world: World, act: str) -> None:
    """Failing or releasing a round that another attempt holds or has ended changes nothing."""
    model, update, late, holder = taken_over(world)
    QUIETLY_LATE[act](world.connector, late)
    assert world.process().claim_round(model.id).status is Status.BUSY
    assert world.states(update) == [("RUNNING", None)]
    world.connector.publish_round(holder, result_of(holder))
    QUIETLY_LATE[act](world.connector, late)
    assert world.states(update) == [("COMPLETE", 1)]


def test_a_late_failure_returns_false(world: World) -> None:
    """A late failure returns False, so that the stored result is left to the new attempt."""
    _, _, late, holder = taken_over(world)
    assert world.connector.fail_round(late, RuntimeError("too late")) is False
    world.connector.publish_round(holder, result_of(holder))
    assert world.connector.fail_round(late, RuntimeError("too late")) is False


def test_an_attempt_publishes_once(world: World) -> None:
    """A second publication by the same attempt, as after a lost response, is refused."""
    model = world.model(1)
    world.update(model, 1, [1.0])
    claim = world.connector.claim_round(model.id)
    world.connector.publish_round(claim, result_of(claim))
    with pytest.raises(LeaseLost):
        world.connector.publish_round(claim, result_of(claim))
    assert world.latest(model).number == 1


# A whole round


@pytest.mark.parametrize("initial", [None, SMALL])
def test_a_round_publishes_the_weighted_mean(world: World, initial: Any) -> None:
    """Two rounds in a row publish the weighted mean and settle their updates."""
    model = world.model(2, initial=initial, requirement="all_clients")
    for value in (1.0, 2.0):
        updates = [
            world.update(model, 1, filled(value), num_examples=1),
            world.update(model, 2, filled(4 * value), num_examples=2),
        ]
        answer = run_round(world.connector, model.id)
        assert (answer.status, answer.updates_used) == (Status.PUBLISHED, 2)
        aggregate = world.latest(model)
        assert world.states(*updates) == [("COMPLETE", aggregate.number)] * 2
        np.testing.assert_array_equal(world.read(aggregate)["w"], filled(3 * value)["w"])
    assert aggregate.number == 2
