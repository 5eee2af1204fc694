"""The mask keeper: what it reveals, how often, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregation.errors import OutOfTime
from aggregation.masks.masking import CACHED, commitment_of
from aggregation.masks.requests import BadRequest, MaskKeys
from mask_keeper import sums
from tests.aggregation.masks.samples import HEADER, client_of
from tests.mask_keeper.conftest import NOW, Bench, message_of, seed_of, sum_of

#: Far apart, so that no two examples of a property have a seed or a round in common.
_SALTS = count(1000, 1000)


def test_the_sum_is_that_of_the_masks_of_exactly_these_updates(bench: Bench) -> None:
    """Clients that dropped out are not part of it."""
    updates = [message_of(number) for number in (0, 2, 5, 6)]
    answer = bench.ask(*updates)
    assert (answer.elements, answer.is_refusal) == (1000, False)
    assert np.array_equal(bench.sum(*updates), sum_of(0, 2, 5, 6))


def test_an_identical_request_has_the_identical_answer(bench: Bench) -> None:
    """A delivery can be repeated at any time, also after the updates have expired."""
    updates = [message_of(number) for number in range(3)]
    first, stored = bench.ask(*updates), bench.sum(*updates).tobytes()
    assert bench.ask(*updates, now=HEADER.expires + 5) == first
    assert bench.sum(*updates).tobytes() == stored


@pytest.mark.parametrize("round", [1, 2])
def test_no_part_of_a_cohort_is_revealed_later(bench: Bench, round: int) -> None:
    """After the sum of four, the sum of three of them is refused: the difference is a single mask."""
    updates = [message_of(number) for number in range(4)]
    assert not bench.ask(*updates).is_refusal
    answer = bench.ask(*updates[:3], round=round)
    assert answer.is_refusal
    assert answer.elements == 0


def test_a_spent_update_is_refused_and_the_others_remain(bench: Bench) -> None:
    """The refusal names the update that was spent; without it, the others have their sum."""
    assert not bench.ask(*(message_of(number) for number in range(3))).is_refusal
    rest = [message_of(number) for number in (3, 4, 5)]
    answer = bench.ask(message_of(0), *rest, round=2)
    assert list(answer.refused) == [0]
    assert "part of another sum" in answer.refused[0]
    assert not bench.ask(*rest, round=2).is_refusal
    assert np.array_equal(bench.sum(*rest, round=2), sum_of(3, 4, 5))


def test_a_commitment_is_spent_under_whatever_id_it_is_sent(bench: Bench) -> None:
    """A seed that was spent is refused although the client signs a new header with another model."""
    assert not bench.ask(*(message_of(number) for number in range(3))).is_refusal
    again = [message_of(number, model=4, base=7) for number in range(3)]
    answer = bench.ask(*again, round=9, model=4)
    assert sorted(answer.refused) == [0, 1, 2]


def test_one_sum_for_each_round(bench: Bench) -> None:
    """Other updates under the id of a round that was answered are refused, and not spent."""
    assert not bench.ask(*(message_of(number) for number in range(3))).is_refusal
    others = [message_of(number) for number in (3, 4, 5)]
    assert "round 1 was requested before" in bench.ask(*others).reason
    assert not bench.ask(*others, round=2).is_refusal


def test_a_cohort_below_the_minimum_is_refused_and_not_spent(bench: Bench) -> None:
    """The minimum is the mask keeper's own, whatever the aggregator's settings are."""
    updates = [message_of(number) for number in range(4)]
    assert "minimum is 4" in bench.ask(*updates[:3], min_cohort=4).reason
    assert not bench.has_sum()
    assert not bench.ask(*updates, min_cohort=4).is_refusal


def test_the_aggregator_cannot_add_clients(bench: Bench) -> None:
    """An update of a client that the mask keeper's operator did not register is refused."""
    answer = bench.ask(*(message_of(number) for number in (0, 1, 77)))
    assert list(answer.refused) == [2]
    assert "not registered" in answer.refused[2]
    assert not bench.has_sum()


def test_a_revoked_client_is_refused(bench: Bench) -> None:
    """After a key was revoked, no sum contains that client's updates."""
    assert bench.table.revoke(client_of(2))
    assert list(bench.ask(*(message_of(number) for number in range(3))).refused) == [2]
    assert not bench.table.revoke(client_of(2))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": 4}, "for model 4"),
        ({"keeper": "ab" * 32}, "another mask keeper"),
        ({"expires": int(NOW)}, "expired"),
        ({"expires": int(NOW) + 32 * 86400}, "31 days"),
        ({"signed_by": 1}, "signature"),
        ({"commitment": commitment_of(b"x" * 32)}, "commits to"),
        ({"elements": 999}, "not that of the others"),
        ({"scale": 1}, "not that of the others"),
    ],
)
def test_what_is_wrong_with_an_update_is_named(
    bench: Bench, fields: dict[str, Any], why: str
) -> None:
    """Only that update is refused, and nothing is spent."""
    good = [message_of(number) for number in range(1, 4)]
    answer = bench.ask(message_of(0, **fields), *good)
    assert list(answer.refused) == [0]
    assert why in answer.refused[0]
    assert not bench.has_sum()
    assert not bench.ask(*good).is_refusal


