"""What a round keeps of its model: the default cap of examples, and the secret seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.core.management import call_command

from aggregation.round import Claim, run_round
from connectors import application
from connectors.rounds.ledger import RoundLedger
from connectors.usecases.verify import verify
from models_app.models import ModelAggregate
from tests.factories import filled, get, make_model, ready_update

pytestmark = pytest.mark.usefixtures("database", "cloud")


def aggregate(
    values: Sequence[float], counts: Sequence[int], **fields: Any
) -> tuple[float, ModelAggregate]:
    """Run a round in which client k sends ``values[k]`` everywhere; return the value of the result."""
    model = make_model(len(values), initial=filled(0.0), **fields)
    for client, (value, count) in enumerate(zip(values, counts, strict=True), 1):
        ready_update(model, client, filled(value), num_examples=count)
    answer = run_round(application.round_connector(), model.pk)
    assert answer.aggregate_id is not None
    made = ModelAggregate.objects.get(pk=answer.aggregate_id)
    tensors = safetensors.numpy.load(get(str(made.result.name)))
    (value,) = {float(each) for tensor in tensors.values() for each in np.ravel(tensor)}
    return value, made


@pytest.mark.parametrize(
    ("rule", "arguments"), [("norm_clipped_mean", {"max_norm": 3.0}), ("norm_filtered_mean", {})]
)
def test_two_large_claims_do_not_take_over_a_robust_rule(
    rule: str, arguments: dict[str, Any]
) -> None:
    """Two of nine clients claim 10^9 examples for the opposite step; the result follows the others."""
    value, made = aggregate(
        [1.0] * 7 + [-1.0] * 2,
        [80, 90, 100, 110, 120, 100, 100, 10**9, 10**9],
        aggregator=rule,
        aggregator_args=arguments,
    )
    assert value > 0.5
    assert made.round.config_snapshot["max_num_examples"] == 100
    verify(application.weights(), made, application.round_resources())


def test_a_mean_counts_at_most_ten_times_the_median() -> None:
    """Example counts are capped at ten times their median."""
    value, _ = aggregate([0.0, 1.0, 1.0], [10, 30, 60])
    assert value == pytest.approx(0.9)
    value, made = aggregate([0.0, 0.0, 1.0], [10, 10, 10**9])
    assert made.round.config_snapshot["max_num_examples"] == 100
    assert value == pytest.approx(100 / 120)


def test_a_cap_of_the_model_replaces_the_default() -> None:
    """`max_num_examples` of the model replaces the default cap, even if it is larger."""
    value, made = aggregate([0.0, 0.0, 1.0], [10, 10, 980], max_num_examples=10_000)
    assert made.round.config_snapshot["max_num_examples"] == 10_000
    assert value == pytest.approx(0.98)


def test_buckets_follow_from_a_secret_seed_of_the_round(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each round draws a seed when it claims its updates; with it, the aggregate can be verified. It is in
    no output, and in nothing that clients can read."""
    fields = {"aggregator": "coordinate_median", "pre_aggregation": ["bucketing(s=2)"]}
    value, made = aggregate([0.0, 1.0, 2.0, 3.0, 40.0], [1] * 5, **fields)
    seed = made.round.config_snapshot["seed"]
    assert len(bytes.fromhex(seed)) == 32
    assert made.round.config_snapshot["pre_aggregation"] == ["bucketing(s=2)"]
    assert value in {np.median(means) for means in bucket_means([0.0, 1.0, 2.0, 3.0, 40.0])}
    verify(application.weights(), made, application.round_resources())
    call_command("show_round", made.round.pk, "--json")
    printed = capsys.readouterr()
    assert "bucketing" in printed.out
    assert seed not in printed.out + printed.err + caplog.text
    _, other = aggregate([0.0, 1.0, 2.0, 3.0, 40.0], [1] * 5, **fields)
    assert other.round.config_snapshot["seed"] != seed


def bucket_means(values: Sequence[float]) -> Iterator[list[float]]:
    """Yield the means of all ways to put five values into two buckets of two and one of one."""
    for order in itertools.permutations(values):
        yield [float(np.mean(order[first : first + 2])) for first in (0, 2, 4)]


def test_a_round_without_buckets_has_no_seed() -> None:
    """A seed is drawn only if a step of the rule needs it."""
    fields = {"aggregator": "coordinate_median", "pre_aggregation": ["arc(f=1)", "nnm(f=1)"]}
    value, made = aggregate([1.0, 1.1, 1.2, 50.0], [1] * 4, **fields)
    assert "seed" not in made.round.config_snapshot
    assert value == pytest.approx(1.1, abs=0.11)
    verify(application.weights(), made, application.round_resources())


def test_an_attempt_that_takes_over_has_the_same_seed() -> None:
    """A round that another attempt finishes is mixed as the first attempt mixed it."""
    fields = {"aggregator": "coordinate_median", "pre_aggregation": ["bucketing(s=2)"]}
    model = make_model(4, initial=filled(0.0), **fields)
    for client in range(1, 5):
        ready_update(model, client, filled(float(client)))
    rules = []
    for _ in range(2):
        claim = RoundLedger(lambda: timedelta(seconds=-1)).claim(model.pk)
        assert isinstance(claim, Claim)
        rules.append(claim.rule)
    assert rules[0] == rules[1]


def test_a_rule_that_remembers_gets_the_cosines_of_earlier_rounds() -> None:
    """The sum of each client's recorded cosines is fixed when its next update is claimed: the third
    aggregate can be verified after more updates were recorded."""
    fields = {"aggregator": "history_filter", "aggregator_args": {"f": 1}}
    model = make_model(5, initial=filled(0.0), **fields)
    for step in range(3):
        for client, value in enumerate([1.0, 1.1, 1.2, 1.3, -1.0], 1):
            base = model.aggregates.order_by("-number").first()
            ready_update(model, client, filled(step + value), base_aggregate=base)
        run_round(application.round_connector(), model.pk)
    first, second, third = model.aggregates.order_by("number")
    assert set(first.round.config_snapshot["directions"].values()) == {0.0}
    for aggregate, rounds in ((second, 1), (third, 2)):
        directions = aggregate.round.config_snapshot["directions"]
        for update in aggregate.updates_applied.all():
            earlier = model.model_updates.filter(client=update.client, pk__lt=update.pk)
            cosines = [each.cosine or 0.0 for each in earlier.order_by("-pk")[:rounds]]
            assert directions[str(update.pk)] == pytest.approx(sum(cosines), abs=1e-6)
        verify(application.weights(), aggregate, application.round_resources())