def test_one_client_cannot_fill_a_cohort(bench: Bench) -> None:
    """The second update of a client is refused: a client counts once towards the minimum."""
    updates = [message_of(0), message_of(0, seed=90), message_of(1)]
    assert list(bench.ask(*updates).refused) == [1]


def test_the_same_seed_twice_is_refused(bench: Bench) -> None:
    """Two clients that collude cannot spend one commitment twice in one sum."""
    updates = [message_of(0), message_of(1, seed=0), message_of(2)]
    assert list(bench.ask(*updates).refused) == [1]


def test_nothing_is_spent_by_a_copied_commitment(bench: Bench) -> None:
    """A client that copies another's commitment and sealed seed is refused before anything is spent."""
    victim = message_of(0)
    copied = replace(
        message_of(1, commitment=commitment_of(seed_of(0)), seed=50), sealed=victim.sealed
    )
    assert list(bench.ask(copied, message_of(2), message_of(3)).refused) == [0]
    assert not bench.ask(victim, message_of(2), message_of(3), round=2).is_refusal


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 9), min_size=3), min_size=1, max_size=4))
def test_each_update_is_part_of_one_sum_at_most(bench: Bench, cohorts: list[set[int]]) -> None:
    """Whatever cohorts are asked for, the cohorts of the sums are disjoint."""
    salt, answered = next(_SALTS), []
    for number, cohort in enumerate(cohorts):
        updates = [message_of(each, seed=salt + each) for each in sorted(cohort)]
        if not bench.ask(*updates, round=salt + number).is_refusal:
            answered.append(cohort)
    assert sum(map(len, answered)) == len(set().union(*answered))
    assert answered


def test_an_interrupted_request_is_answered_or_frees_its_updates(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after some commitments were spent, the same request is answered by the next delivery."""
    monkeypatch.setattr("mask_keeper.table.AT_ONCE", 2)
    updates = [message_of(number) for number in range(5)]
    spend, calls = type(bench.table)._spend_batch, []

    def killed(*arguments: Any) -> set[str]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return spend(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(bench.table), "_spend_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.ask(*updates)
    assert not bench.has_sum()
    # Another request cannot have what the interrupted one holds.
    assert bench.ask(*updates[:3], round=2).is_refusal
    assert not bench.ask(*updates).is_refusal


def test_what_a_refused_request_spent_can_be_spent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is refused half-way does not take its good updates with it."""
    monkeypatch.setattr("mask_keeper.table.AT_ONCE", 2)
    assert not bench.ask(*(message_of(number) for number in (7, 8, 9))).is_refusal
    good = [message_of(number) for number in range(4)]
    assert list(bench.ask(*good, message_of(9), round=2).refused) == [4]
    assert not bench.ask(*good, round=2).is_refusal


def test_a_large_sum_is_continued_after_the_time_was_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of several parts is resumed where it was left, and has the same bytes."""
    monkeypatch.setattr(sums, "PART_BYTES", 5 << 20)
    elements = 2 * sums.part_elements_of(1) + CACHED + 17
    updates = [message_of(number, elements=elements) for number in range(3)]
    key = bench.request(*updates)
    bench.out_of_time += [False, True]
    with pytest.raises(OutOfTime, match="part 2 of 3"):
        bench.answer(key)
    computed: list[int] = []
    compute = sums.sum_of_masks

    def counted(masks: Any, start: int, count: int, pool: Any) -> Any:
        computed.append(start)
        return compute(masks, start, count, pool)

    monkeypatch.setattr(sums, "sum_of_masks", counted)
    assert bench.answer(key).elements == elements
    assert 0 not in computed
    assert np.array_equal(bench.sum(*updates), sum_of(0, 1, 2, elements=elements))
    assert bench.answer(key).elements == elements  # Its upload is gone, and the sum is there.


@pytest.mark.parametrize("key", ["", "masks/3/request.json", "updates/3/x/request.json"])
def test_another_key_is_refused(bench: Bench, key: str) -> None:
    """The keeper reads only objects that are named as requests are."""
    with pytest.raises(BadRequest):
        bench.answer(key)


def test_a_request_that_was_changed_is_refused(bench: Bench) -> None:
    """The key says which bytes a request has."""
    key = bench.request(*(message_of(number) for number in range(3)))
    bench.s3.put_object(Bucket=bench.bucket, Key=key, Body=b"{}")
    with pytest.raises(BadRequest, match="not what its key says"):
        bench.answer(key)
    missing = f"masks/3/{'0' * 64}/request.json"
    with pytest.raises(BadRequest, match="no request"):
        bench.answer(missing)
    assert MaskKeys.of(missing).digest == "0" * 64


def test_the_keeper_imports_no_django() -> None:
    """The function has neither Django nor the aggregator's connectors."""
    import subprocess
    import sys

    program = (
        "import sys, mask_keeper.handler; "
        "print([m for m in sys.modules if m.split('.')[0] in ('django', 'connectors', 'models_app')])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
